"""The rows that a compacted batch writes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import ChangeBatch
from cdc_assets.changes.compact import NOWHERE, Compacted, Events
from cdc_assets.changes.shape import TableShape
from cdc_assets.pgoutput.messages import Ints

LSN_COLUMN = "_cdc_lsn"
COMMIT_COLUMN = "_cdc_commit_ts"
ADDED_COLUMNS = (
    pa.field(LSN_COLUMN, pa.uint64()),
    pa.field(COMMIT_COLUMN, pa.timestamp("us", "UTC")),  # null in rows of a copy: not known
)


@dataclass(frozen=True, slots=True)
class Lookup:
    """Rows that take some values from the rows that the mirror has before the batch.

    Attributes:
        rows: The rows to write, null where a value is to be taken.
        keys: Under which key the old row stands: one array per key column.
        wanted: Per column that has any, a boolean array: take this row's value.
        changes: Which change of the batch each row is of.
    """

    changes: Ints
    rows: pa.Table
    keys: list[pa.Array]
    wanted: dict[str, pa.Array]


def build_rows(
    batch: ChangeBatch, events: Events, compacted: Compacted, shape: TableShape
) -> tuple[pa.Table, Lookup | None]:
    """Build the rows to write: those that are complete, and those that need the mirror."""
    sources = np.tile(compacted.rows, (len(shape.columns), 1)) if compacted.fills else None
    if sources is None:
        return _table(batch, compacted.rows, [compacted.rows] * len(shape.columns), shape), None
    for fill in compacted.fills:
        sources[fill.column][np.searchsorted(compacted.rows, fill.rows)] = fill.sources
    needs_mirror = (sources < 0).any(axis=0)
    whole = ~needs_mirror
    complete = _table(batch, compacted.rows[whole], list(sources[:, whole]), shape)
    if whole.all():
        return complete, None
    chosen = sources[:, needs_mirror]
    rows = _table(batch, compacted.rows[needs_mirror], list(chosen), shape)
    # what one row lacks was all in one old row, so any column's event gives its key
    at = chosen.min(axis=0)
    nowhere = at == NOWHERE
    event = pa.array(np.where(nowhere, 0, -1 - at), mask=nowhere if nowhere.any() else None)
    wanted = {
        shape.names[fill.column]: pa.array(chosen[fill.column] < 0) for fill in compacted.fills
    }
    keys = [key.take(event) for key in events.keys]
    return complete, Lookup(compacted.rows[needs_mirror], rows, keys, wanted)


def _table(batch: ChangeBatch, rows: Ints, sources: list[Ints], shape: TableShape) -> pa.Table:
    """Take each column from its own source rows; a negative source is null."""
    columns = [_take(column, source) for column, source in zip(batch.columns, sources, strict=True)]
    added = [
        pa.array(batch.end_lsn[rows].astype(np.uint64)),
        pa.array(batch.commit_micros[rows]).view(ADDED_COLUMNS[1].type),
    ]
    names = [*shape.names, *(column.name for column in ADDED_COLUMNS)]
    return pa.table([*columns, *added], names)


def _take(column: pa.Array, source: Ints) -> pa.Array:
    if len(source) == len(column) and (source == np.arange(len(source))).all():
        return column
    missing = source < 0
    return column.take(pa.array(source, mask=missing if missing.any() else None))
