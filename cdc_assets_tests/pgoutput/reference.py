"""pgoutput read slowly: one message, one byte after the other, as Postgres documents the formats.

Nothing is shared with the product's decoder, which is held against it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Values = list[bytes | str]  # a text; else its kind byte: n null, u unchanged
Columns = tuple[tuple[int, bytes, int, int], ...]  # in the key, name, type, typmod


class BadMessageError(Exception):
    """A message that no server writes."""


@dataclass(frozen=True)
class Row:
    """One change: its place among the messages, the columns then announced, and what it carries."""

    message: int
    kind: str
    columns: Columns
    old_mark: str
    old: Values
    new: Values
    transaction: int
    ordinal: int


@dataclass
class Reference:
    """Reads a piece of the stream into rows by relation; `bad` are the messages it can't read."""

    rows: dict[int, list[Row]] = field(default_factory=dict)
    bad: set[int] = field(default_factory=set)
    _shapes: dict[int, tuple[bytes, bytes, str, Columns]] = field(default_factory=dict)
    _transaction: int = -1
    _ordinal: int = 0

    def read(self, messages: list[bytes]) -> None:
        """Read messages, which start outside of a transaction or in the first."""
        if messages and messages[0][:1] != b"B":
            self._transaction = 0
        for at, message in enumerate(messages):
            try:
                self._message(at, _Bytes(message))
            except (BadMessageError, UnicodeDecodeError):
                self.bad.add(at)

    def _message(self, at: int, rest: _Bytes) -> None:
        kind = rest.character()
        if kind not in "BCRIUDTOYMA":
            raise BadMessageError
        if kind == "B":
            self._transaction += 1
            self._ordinal = 0
        elif kind == "R":
            self._relation(rest)
        elif kind == "T":
            self._truncate(at, rest)
        elif kind in "IUD":
            self._row(at, kind, rest)

    def _relation(self, rest: _Bytes) -> None:
        oid = rest.number(4)
        schema, name, identity = rest.string(), rest.string(), rest.character()
        columns = tuple(
            (rest.number(1) & 1, rest.string(), rest.number(4), rest.number(4))
            for _ in range(rest.number(2))
        )
        rest.end()
        if identity not in "dnfi":
            raise BadMessageError
        self._shapes[oid] = (schema, name, identity, columns)

    def _truncate(self, at: int, rest: _Bytes) -> None:
        count = rest.number(4)
        rest.number(1)
        oids = [rest.number(4) for _ in range(min(count, 1000))]
        rest.end()
        for oid in oids:
            columns = self._columns(oid)
            row = Row(at, "T", columns, "", [], [], self._transaction, self._ordinal)
            self.rows.setdefault(oid, []).append(row)
            self._ordinal += 1

    def _row(self, at: int, kind: str, rest: _Bytes) -> None:
        oid = rest.number(4)
        columns = self._columns(oid)
        mark = rest.character()
        if mark not in {"I": "N", "U": "NKO", "D": "KO"}[kind]:
            raise BadMessageError
        old, new = [], []
        if mark in "KO":
            old = rest.values(len(columns))
        if kind == "I" or mark == "N":
            new = rest.values(len(columns))
        elif kind == "U":
            if rest.character() != "N":
                raise BadMessageError
            new = rest.values(len(columns))
        rest.end()
        mark = mark.replace("N", "")
        row = Row(at, kind, columns, mark, old, new, self._transaction, self._ordinal)
        self.rows.setdefault(oid, []).append(row)
        self._ordinal += 1

    def _columns(self, oid: int) -> Columns:
        if oid not in self._shapes:
            raise BadMessageError
        return self._shapes[oid][3]


class _Bytes:
    def __init__(self, message: bytes) -> None:
        self._message, self._at = message, 0

    def take(self, count: int) -> bytes:
        taken = self._message[self._at : self._at + count]
        if len(taken) < count:
            raise BadMessageError
        self._at += count
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def character(self) -> str:
        return chr(self.number(1))

    def string(self) -> bytes:
        end = self._message.find(b"\0", self._at)
        if end < 0:
            raise BadMessageError
        text = self.take(end - self._at)
        text.decode()
        self.take(1)
        return text

    def values(self, columns: int) -> Values:
        if self.number(2) != columns:
            raise BadMessageError
        return [self._value() for _ in range(columns)]

    def _value(self) -> bytes | str:
        kind = self.character()
        if kind == "t":
            return self.take(self.number(4))
        if kind not in "nu":
            raise BadMessageError
        return kind

    def end(self) -> None:
        if self._at != len(self._message):
            raise BadMessageError
