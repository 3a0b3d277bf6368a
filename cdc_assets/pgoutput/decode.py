"""The changes of a piece of the stream, grouped by relation and still undecoded text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from cdc_assets.identifiers import TableName
from cdc_assets.pgoutput.messages import (
    BEGIN,
    DELETE,
    INSERT,
    RELATION,
    TRUNCATE,
    UPDATE,
    Bytes,
    Ints,
    Messages,
)
from cdc_assets.pgoutput.relations import Relation, parse_relation, parse_truncate
from cdc_assets.pgoutput.tuples import Field, expect_within, walk_tuples

_NEW, _KEY, _OLD = ord("N"), ord("K"), ord("O")
_ROW_HEAD_BYTES = 6  # kind, relation 4, mark of the first tuple


@dataclass(frozen=True, slots=True)
class RawChanges:
    """Changes of one relation in stream order, n rows; the text still lies in `messages.buffer`.

    Attributes:
        table: Whose changes they are, for the caller.
        ops: I, U, D or T (truncate, a row without any field).
        transactions: Index of each row's transaction among those with messages in the piece.
        new: A field per column; rows without a new tuple (D, T) have kind 0.
        old: A field per column, for the rows `old_rows` alone.
        old_rows: Rows that carry an old tuple: every D, an U whose key changed or with identity
            full.
        old_is_full: Whether each old tuple is a whole row (O) and not the key alone (K).
        ordinals: Each row's number among all changes of its transaction, whatever their table; from
            0. None where nobody asked for it.
        nbytes: Size of these messages.
    """

    table: TableName
    relation: Relation
    messages: Messages
    ops: Bytes
    transactions: Ints
    new: list[Field]
    old: list[Field]
    old_rows: Ints
    old_is_full: NDArray[np.bool_]
    ordinals: Ints | None
    nbytes: int

    @property
    def has_whole_old_rows(self) -> bool:
        """Whether every update and delete carried its old row, and not its key alone."""
        changed = int(np.isin(self.ops, (UPDATE, DELETE)).sum())
        return len(self.old_rows) == changed and bool(self.old_is_full.all())

    def keep(self, mask: NDArray[np.bool_]) -> RawChanges:
        """Leave out rows."""
        if mask.all():
            return self
        rows, with_old = np.flatnonzero(mask), mask[self.old_rows]
        return replace(
            self,
            ops=self.ops[rows],
            transactions=self.transactions[rows],
            new=[column.at(rows) for column in self.new],
            old=[column.at(np.flatnonzero(with_old)) for column in self.old],
            old_rows=np.searchsorted(rows, self.old_rows[with_old]),
            old_is_full=self.old_is_full[with_old],
            ordinals=None if self.ordinals is None else self.ordinals[rows],
            nbytes=self.nbytes * len(rows) // len(mask),
        )

    def of_columns(self, keep: Sequence[bool]) -> RawChanges:
        """Leave out columns, as if the publication did; `keep` has one entry for each."""
        columns = tuple(compress(self.relation.columns, keep))
        return replace(
            self,
            relation=replace(self.relation, columns=columns),
            new=list(compress(self.new, keep)),
            old=list(compress(self.old, keep)),
        )


@dataclass(slots=True)
class StreamDecoder:
    """Decodes one read of a slot, piece by piece.

    Relations are announced once per read, and a transaction goes on from piece to piece, so one
    decoder belongs to one read and no other.

    Attributes:
        numbered: Whether changes are to have their ordinals.
    """

    numbered: bool = False
    relations: dict[int, Relation] = field(default_factory=dict)
    _passed: int = field(default=0, init=False)
    _since: dict[int, int] = field(default_factory=dict, init=False)  # byte offsets in the piece

    def decode(
        self, messages: Messages, table_of: Callable[[Relation], TableName | None]
    ) -> Iterator[RawChanges]:
        """Group a piece's changes by relation; order is kept within a relation.

        Relations of which `table_of` knows no table are passed over.

        A relation that is announced anew with another shape inside the piece gives one group per
        shape, in order.

        Raises:
            ProtocolError: A message is malformed or its relation was not announced before it.
        """
        transactions = np.cumsum(messages.kinds == BEGIN)
        if len(messages) and messages.kinds[0] == BEGIN:
            transactions -= 1
        ordinals = self._ordinals(messages) if self.numbered else None
        self._since.clear()
        for part, offset in self._split_at_new_shapes(messages):
            rows = slice(offset, offset + len(part))
            numbers = None if ordinals is None else ordinals[rows]
            yield from self._groups(part, transactions[rows], numbers, table_of)

    def _ordinals(self, messages: Messages) -> Ints:
        """Number the changes within their transactions, over the pieces that these are cut into.

        A Truncate message counts once per relation in it; its number is that of the first.
        """
        counts = np.isin(messages.kinds, (INSERT, UPDATE, DELETE)).astype(np.int64)
        for at in np.flatnonzero(messages.kinds == TRUNCATE).tolist():
            offset = int(messages.starts[at])
            counts[at] = len(parse_truncate(_message(messages, at), offset=offset))
        before = self._passed + np.cumsum(counts) - counts
        at_begin = np.where(messages.kinds == BEGIN, before, 0)
        total = self._passed + int(counts.sum())
        start = np.maximum.accumulate(at_begin)
        self._passed = total - (int(start[-1]) if len(start) else 0)
        ordinals: Ints = before - start
        return ordinals

    def _split_at_new_shapes(self, messages: Messages) -> Iterator[tuple[Messages, int]]:
        start = 0
        for at in np.flatnonzero(messages.kinds == RELATION).tolist():
            offset = int(messages.starts[at])
            relation = parse_relation(_message(messages, at), offset=offset)
            known = self.relations.get(relation.oid)
            if known is not None and known != relation:
                yield messages.slice(start, at), start
                start = at
            if known is None:
                self._since[relation.oid] = offset
            self.relations[relation.oid] = relation
        yield messages.slice(start, len(messages)), start

    def _groups(
        self,
        messages: Messages,
        transactions: Ints,
        ordinals: Ints | None,
        table_of: Callable[[Relation], TableName | None],
    ) -> Iterator[RawChanges]:
        is_row = np.isin(messages.kinds, (INSERT, UPDATE, DELETE))
        rows = np.flatnonzero(is_row)
        expect_within(messages, messages.starts[rows] + _ROW_HEAD_BYTES, messages.ends[rows])
        oids = messages.unsigned(messages.starts[rows] + 1, width=4)
        truncated = _truncations(messages)
        for oid in sorted({*np.unique(oids).tolist(), *truncated}):
            chosen = rows[oids == oid]
            if oid in truncated:
                chosen = np.sort(np.concatenate([chosen, list(truncated[oid])]))
            relation = self._relation(oid, messages, first=int(chosen[0]))
            table = table_of(relation)
            if table is None:
                continue
            numbers = None if ordinals is None else ordinals[chosen]
            if numbers is not None:
                for at, place in truncated.get(oid, {}).items():
                    numbers[np.searchsorted(chosen, at)] += place
            changes = _read_changes(table, relation, messages, chosen, transactions[chosen])
            yield replace(changes, ordinals=numbers)

    def _relation(self, oid: int, messages: Messages, *, first: int) -> Relation:
        start, end = int(messages.starts[first]), int(messages.ends[first])
        if oid not in self.relations or start < self._since.get(oid, start):
            raise messages.malformed(f"relation {oid} was not announced", end=end, offset=start)
        return self.relations[oid]


def _message(messages: Messages, index: int) -> bytes:
    return messages.buffer[messages.starts[index] : messages.ends[index]].tobytes()


def _truncations(messages: Messages) -> dict[int, dict[int, int]]:
    """Find by relation in which messages it is truncated, and at which place in each."""
    found: dict[int, dict[int, int]] = {}
    for at in np.flatnonzero(messages.kinds == TRUNCATE).tolist():
        offset = int(messages.starts[at])
        for place, oid in enumerate(parse_truncate(_message(messages, at), offset=offset)):
            found.setdefault(oid, {})[at] = place
    return found


def _read_changes(
    table: TableName, relation: Relation, messages: Messages, rows: Ints, transactions: Ints
) -> RawChanges:
    ops = messages.kinds[rows]
    at = messages.starts[rows] + _ROW_HEAD_BYTES - 1
    ends = messages.ends[rows]
    marks = np.where(ops == TRUNCATE, 0, messages.buffer[at])
    _check_marks(messages, ops, marks, at, ends)
    columns = len(relation.columns)
    old_rows = np.flatnonzero((marks == _KEY) | (marks == _OLD))
    old: list[Field] = []
    if len(old_rows):
        old, behind = walk_tuples(messages, at[old_rows] + 1, ends=ends[old_rows], columns=columns)
        at[old_rows] = behind
    new_rows = np.flatnonzero((ops == INSERT) | (ops == UPDATE))
    if len(after_old := np.intersect1d(old_rows, new_rows, assume_unique=True)):
        _expect_new(messages, at[after_old], ends[after_old])
    new, at[new_rows] = walk_tuples(
        messages, at[new_rows] + 1, ends=ends[new_rows], columns=columns
    )
    _expect_ends(messages, np.where(ops == TRUNCATE, ends, at), ends)
    return RawChanges(
        table=table,
        relation=relation,
        messages=messages,
        ops=ops,
        transactions=transactions,
        new=[column.scattered(new_rows, len(rows)) for column in new],
        old=old,
        old_rows=old_rows,
        old_is_full=marks[old_rows] == _OLD,
        ordinals=None,
        nbytes=int((messages.ends[rows] - messages.starts[rows]).sum()),
    )


def _check_marks(messages: Messages, ops: Bytes, marks: Bytes, at: Ints, ends: Ints) -> None:
    legal = (
        ((ops == INSERT) & (marks == _NEW))
        | ((ops == UPDATE) & np.isin(marks, (_NEW, _KEY, _OLD)))
        | ((ops == DELETE) & np.isin(marks, (_KEY, _OLD)))
        | (ops == TRUNCATE)
    )
    if not legal.all():
        row = int((~legal).argmax())
        reason = f"unexpected tuple mark {chr(marks[row])!r}"
        raise messages.malformed(reason, end=int(ends[row]), offset=int(at[row]))


def _expect_new(messages: Messages, at: Ints, ends: Ints) -> None:
    expect_within(messages, at + 1, ends)
    if (wrong := messages.buffer[at] != _NEW).any():
        row = int(wrong.argmax())
        raise messages.malformed("expected the new tuple", end=int(ends[row]), offset=int(at[row]))


def _expect_ends(messages: Messages, at: Ints, ends: Ints) -> None:
    expect_within(messages, at, ends)
    if (early := at < ends).any():
        row = int(early.argmax())
        left = int(ends[row] - at[row])
        raise messages.malformed(f"{left} bytes too many", end=int(ends[row]), offset=int(at[row]))
