"""Relation and Truncate messages: rare, so they are read one at a time."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cdc_assets.errors import ProtocolError
from cdc_assets.identifiers import TableName

_KEY_FLAG = 1


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A column as the stream announces it."""

    name: str
    type_oid: int
    typmod: int
    in_identity: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table's shape from its Relation message on; valid within one read of the slot."""

    oid: int
    table: TableName
    replica_identity: str  # d, n, f or i as in pg_class.relreplident
    columns: tuple[RelationColumn, ...]


class _Cursor:
    """Reads one message's fields in order and never past its end."""

    def __init__(self, message: bytes, offset: int) -> None:
        self._message, self._offset, self._at = message, offset, 1

    def error(self, what: str) -> ProtocolError:
        kind = chr(self._message[0])
        return ProtocolError(what, kind=kind, offset=self._offset + self._at)

    def unsigned(self, form: str) -> int:
        try:
            (value,) = struct.unpack_from(form, self._message, self._at)
        except struct.error as error:
            raise self.error("truncated") from error
        self._at += struct.calcsize(form)
        return int(value)

    def text(self) -> str:
        end = self._message.find(b"\0", self._at)
        if end < 0:
            raise self.error("unterminated string")
        raw, self._at = self._message[self._at : end], end + 1
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self.error("name is not UTF-8") from error

    def end(self) -> None:
        if self._at != len(self._message):
            raise self.error(f"{len(self._message) - self._at} bytes too many")


def parse_relation(message: bytes, *, offset: int = 0) -> Relation:
    """Read a Relation message.

    Raises:
        ProtocolError: It is not one, whole and without a rest.
    """
    cursor = _Cursor(message, offset)
    oid = cursor.unsigned(">I")
    table = TableName(cursor.text() or "pg_catalog", cursor.text())
    identity = chr(cursor.unsigned(">B"))
    if identity not in "dnfi":
        raise cursor.error(f"unknown replica identity {identity!r}")
    columns = tuple(_column(cursor) for _ in range(cursor.unsigned(">H")))
    cursor.end()
    return Relation(oid, table, identity, columns)


def _column(cursor: _Cursor) -> RelationColumn:
    flags = cursor.unsigned(">B")
    return RelationColumn(
        name=cursor.text(),
        type_oid=cursor.unsigned(">I"),
        typmod=cursor.unsigned(">i"),
        in_identity=bool(flags & _KEY_FLAG),
    )


def parse_truncate(message: bytes, *, offset: int = 0) -> tuple[int, ...]:
    """Read the relation oids of a Truncate message.

    Raises:
        ProtocolError: It is not one, whole and without a rest.
    """
    cursor = _Cursor(message, offset)
    count = cursor.unsigned(">I")
    cursor.unsigned(">B")  # options: CASCADE lists its tables, RESTART IDENTITY has no rows
    if count * 4 > len(message):
        raise cursor.error(f"{count} relations do not fit")
    oids = tuple(cursor.unsigned(">I") for _ in range(count))
    cursor.end()
    return oids
