"""A table's changes with typed columns, in stream order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cdc_assets.changes.shape import TableShape
from cdc_assets.pgoutput.decode import RawChanges
from cdc_assets.pgoutput.messages import DELETE, INSERT, TRUNCATE, UPDATE, Bytes, Ints, Transactions
from cdc_assets.pgoutput.tuples import UNCHANGED, Field
from cdc_assets.pgoutput.values import UnfitValueError, cut_text, decode_field
from cdc_assets.progress import ChangeCounts

Mask = NDArray[np.bool_]


class UnfitColumnError(ValueError):
    """A column holds a value that its type can't; `end_lsn` is its transaction's, if known."""

    def __init__(self, column: str, wanted: str, end_lsn: int | None = None) -> None:
        super().__init__(f"column {column!r}: a value does not fit {wanted}")
        self.column, self.wanted, self.end_lsn = column, wanted, end_lsn


@dataclass(frozen=True, slots=True)
class Record:
    """What a change table keeps of n changes besides what a mirror needs.

    Attributes:
        ordinals: Per row, its number among all changes of its transaction.
        before: Old values of the rows `old_rows`, one array per column; empty where there are no
            such rows. With an old key alone the other columns are null.
    """

    ordinals: Ints
    before: list[pa.Array]

    def slice(self, rows: slice, old: slice) -> Record:
        """Cut out rows."""
        return Record(self.ordinals[rows], [column[old] for column in self.before])

    def keep(self, mask: Mask, old: Mask) -> Record:
        """Leave out rows."""
        chosen = pa.array(old)
        return Record(self.ordinals[mask], [column.filter(chosen) for column in self.before])


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which of n changes leave a row that is kept.

    Attributes:
        kept: Per change with a new row, whether that is to be there.
        unsure: Whether the change did not carry a value that tells it (TOAST); then it is not kept.
    """

    kept: Mask
    unsure: Mask

    def at(self, rows: slice | Mask) -> Chosen:
        """Choose some of the changes."""
        return Chosen(self.kept[rows], self.unsure[rows])


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """n changes of one table.

    Attributes:
        ops: I, U, D or T per row.
        end_lsn: Per row, of its transaction.
        commit_micros: Per row, Unix microseconds.
        columns: New values, one array of n per column; null in D and T rows, and where unchanged.
        unchanged: Per column that has any, which rows did not carry the value (TOAST).
        old_key: Key columns of the rows `old_rows`: every D, and an U that carried an old tuple.
        old_rows: Row numbers, ascending.
        fenced_new: Per row, whether a fence keeps the new key's row as it is.
        fenced_old: Likewise for the old key.
        xids: Per row, of its transaction, 32 bits.
        new_key_text: The new key of rows that lack a value, one text array of n per key column;
            empty where nobody asked for it.
        nbytes: Size of the messages behind it.
        record: For the change table; None where there is none.
        ordinals: Per row, its number among all changes of its transaction; None where they were
            not numbered.
        chosen: Which rows the config wants kept; None: all.
        old_values: Old values of the rows `old_rows`, for columns that shaping reads; by their
            places.
    """

    ops: Bytes
    end_lsn: Ints
    commit_micros: Ints
    columns: list[pa.Array]
    unchanged: dict[int, Mask]
    old_key: list[pa.Array]
    old_rows: Ints
    fenced_new: Mask
    fenced_old: Mask
    xids: Ints
    new_key_text: list[pa.Array]
    nbytes: int
    record: Record | None = None
    ordinals: Ints | None = None
    chosen: Chosen | None = None
    old_values: Mapping[int, pa.Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ops)

    @property
    def counts(self) -> ChangeCounts:
        """Changes per kind, without those that fences keep out."""
        fenced = np.where(self.ops == DELETE, self.fenced_old, self.fenced_new)
        tally = np.bincount(self.ops[~fenced], minlength=256)
        return ChangeCounts(
            inserted=int(tally[INSERT]),
            updated=int(tally[UPDATE]),
            deleted=int(tally[DELETE]),
            truncated=int(tally[TRUNCATE]),
        )

    def slice(self, start: int, stop: int) -> ChangeBatch:
        """Cut out the rows `[start, stop)`."""
        old = slice(*np.searchsorted(self.old_rows, (start, stop)))
        rows = slice(start, stop)
        return replace(
            self,
            ops=self.ops[rows],
            end_lsn=self.end_lsn[rows],
            commit_micros=self.commit_micros[rows],
            columns=[column[rows] for column in self.columns],
            unchanged={at: mask[rows] for at, mask in self.unchanged.items() if mask[rows].any()},
            old_key=[column[old] for column in self.old_key],
            old_rows=self.old_rows[old] - start,
            fenced_new=self.fenced_new[rows],
            fenced_old=self.fenced_old[rows],
            xids=self.xids[rows],
            new_key_text=[texts[rows] for texts in self.new_key_text],
            record=None if self.record is None else self.record.slice(rows, old),
            ordinals=None if self.ordinals is None else self.ordinals[rows],
            chosen=None if self.chosen is None else self.chosen.at(rows),
        )

    def keep(self, mask: Mask) -> ChangeBatch:
        """Leave out rows; without fences."""
        if mask.all():
            return self.unfenced()
        rows, place = pa.array(np.flatnonzero(mask)), np.cumsum(mask) - 1
        old = mask[self.old_rows]
        nothing = np.zeros(int(mask.sum()), dtype=bool)
        return replace(
            self,
            ops=self.ops[mask],
            end_lsn=self.end_lsn[mask],
            commit_micros=self.commit_micros[mask],
            columns=[column.take(rows) for column in self.columns],
            unchanged={
                at: lacks[mask] for at, lacks in self.unchanged.items() if lacks[mask].any()
            },
            old_key=[column.filter(pa.array(old)) for column in self.old_key],
            old_rows=place[self.old_rows[old]],
            fenced_new=nothing,
            fenced_old=nothing,
            xids=self.xids[mask],
            new_key_text=[texts.take(rows) for texts in self.new_key_text],
            record=None if self.record is None else self.record.keep(mask, old),
            ordinals=None if self.ordinals is None else self.ordinals[mask],
            chosen=None if self.chosen is None else self.chosen.at(mask),
        )

    def unfenced(self) -> ChangeBatch:
        """Give the same changes for somewhere where no fence stands."""
        nothing = np.zeros(len(self), dtype=bool)
        return replace(self, fenced_new=nothing, fenced_old=nothing)


