"""From the changes of a whole table to those of the rows of it that are kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import ChangeBatch, Mask, Record
from cdc_assets.pgoutput.messages import DELETE, INSERT, TRUNCATE, UPDATE


def of_kept_rows(batch: ChangeBatch, *, new: Mask, old: Mask) -> ChangeBatch:
    """Give the changes of a table that has only the rows which are kept.

    An update of a row that ceases to be kept is its delete, and that of one that begins to be kept
    its insert. What is of no such row has not happened there.

    Args:
        batch: Changes of the whole table; every update and delete with its old row.
        new: Per change, whether its new row is kept; false where there is none.
        old: Likewise of its old row.
    """
    is_update = batch.ops == UPDATE
    leaves, enters = is_update & old & ~new, is_update & new & ~old
    stays = new | old | (batch.ops == TRUNCATE)
    if stays.all() and not leaves.any() and not enters.any():
        return batch
    places = np.cumsum(stays) - 1
    had = (stays & ~enters)[batch.old_rows]
    chosen, gone = pa.array(had), leaves[stays]
    rows = np.flatnonzero(stays)
    new_rows = pa.array(rows, mask=gone)  # no row has come from one that leaves
    ops = np.where(leaves, DELETE, np.where(enters, INSERT, batch.ops))[stays]
    return replace(
        batch,
        ops=ops.astype(batch.ops.dtype),
        end_lsn=batch.end_lsn[stays],
        commit_micros=batch.commit_micros[stays],
        columns=[column.take(new_rows) for column in batch.columns],
        unchanged={
            at: mask
            for at, lacks in batch.unchanged.items()
            if (mask := lacks[stays] & ~gone).any()
        },
        old_key=[column.filter(chosen) for column in batch.old_key],
        old_rows=places[batch.old_rows[had]],
        fenced_new=batch.fenced_new[stays],
        fenced_old=batch.fenced_old[stays],
        xids=batch.xids[stays],
        new_key_text=[texts.take(new_rows) for texts in batch.new_key_text],
        record=_recorded(batch.record, stays, chosen),
        old_values={at: column.filter(chosen) for at, column in batch.old_values.items()},
        ordinals=None if batch.ordinals is None else batch.ordinals[stays],
    )


def _recorded(record: Record | None, stays: Mask, chosen: pa.Array) -> Record | None:
    if record is None:
        return None
    before = [column.filter(chosen) for column in record.before]
    return Record(record.ordinals[stays], before)
