"""Keeps out of the mirrors what a chunk's own read has already seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc_assets.changes.batch import Mask, complete_fields
from cdc_assets.changes.fence import KeyText, Snapshot, point_fence
from cdc_assets.changes.shape import TableShape
from cdc_assets.copying import decoded
from cdc_assets.identifiers import TableName
from cdc_assets.pgoutput.decode import RawChanges
from cdc_assets.pgoutput.messages import Transactions
from cdc_assets.pgoutput.tuples import UNCHANGED, Field
from cdc_assets.pgoutput.values import cut_text, decode_text
from cdc_assets.session import Session
from cdc_assets.source.connection import table_errors
from cdc_assets.source.fences import fenced
from cdc_assets.source.slot import wait_until_flushed
from cdc_assets.source.snapshot import SnapshotReader


def keep_out(
    session: Session,
    raw: RawChanges,
    transactions: Transactions,
    *,
    before_read: Callable[[TableName], None],
) -> tuple[Mask, Mask] | None:
    """Find the rows whose new key, and those whose old key, a fence keeps as it is.

    A change from a fenced key to one that is not has its delete kept out and its upsert applied. If
    that does not carry a TOASTed value, the value is nowhere in the warehouse. So such a row is
    read from the source now, and a fence on its key keeps the stream from it until the stream has
    passed that read.

    Args:
        session: Inside a warehouse transaction.
        raw: A relation's changes.
        transactions: Those that the rows index.
        before_read: Called with the table before rows are read anew: what is pending of it must be
            written first.

    Returns:
        A mask over the rows for the new keys and one for the old; None when no fence stands.
    """
    table = raw.table
    shape = session.checkpoints[table].shape
    while fences := session.fences.get(table):
        fields = complete_fields(raw, shape)
        new_keys = _texts(fields, shape, raw)
        xids = transactions.xid[raw.transactions]
        old = np.zeros(len(xids), dtype=bool)
        with table_errors(table):
            new = fenced(session.control, shape, fences, keys=new_keys, xids=xids)
            if len(raw.old_rows):
                old_keys = _texts(raw.old, shape, raw)
                old[raw.old_rows] = fenced(
                    session.control, shape, fences, keys=old_keys, xids=xids[raw.old_rows]
                )
        lacks = np.logical_or.reduce([field.kinds == UNCHANGED for field in fields])
        cut = np.flatnonzero(old & ~new & lacks)
        if not len(cut):
            return new, old
        before_read(table)
        keys = {tuple(key[int(row)].as_py() for key in new_keys) for row in cut}
        _read_anew(session, table, sorted(keys))
    return None


def _texts(fields: list[Field], shape: TableShape, raw: RawChanges) -> list[pa.Array]:
    buffer = raw.messages.buffer
    return [pc.cast(cut_text(fields[at], buffer), pa.string()) for at in shape.key_indexes]


def _read_anew(session: Session, table: TableName, keys: list[KeyText]) -> None:
    shape, slot = session.checkpoints[table].shape, session.config.source.slot
    typed = [
        decode_text(pa.array([text.encode() for text in texts], pa.binary()), column.type.arrow)
        for texts, column in zip(zip(*keys, strict=True), shape.key_columns, strict=True)
    ]
    with (
        SnapshotReader(conninfo=session.conninfo, slot=slot) as reader,
        reader.read_keys(session.source_table(table), shape, keys) as chunk,
    ):
        session.mirrors.delete(table, shape, typed)
        for rows in decoded(chunk, shape, table):
            session.mirrors.insert(table, rows)
        wait_until_flushed(session.control, chunk.lsn)
        for key in keys:
            fence = point_fence(key, Snapshot.parse(chunk.snapshot), chunk.lsn)
            session.state.add_fence(table, fence)
            session.fences[table].append(fence)