def type_changes(
    raw: RawChanges,
    transactions: Transactions,
    shape: TableShape,
    *,
    fenced: tuple[Mask, Mask] | None = None,
    with_key_text: bool = False,
    with_record: bool = False,
    with_old: Collection[int] = (),
) -> ChangeBatch:
    """Decode a relation's changes into typed columns.

    Args:
        raw: The changes; their transactions are indexes into `transactions`.
        transactions: In commit order, end_lsn known.
        shape: The relation's columns, in its order.
        fenced: `fenced_new` and `fenced_old`, if there are fences.
        with_key_text: Whether the keys of rows that lack a value are to be kept as text.
        with_record: Whether a change table wants them; then they are numbered.
        with_old: Columns whose old values shaping reads.

    Raises:
        UnfitColumnError: A value that its column's type can't hold.
    """
    end_lsn = transactions.end_lsn[raw.transactions]
    new = complete_fields(raw)
    names, types = shape.names, shape.types
    nothing = np.zeros(len(raw.ops), dtype=bool)
    fenced_new, fenced_old = fenced or (nothing, nothing)
    wanted = range(len(shape.columns)) if with_record else {*shape.key_indexes, *with_old}
    old = {
        at: _decode(raw, raw.old[at], names[at], types[at], end_lsn[raw.old_rows])
        for at in wanted
        if raw.old
    }
    return ChangeBatch(
        ops=raw.ops,
        end_lsn=end_lsn,
        commit_micros=transactions.commit_micros[raw.transactions],
        columns=[
            _decode(raw, field, names[at], types[at], end_lsn) for at, field in enumerate(new)
        ],
        unchanged={
            at: mask for at, field in enumerate(new) if (mask := field.kinds == UNCHANGED).any()
        },
        old_key=[old[at] for at in shape.key_indexes if raw.old],
        old_rows=raw.old_rows,
        fenced_new=fenced_new,
        fenced_old=fenced_old,
        xids=transactions.xid[raw.transactions],
        new_key_text=_lacking_keys(raw, new, shape) if with_key_text else [],
        nbytes=raw.nbytes,
        record=_record(raw, old) if with_record else None,
        ordinals=raw.ordinals,
        old_values={at: old[at] for at in with_old if raw.old},
    )


def _record(raw: RawChanges, old: dict[int, pa.Array]) -> Record:
    if raw.ordinals is None:
        raise ValueError("changes that are recorded were not numbered")
    return Record(raw.ordinals, list(old.values()))


def lacking(fields: list[Field]) -> Mask:
    """Find the rows that did not carry all of their values."""
    lacks: Mask = np.logical_or.reduce([field.kinds == UNCHANGED for field in fields])
    return lacks


def key_texts(fields: list[Field], shape: TableShape, raw: RawChanges) -> list[pa.Array]:
    """Cut the keys of all rows out of their messages, one text array per key column."""
    buffer = raw.messages.buffer
    chosen = (fields[at] for at in shape.key_indexes if fields)
    return [pc.cast(cut_text(field, buffer), pa.string()) for field in chosen]


def _lacking_keys(raw: RawChanges, new: list[Field], shape: TableShape) -> list[pa.Array]:
    lacks = lacking(new)
    if not lacks.any():
        return [pa.nulls(len(lacks), pa.string())] * len(shape.key)
    wanted = pa.array(lacks)
    return [pc.if_else(wanted, texts, None) for texts in key_texts(new, shape, raw)]


