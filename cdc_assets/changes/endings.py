"""How keys lose their rows, for mirrors that keep deleted ones.

A row ends with the first change behind its last one: that change's transaction has deleted it,
whatever came later. What it was then is the new row of that last change, if the batch has it, or
else the warehouse's. So it does not depend on how changes are cut into batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from cdc_assets.changes.batch import ChangeBatch, Mask
from cdc_assets.pgoutput.messages import TRUNCATE, Ints


@dataclass(frozen=True, slots=True)
class Endings:
    """Which of n keys end without a row, and how.

    Attributes:
        by: Per key, the change that has ended its row; -1 where it has one in the end.
        images: Per key that has none, the change with the row that has ended; -1 where that is the
            warehouse's, if there is one.
    """

    by: Ints
    images: Ints

    @property
    def of_warehouse(self) -> Mask:
        """Find the keys whose row in the warehouse has ended, if there is one."""
        return (self.by >= 0) & (self.images < 0)


def endings_of(groups: Ints, changes: Ints, is_live: Mask, last: Ints) -> Endings:
    """Find how keys end.

    Args:
        groups: Per event, the number of its key; events are in order.
        changes: Per event, the change behind it.
        is_live: Per event, whether its key has a row after it.
        last: The last event of each key.
    """
    order = np.argsort(groups, kind="stable")
    live, head = is_live[order], np.ones(len(order), dtype=bool)
    head[1:] = groups[order][1:] != groups[order][:-1]
    at = np.arange(len(order))
    start = np.maximum.accumulate(np.where(live | head, at, 0))
    has_image = live[start]
    place = np.empty_like(order)
    place[order] = at
    ends = place[last]  # where each key's last event stands
    found = start[ends]
    ended, from_batch = ~live[ends], has_image[ends]
    enders = np.minimum(np.where(from_batch, found + 1, found), len(order) - 1)
    by = np.where(ended, changes[order[enders]], -1)
    images = np.where(ended & from_batch, changes[order[found]], -1)
    return Endings(by, images)


def between_truncates(batch: ChangeBatch) -> Iterator[tuple[ChangeBatch, int | None]]:
    """Cut changes where the table was truncated.

    Yields:
        Changes without truncations, and the truncation that goes before them, if any.
    """
    truncated: int | None = None
    for start, stop in pairwise([-1, *np.flatnonzero(batch.ops == TRUNCATE).tolist(), len(batch)]):
        if start >= 0 and truncated is None:  # what one has left a second one finds empty
            truncated = start
        if stop - start > 1 or stop == len(batch):
            yield batch.slice(start + 1, stop), truncated
            truncated = None
