"""The rows that a compacted batch writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import ChangeBatch, Mask
from cdc_assets.changes.compact import NOWHERE, Compacted, Events
from cdc_assets.changes.shape import TableShape
from cdc_assets.pgoutput.messages import Ints

LSN_COLUMN = "_cdc_lsn"
COMMIT_COLUMN = "_cdc_commit_ts"
DELETED_COLUMN = "_cdc_deleted"
_COMMIT_TYPE = pa.timestamp("us", "UTC")
_ADDED_COLUMNS = (
    pa.field(LSN_COLUMN, pa.uint64()),
    pa.field(COMMIT_COLUMN, _COMMIT_TYPE),  # null in rows of a copy: not known
)
_DELETED = pa.field(DELETED_COLUMN, pa.bool_())


def added_columns(shape: TableShape) -> tuple[pa.Field, ...]:
    """Give the columns that a mirror has behind its table's own."""
    return (*_ADDED_COLUMNS, _DELETED) if shape.keeps_deleted else _ADDED_COLUMNS


def with_added(
    columns: Sequence[pa.Array],
    shape: TableShape,
    *,
    end_lsn: Ints,
    commit: pa.Array,
    deleted: Mask | None = None,
) -> pa.Table:
    """Give n rows of a mirror.

    Args:
        columns: The table's own.
        shape: Of which they are.
        end_lsn: Of the transaction that wrote each, or deleted it.
        commit: When that committed; any array of 64 bits.
        deleted: Which of them are deleted; None: none is.
    """
    added = [pa.array(end_lsn.astype(np.uint64)), commit.view(_COMMIT_TYPE)]
    if shape.keeps_deleted:
        none = np.zeros(len(end_lsn), dtype=bool)
        added.append(pa.array(none if deleted is None else deleted))
    names = [*shape.names, *(column.name for column in added_columns(shape))]
    return pa.table([*columns, *added], names)


@dataclass(frozen=True, slots=True)
class Lookup:
    """Rows that take some values from the rows that the mirror has before the batch.

    Attributes:
        rows: The rows to write, null where a value is to be taken.
        keys: Under which key the old row stands: one array per key column.
        wanted: Per column that has any, a boolean array: take this row's value.
        changes: Which change of the batch each row is of.
        deleted: Which rows are gone in the end.
    """

    changes: Ints
    rows: pa.Table
    keys: list[pa.Array]
    wanted: dict[str, pa.Array]
    deleted: Mask


def build_rows(
    batch: ChangeBatch, events: Events, compacted: Compacted, shape: TableShape
) -> tuple[pa.Table, Lookup | None]:
    """Build the rows to write: those that are complete, and those that need the mirror."""
    own, stamps = compacted.rows, compacted.stamps
    sources = np.tile(own, (len(shape.columns), 1)) if compacted.fills else None
    if sources is None:
        return _table(batch, (own, stamps), [own] * len(shape.columns), shape), None
    for fill in compacted.fills:
        sources[fill.column][np.searchsorted(own, fill.rows)] = fill.sources
    needs_mirror = (sources < 0).any(axis=0)
    whole = ~needs_mirror
    complete = _table(batch, (own[whole], stamps[whole]), list(sources[:, whole]), shape)
    if whole.all():
        return complete, None
    chosen, own, stamps = sources[:, needs_mirror], own[needs_mirror], stamps[needs_mirror]
    rows = _table(batch, (own, stamps), list(chosen), shape)
    # what one row lacks was all in one old row, so any column's event gives its key
    at = chosen.min(axis=0)
    nowhere = at == NOWHERE
    event = pa.array(np.where(nowhere, 0, -1 - at), mask=nowhere if nowhere.any() else None)
    wanted = {
        shape.names[fill.column]: pa.array(chosen[fill.column] < 0) for fill in compacted.fills
    }
    keys = [key.take(event) for key in events.keys]
    return complete, Lookup(own, rows, keys, wanted, stamps != own)


def _table(
    batch: ChangeBatch, rows: tuple[Ints, Ints], sources: list[Ints], shape: TableShape
) -> pa.Table:
    """Take each column from its own source rows; a negative source is null.

    Args:
        batch: The changes.
        rows: Which of them the rows are of, and which say since when each is so.
        sources: Per column, from which changes its values come.
        shape: The kept one.
    """
    own, stamps = rows
    return with_added(
        [_take(column, source) for column, source in zip(batch.columns, sources, strict=True)],
        shape,
        end_lsn=batch.end_lsn[stamps],
        commit=pa.array(batch.commit_micros[stamps]),
        deleted=stamps != own,
    )


def _take(column: pa.Array, source: Ints) -> pa.Array:
    if len(source) == len(column) and (source == np.arange(len(source))).all():
        return column
    missing = source < 0
    return column.take(pa.array(source, mask=missing if missing.any() else None))