def _decode(
    raw: RawChanges, field: Field, name: str, arrow_type: pa.DataType, end_lsn: Ints
) -> pa.Array:
    try:
        return decode_field(field, raw.messages.buffer, arrow_type)
    except UnfitValueError as error:
        row = _first_unfit(raw, field, arrow_type)
        raise UnfitColumnError(name, error.wanted, int(end_lsn[row])) from error


def _first_unfit(raw: RawChanges, field: Field, arrow_type: pa.DataType) -> int:
    """Find the first row whose value does not fit, by halves."""
    fitting, end = 0, len(field.kinds)  # a value between them does not fit
    while end - fitting > 1:
        middle = (fitting + end) // 2
        half = slice(fitting, middle)
        part = Field(field.kinds[half], field.starts[half], field.lengths[half])
        try:
            decode_field(part, raw.messages.buffer, arrow_type)
            fitting = middle
        except UnfitValueError:
            end = middle
    return fitting


def complete_fields(raw: RawChanges) -> list[Field]:
    """Take what an update did not carry from its old tuple, where that has it.

    A whole old row has everything. An old key has the key, and a key column that is TOASTed comes
    as unchanged in the new tuple (ExtractReplicaIdentity, heapam.c, logs such an old key always).
    What an old row has as null it does not have, as no value that is stored apart is null: it is of
    a partition that logs keys alone, below a table whose identity is full.
    """
    if not len(raw.old_rows):
        return raw.new
    count = len(raw.ops)
    full, any_old = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    full[raw.old_rows], any_old[raw.old_rows] = raw.old_is_full, True
    merged = []
    for at, (new, narrow) in enumerate(zip(raw.new, raw.old, strict=True)):
        in_key = raw.relation.columns[at].in_identity
        take = (new.kinds == UNCHANGED) & (any_old if in_key else full)
        if not take.any():
            merged.append(new)
            continue
        old = narrow.scattered(raw.old_rows, count)
        take &= old.present
        merged.append(
            Field(
                np.where(take, old.kinds, new.kinds),
                np.where(take, old.starts, new.starts),
                np.where(take, old.lengths, new.lengths),
            )
        )
    return merged


def concatenate(batches: Sequence[ChangeBatch]) -> ChangeBatch:
    """Join batches of one table and shape in order."""
    if len(batches) == 1:
        return batches[0]
    starts = np.cumsum([0, *(len(batch) for batch in batches)])
    total = int(starts[-1])
    unchanged = {}
    for at in sorted({at for batch in batches for at in batch.unchanged}):
        mask = np.zeros(total, dtype=bool)
        for start, batch in zip(starts, batches, strict=False):
            if at in batch.unchanged:
                mask[start : start + len(batch)] = batch.unchanged[at]
        unchanged[at] = mask
    with_old = [batch.old_key for batch in batches if batch.old_key]
    return ChangeBatch(
        ops=np.concatenate([batch.ops for batch in batches]),
        end_lsn=np.concatenate([batch.end_lsn for batch in batches]),
        commit_micros=np.concatenate([batch.commit_micros for batch in batches]),
        columns=_join_columns([batch.columns for batch in batches]),
        unchanged=unchanged,
        old_key=_join_columns(with_old),
        old_rows=np.concatenate(
            [batch.old_rows + start for start, batch in zip(starts, batches, strict=False)]
        ),
        fenced_new=np.concatenate([batch.fenced_new for batch in batches]),
        fenced_old=np.concatenate([batch.fenced_old for batch in batches]),
        xids=np.concatenate([batch.xids for batch in batches]),
        new_key_text=_join_columns([batch.new_key_text for batch in batches]),
        nbytes=sum(batch.nbytes for batch in batches),
        record=_join_records([batch.record for batch in batches]),
        ordinals=_join_ordinals([batch.ordinals for batch in batches]),
        chosen=_join_chosen([batch.chosen for batch in batches if batch.chosen is not None]),
    )


def _join_chosen(parts: Sequence[Chosen]) -> Chosen | None:
    if not parts:
        return None
    return Chosen(
        np.concatenate([part.kept for part in parts]),
        np.concatenate([part.unsure for part in parts]),
    )


def _join_ordinals(parts: Sequence[Ints | None]) -> Ints | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _join_records(records: Sequence[Record | None]) -> Record | None:
    known = [record for record in records if record is not None]
    if len(known) < len(records):
        return None
    return Record(
        np.concatenate([record.ordinals for record in known]),
        _join_columns([record.before for record in known if record.before]),
    )


def _join_columns(parts: Sequence[Sequence[pa.Array]]) -> list[pa.Array]:
    return [pa.concat_arrays(arrays) for arrays in zip(*parts, strict=True)]
