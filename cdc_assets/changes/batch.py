"""A table's changes with typed columns, in stream order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cdc_assets.pgoutput.decode import RawChanges
from cdc_assets.pgoutput.messages import DELETE, INSERT, TRUNCATE, UPDATE, Bytes, Ints, Transactions
from cdc_assets.pgoutput.tuples import UNCHANGED, Field
from cdc_assets.pgoutput.values import UnfitValueError, decode_field
from cdc_assets.progress import ChangeCounts

Mask = NDArray[np.bool_]


class UnfitColumnError(ValueError):
    """A column holds a value that its type can't; `row` is a row at or before that value."""

    def __init__(self, column: str, wanted: str, end_lsn: int) -> None:
        super().__init__(f"column {column!r}: a value does not fit {wanted}")
        self.column, self.wanted, self.end_lsn = column, wanted, end_lsn


@dataclass(frozen=True, slots=True)
class TableShape:
    """How a table's columns are decoded: names and Arrow types in the stream's order, and the key.

    Attributes:
        key: Indexes of the columns that identify a row.
    """

    names: tuple[str, ...]
    types: tuple[pa.DataType, ...]
    key: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChangeBatch:
    """n changes of one table.

    Attributes:
        ops: I, U, D or T per row.
        end_lsn: Per row, of its transaction.
        commit_micros: Per row, Unix microseconds.
        xid: Per row, 32 bits.
        columns: New values, one array of n per column; null in D and T rows, and where unchanged.
        unchanged: Per column that has any, which rows did not carry the value (TOAST).
        old_key: Key columns of the rows `old_rows`: every D, and an U that carried an old tuple.
        old_rows: Row numbers, ascending.
        nbytes: Size of the messages behind it.
    """

    ops: Bytes
    end_lsn: Ints
    commit_micros: Ints
    xid: Ints
    columns: list[pa.Array]
    unchanged: dict[int, Mask]
    old_key: list[pa.Array]
    old_rows: Ints
    nbytes: int

    def __len__(self) -> int:
        return len(self.ops)

    @property
    def counts(self) -> ChangeCounts:
        """Changes per kind."""
        tally = np.bincount(self.ops, minlength=256)
        return ChangeCounts(
            inserted=int(tally[INSERT]),
            updated=int(tally[UPDATE]),
            deleted=int(tally[DELETE]),
            truncated=int(tally[TRUNCATE]),
        )

    def after(self, end_lsn: int) -> ChangeBatch:
        """Leave out what ends at or before `end_lsn`."""
        first = int(np.searchsorted(self.end_lsn, end_lsn, side="right"))
        return self.slice(first, len(self)) if first else self

    def slice(self, start: int, stop: int) -> ChangeBatch:
        """Cut out the rows `[start, stop)`."""
        old = slice(*np.searchsorted(self.old_rows, (start, stop)))
        rows = slice(start, stop)
        return replace(
            self,
            ops=self.ops[rows],
            end_lsn=self.end_lsn[rows],
            commit_micros=self.commit_micros[rows],
            xid=self.xid[rows],
            columns=[column[rows] for column in self.columns],
            unchanged={at: mask[rows] for at, mask in self.unchanged.items() if mask[rows].any()},
            old_key=[column[old] for column in self.old_key],
            old_rows=self.old_rows[old] - start,
        )


def type_changes(raw: RawChanges, transactions: Transactions, shape: TableShape) -> ChangeBatch:
    """Decode a relation's changes into typed columns.

    Args:
        raw: The changes; their transactions are indexes into `transactions`.
        transactions: In commit order, end_lsn known.
        shape: The relation's columns, in its order.

    Raises:
        UnfitColumnError: A value that its column's type can't hold.
    """
    end_lsn = transactions.end_lsn[raw.transactions]
    first = int(end_lsn[0]) if len(end_lsn) else 0
    new = _merge_full_old_tuples(raw)
    return ChangeBatch(
        ops=raw.ops,
        end_lsn=end_lsn,
        commit_micros=transactions.commit_micros[raw.transactions],
        xid=transactions.xid[raw.transactions],
        columns=[_decode(raw, field, shape, at, first) for at, field in enumerate(new)],
        unchanged={
            at: mask for at, field in enumerate(new) if (mask := field.kinds == UNCHANGED).any()
        },
        old_key=[_decode(raw, raw.old[at], shape, at, first) for at in shape.key if raw.old],
        old_rows=raw.old_rows,
        nbytes=raw.nbytes,
    )


def _decode(raw: RawChanges, field: Field, shape: TableShape, at: int, first: int) -> pa.Array:
    try:
        return decode_field(field, raw.messages.buffer, shape.types[at])
    except UnfitValueError as error:
        raise UnfitColumnError(shape.names[at], error.wanted, first) from error


def _merge_full_old_tuples(raw: RawChanges) -> list[Field]:
    """Take what an update did not carry from its old tuple, where that is a whole row."""
    if not raw.old_is_full.any():
        return raw.new
    merged = []
    for new, old in zip(raw.new, raw.old, strict=True):
        old = old.scattered(raw.old_rows, len(new.kinds))  # noqa: PLW2901
        full = np.zeros(len(new.kinds), dtype=bool)
        full[raw.old_rows] = raw.old_is_full
        take = full & (new.kinds == UNCHANGED)
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
    with_old = [batch for batch in batches if batch.old_key]
    return ChangeBatch(
        ops=np.concatenate([batch.ops for batch in batches]),
        end_lsn=np.concatenate([batch.end_lsn for batch in batches]),
        commit_micros=np.concatenate([batch.commit_micros for batch in batches]),
        xid=np.concatenate([batch.xid for batch in batches]),
        columns=[
            _join([batch.columns[at] for batch in batches]) for at in range(len(batches[0].columns))
        ],
        unchanged=unchanged,
        old_key=[
            _join([batch.old_key[at] for batch in with_old])
            for at in range(len(with_old[0].old_key))
        ]
        if with_old
        else [],
        old_rows=np.concatenate(
            [batch.old_rows + start for start, batch in zip(starts, batches, strict=False)]
        ),
        nbytes=sum(batch.nbytes for batch in batches),
    )


def _join(arrays: list[pa.Array]) -> pa.Array:
    return pa.concat_arrays(arrays)
