"""From changes in order to the versions of rows: what each transaction left of each key.

A version holds from the transaction that wrote it to the one that wrote or removed the next, so
several within one transaction are the last of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import ChangeBatch, Mask
from cdc_assets.changes.compact import Compacted, Events, fills_of, group_numbers, makes_row
from cdc_assets.changes.shape import TableShape
from cdc_assets.pgoutput.messages import Ints

VALID_FROM_COLUMN = "_cdc_valid_from"
VALID_TO_COLUMN = "_cdc_valid_to"
FROM_LSN_COLUMN = "_cdc_valid_from_lsn"
TO_LSN_COLUMN = "_cdc_valid_to_lsn"
HISTORY_SOURCE_COLUMN = "_cdc_source"
_TIME = pa.timestamp("us", "UTC")
VERSION_COLUMNS = (
    pa.field(VALID_FROM_COLUMN, _TIME),
    pa.field(VALID_TO_COLUMN, _TIME),
    pa.field(FROM_LSN_COLUMN, pa.uint64()),
    pa.field(TO_LSN_COLUMN, pa.uint64()),
    pa.field(HISTORY_SOURCE_COLUMN, pa.string()),
)
NO_ROW = -1


def history_schema(shape: TableShape) -> pa.Schema:
    """Give the columns of a history.

    Args:
        shape: The kept one.
    """
    kept = [pa.field(*of) for of in zip(shape.names, shape.types, strict=True)]
    return pa.schema([*kept, *VERSION_COLUMNS])


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What transactions left of keys: n, those of a key together and in order.

    Attributes:
        keys: One array of n per key column.
        rows: The change whose new row it is, or `NO_ROW`.
        lsn: The transaction's end_lsn.
        micros: When it was committed; never earlier than what came before of the same key.
        follows: Whether the one before is of the same key.
        stands: Whether the key had a row before the first of its outcomes here.
    """

    keys: list[pa.Array]
    rows: Ints
    lsn: Ints
    micros: Ints
    follows: Mask
    stands: Mask

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def has_row(self) -> Mask:
        """Which leave a row."""
        mask: Mask = self.rows != NO_ROW
        return mask

    @property
    def last(self) -> Mask:
        """Which are the last of their key."""
        mask = np.ones(len(self), dtype=bool)
        mask[:-1] = ~self.follows[1:]
        return mask

    def keep(self, mask: Mask) -> Outcomes:
        """Leave out some."""
        if mask.all():
            return self
        number = np.cumsum(~self.follows)[mask]
        follows = np.zeros(len(number), dtype=bool)
        follows[1:] = number[1:] == number[:-1]
        return Outcomes(
            [key.filter(pa.array(mask)) for key in self.keys],
            self.rows[mask],
            self.lsn[mask],
            self.micros[mask],
            follows,
            self.stands[mask],
        )

    def not_before(self, micros: Ints) -> Outcomes:
        """Move what was committed earlier, by the source's clock, than something before it.

        Args:
            micros: One per outcome.
        """
        return replace(self, micros=_ascending(np.maximum(self.micros, micros), self.follows))


def outcomes_of(batch: ChangeBatch, events: Events) -> Outcomes:
    """Find what each transaction left of each key.

    Args:
        batch: Changes without truncations.
        events: All of their events.
    """
    groups = group_numbers(events.keys)
    order = np.lexsort((np.arange(len(groups)), groups))
    groups, lsn = groups[order], batch.end_lsn[events.rows][order]
    is_last = np.ones(len(order), dtype=bool)
    is_last[:-1] = (groups[1:] != groups[:-1]) | (lsn[1:] != lsn[:-1])
    is_head = np.ones(len(order), dtype=bool)
    is_head[1:] = groups[1:] != groups[:-1]
    stands = ~makes_row(batch, events)[order[is_head]]
    chosen, groups = order[is_last], groups[is_last]
    follows = np.zeros(len(chosen), dtype=bool)
    follows[1:] = groups[1:] == groups[:-1]
    changes = events.rows[chosen]
    has_row = events.is_upsert[chosen]
    if batch.chosen is not None:
        has_row = has_row & batch.chosen.kept[changes]
    return Outcomes(
        keys=[key.take(pa.array(chosen)) for key in events.keys],
        rows=np.where(has_row, changes, NO_ROW),
        lsn=lsn[is_last],
        micros=_ascending(batch.commit_micros[changes], follows),
        follows=follows,
        stands=stands[np.cumsum(~follows) - 1],
    )


def _ascending(micros: Ints, follows: Mask) -> Ints:
    """Let no time of a key be before an earlier one: a clock may have been set back."""
    if not len(micros) or (micros[1:] >= micros[:-1])[follows[1:]].all():
        return micros
    first = int(micros.min())
    stride = int(micros.max()) - first + 1
    offset = np.cumsum(~follows) * stride - first
    ascending: Ints = np.maximum.accumulate(micros + offset) - offset
    return ascending


def written_rows(batch: ChangeBatch, events: Events, outcomes: Outcomes) -> Compacted:
    """Give the rows of outcomes, as `build_rows` takes them."""
    rows = np.sort(outcomes.rows[outcomes.has_row])
    nothing = np.zeros(0, dtype=bool)
    fills = fills_of(batch, events, rows) if batch.unchanged else []
    return Compacted(keys=[], standing=nothing, is_told=None, rows=rows, fills=fills)
