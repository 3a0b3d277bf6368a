"""The rows of a change table: every change as it was, in order."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import ChangeBatch
from cdc_assets.changes.rows import COMMIT_COLUMN, LSN_COLUMN
from cdc_assets.changes.shape import TableShape
from cdc_assets.pgoutput.messages import DELETE, INSERT, TRUNCATE, UPDATE

OP_COLUMN = "_cdc_op"
SEQ_COLUMN = "_cdc_seq"
XID_COLUMN = "_cdc_xid"
SOURCE_COLUMN = "_cdc_source"
UNCHANGED_COLUMN = "_cdc_unchanged"
BEFORE_COLUMN = "_cdc_before"
SNAPSHOT = "snapshot"
# Rows of copies stand behind all changes of their LSN, and have one row of numbers in a warehouse
FIRST_COPIED = 2**62

OPS = {INSERT: "insert", UPDATE: "update", DELETE: "delete", TRUNCATE: "truncate"}
_CODES = np.zeros(256, dtype=np.int8)
_CODES[list(OPS)] = np.arange(len(OPS))


def change_schema(shape: TableShape) -> pa.Schema:
    """Give the columns of a change table.

    Args:
        shape: The kept one.
    """
    kept = [pa.field(*of) for of in zip(shape.names, shape.types, strict=True)]
    added = [
        (OP_COLUMN, pa.string()),
        (LSN_COLUMN, pa.uint64()),
        (SEQ_COLUMN, pa.int64()),
        (XID_COLUMN, pa.int64()),
        (COMMIT_COLUMN, pa.timestamp("us", "UTC")),
        (SOURCE_COLUMN, pa.string()),
        (UNCHANGED_COLUMN, pa.list_(pa.string())),
        (BEFORE_COLUMN, pa.struct(kept)),
    ]
    return pa.schema([*kept, *(pa.field(*of) for of in added)])


def change_rows(batch: ChangeBatch, shape: TableShape) -> pa.Table:
    """Give a row per change.

    Args:
        batch: Recorded changes, uncompacted; what fences keep out of a mirror has happened as well.
        shape: The kept one.

    Returns:
        The columns of `change_schema`, texts of few values as dictionaries.
    """
    if batch.record is None:
        raise ValueError("the changes were not recorded")
    count = len(batch)
    added = [
        pa.DictionaryArray.from_arrays(pa.array(_CODES[batch.ops]), list(OPS.values())),
        pa.array(batch.end_lsn.astype(np.uint64)),
        pa.array(batch.record.ordinals),
        pa.array(batch.xids),
        pa.array(batch.commit_micros).view(pa.timestamp("us", "UTC")),
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, dtype=np.int8)), ["stream"]),
        _unchanged(batch, shape),
        _before(batch, shape),
    ]
    return pa.table([*batch.columns, *added], change_schema(shape).names)


def moved_lacking(batch: ChangeBatch, shape: TableShape) -> list[pa.Array]:
    """Give the new keys of rows that got another one and did not carry all values.

    These values are those that the row had under its old key. Rows that kept their key and carried
    their old row may be among them.
    """
    lacks = np.zeros(len(batch), dtype=bool)
    for mask in batch.unchanged.values():
        lacks |= mask
    rows = pa.array(batch.old_rows[lacks[batch.old_rows]])
    return [batch.columns[at].take(rows) for at in shape.key_indexes]


def _unchanged(batch: ChangeBatch, shape: TableShape) -> pa.ListArray:
    """Name the columns that each change did not carry."""
    lacks = np.zeros((len(batch), len(batch.unchanged)), dtype=bool)
    for place, mask in enumerate(batch.unchanged.values()):
        lacks[:, place] = mask
    offsets = np.concatenate([[0], np.cumsum(lacks.sum(axis=1))]).astype(np.int32)
    names = pa.array([shape.names[at] for at in batch.unchanged], pa.string())
    return pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(lacks.nonzero()[1])))


def _before(batch: ChangeBatch, shape: TableShape) -> pa.Array:
    """Spread the old rows over all changes; null where none was sent."""
    kind, count = change_schema(shape).field(BEFORE_COLUMN).type, len(batch)
    before = batch.record.before if batch.record is not None else []
    if not before:
        return pa.nulls(count, kind)
    lacks = np.ones(count, dtype=bool)
    lacks[batch.old_rows] = False
    places = np.zeros(count, dtype=np.int64)
    places[batch.old_rows] = np.arange(len(batch.old_rows))
    at = pa.array(places, mask=lacks)
    columns = [column.take(at) for column in before]
    return pa.StructArray.from_arrays(columns, fields=list(kind), mask=pa.array(lacks))
