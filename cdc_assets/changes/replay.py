"""Rows of a change table back into the changes that they record, as the decoder gives them.

What makes a mirror or a history of a batch of changes makes one of these as well, so a table that
is rebuilt is what the stream made of it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc_assets.changes.batch import ChangeBatch, Mask
from cdc_assets.changes.record import OP_COLUMN, OPS, UNCHANGED_COLUMN
from cdc_assets.changes.rows import COMMIT_COLUMN, LSN_COLUMN
from cdc_assets.changes.shape import TableShape

# In which a change's old key stands, in the key's order, and whether one was sent
OLD_KEY_COLUMN = "_cdc_old_key_{}"
HAS_OLD_COLUMN = "_cdc_has_old"


def replayed(rows: pa.Table, shape: TableShape) -> ChangeBatch:
    """Give the changes that rows of the stream record.

    Args:
        rows: n rows in their order: the kept columns, those that a change table adds, and the old
            keys under the names above.
        shape: The kept one.

    Returns:
        n changes, with commit times and without transaction ids and old rows.
    """
    count = rows.num_rows
    column = {name: rows[name].combine_chunks() for name in rows.column_names}
    codes = pc.index_in(pc.cast(column[OP_COLUMN], pa.string()), pa.array(OPS.values()))
    has_old = column[HAS_OLD_COLUMN].to_numpy(zero_copy_only=False)
    nothing = np.zeros(count, dtype=bool)
    return ChangeBatch(
        ops=np.array(list(OPS), dtype=np.uint8)[codes.to_numpy()],
        end_lsn=column[LSN_COLUMN].to_numpy().astype(np.int64),
        commit_micros=column[COMMIT_COLUMN].view(pa.int64()).to_numpy(),
        columns=[column[name] for name in shape.names],
        unchanged=_unchanged(column[UNCHANGED_COLUMN], shape),
        old_key=[
            column[OLD_KEY_COLUMN.format(at)].filter(column[HAS_OLD_COLUMN])
            for at in range(len(shape.key))
        ],
        old_rows=np.flatnonzero(has_old),
        fenced_new=nothing,
        fenced_old=nothing,
        xids=np.zeros(count, dtype=np.int64),
        new_key_text=[],
        nbytes=rows.nbytes,
    )


def _unchanged(listed: pa.ListArray, shape: TableShape) -> dict[int, Mask]:
    """Find per column which changes did not carry it."""
    names, parents = pc.list_flatten(listed), pc.list_parent_indices(listed).to_numpy()
    places = pc.index_in(names, pa.array(shape.names)).to_numpy()
    lacks = np.zeros((len(shape.columns), len(listed)), dtype=bool)
    lacks[places, parents] = True
    return {at: mask for at, mask in enumerate(lacks) if mask.any()}
