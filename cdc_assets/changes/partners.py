"""What another table's rows were just before each of some changes, in the order of the stream.

The other table's state before a change is what its last earlier change in the batch has left, or
else what its mirror has. A truncation begins a time of its own, in which no row of before is left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc_assets.changes.batch import ChangeBatch, Mask
from cdc_assets.changes.compact import NOWHERE, Events, events_of, group_numbers, sources
from cdc_assets.changes.shape import TableShape
from cdc_assets.pgoutput.messages import TRUNCATE, Ints

_MIRROR, _NOBODY = -1, -2

LookUp = Callable[[list[pa.Array]], pa.Table]


@dataclass(frozen=True, slots=True)
class Asked:
    """n rows that ask for their partners.

    Attributes:
        keys: The partner's key, one array of n per column, in its order, without nulls.
        end_lsn: Per row, of its transaction.
        ordinals: Per row, its number among the changes of its transaction.
    """

    keys: list[pa.Array]
    end_lsn: Ints
    ordinals: Ints


def partners_of(
    asked: Asked,
    partner: ChangeBatch | None,
    shape: TableShape,
    names: Sequence[str],
    look_up: LookUp,
) -> list[pa.Array]:
    """Give the partners' values as of just before each row.

    Args:
        asked: n rows.
        partner: The partner's changes that are not in its mirror, numbered; None for none.
        shape: The partner's kept one.
        names: Which of its columns.
        look_up: Gives the mirror's values of these columns for keys, null where there is no row.

    Returns:
        An array of n per column; null where there was no partner.
    """
    if partner is None:
        return [column.combine_chunks() for column in look_up(asked.keys).columns]
    events, spans = _events(partner, shape)
    found = _last_before(asked, partner, events, spans)
    of_mirror = np.flatnonzero(found == _MIRROR)
    columns = [shape.names.index(name) for name in names]
    places = [_places(partner, events, found, at) for at in columns]
    # a value that no change of the batch carried is what the mirror has under an event's key
    wanted = np.unique(np.concatenate([-1 - of[of < 0] for of in places]))
    keys = [
        pa.concat_arrays([key.take(pa.array(of_mirror)), events_key.take(pa.array(wanted))])
        for key, events_key in zip(asked.keys, _like(asked.keys, events.keys), strict=True)
    ]
    standing = look_up(keys)
    taken = []
    for at, of, values in zip(columns, places, standing.columns, strict=True):
        own = partner.columns[at]
        place = np.where(found >= 0, of, 0)
        lacks = place < 0
        place[lacks] = len(own) + len(of_mirror) + np.searchsorted(wanted, -1 - of[lacks])
        place[of_mirror] = len(own) + np.arange(len(of_mirror))
        pool = pa.concat_arrays([own, values.combine_chunks()])
        taken.append(pool.take(pa.array(place, mask=found == _NOBODY)))
    return taken


def places_beside(batch: ChangeBatch, rows: Ints) -> tuple[ChangeBatch, Ints, Ints]:
    """Number changes anew, so that there are places between them.

    Returns:
        The changes, and for each of the rows the places just before and just behind it.
    """
    if batch.ordinals is None:
        raise ValueError("changes of a partner were not numbered")
    numbers = 2 * batch.ordinals
    return replace(batch, ordinals=numbers), numbers[rows] - 1, numbers[rows] + 1


def _events(partner: ChangeBatch, shape: TableShape) -> tuple[Events, Ints]:
    """Give the partner's events, and in the how manieth span between truncations each stands."""
    events = events_of(partner, shape)
    return events, np.cumsum(partner.ops == TRUNCATE)[events.rows]


def _like(wanted: Sequence[pa.Array], keys: Sequence[pa.Array]) -> list[pa.Array]:
    """Give keys in the types of others: integers of different sizes may be joined."""
    return [
        key if key.type == like.type else pc.cast(key, like.type)
        for like, key in zip(wanted, keys, strict=True)
    ]


def _last_before(asked: Asked, partner: ChangeBatch, events: Events, spans: Ints) -> Ints:
    """Find the last event of each row's key that stands before the row.

    Returns:
        Per row an event that leaves its key a row, or where else its partner is.
    """
    if partner.ordinals is None:
        raise ValueError("changes of a partner were not numbered")
    truncated = partner.ops == TRUNCATE
    row_spans = _spans(asked, partner.end_lsn[truncated], partner.ordinals[truncated])
    count = len(events)
    both = [
        pa.concat_arrays([mine, key])
        for mine, key in zip(_like(asked.keys, events.keys), asked.keys, strict=True)
    ]
    groups = group_numbers([pa.array(np.concatenate([spans, row_spans])), *both])
    lsns = np.concatenate([partner.end_lsn[events.rows], asked.end_lsn])
    ordinals = np.concatenate([partner.ordinals[events.rows], asked.ordinals])
    order = np.lexsort((np.arange(len(groups)), ordinals, lsns, groups))
    head = np.ones(len(order), dtype=bool)
    head[1:] = groups[order][1:] != groups[order][:-1]
    nearest = np.maximum.accumulate(np.where(head | (order < count), np.arange(len(order)), 0))
    last = np.empty(len(order), dtype=np.int64)
    last[order] = order[nearest]
    last = last[count:]
    is_event = last < count
    found = np.where(row_spans == 0, _MIRROR, _NOBODY)
    of_event = last[is_event]
    found[is_event] = np.where(_leaves_row(partner, events)[of_event], of_event, _NOBODY)
    return found


def _spans(asked: Asked, lsns: Ints, ordinals: Ints) -> Ints:
    """Count the truncations before each row."""
    spans = np.zeros(len(asked.end_lsn), dtype=np.int64)
    for lsn, ordinal in zip(lsns.tolist(), ordinals.tolist(), strict=True):
        spans += (asked.end_lsn > lsn) | ((asked.end_lsn == lsn) & (asked.ordinals > ordinal))
    return spans


def _leaves_row(partner: ChangeBatch, events: Events) -> Mask:
    if partner.chosen is None:
        return events.is_upsert
    leaves: Mask = events.is_upsert & partner.chosen.kept[events.rows]
    return leaves


def _places(partner: ChangeBatch, events: Events, found: Ints, column: int) -> Ints:
    """Find the change that has each row's value, or -1 - k: the mirror's row of event k's key."""
    places = np.zeros(len(found), dtype=np.int64)
    has_event = found >= 0
    changes = events.rows[found[has_event]]
    if column in partner.unchanged:
        changes = sources(partner.unchanged[column], events)[changes]
        if (changes == NOWHERE).any():
            raise ValueError("a partner's row came from a key that is fenced")
    places[has_event] = changes
    return places


def with_columns(
    batch: ChangeBatch, columns: Sequence[pa.Array], unknown: Sequence[Mask | None]
) -> ChangeBatch:
    """Add columns behind those of a batch.

    Args:
        batch: n changes.
        columns: An array of n each.
        unknown: For each, in which rows the value stays what the row had, if in any.
    """
    first = len(batch.columns)
    more = {first + at: mask for at, mask in enumerate(unknown) if mask is not None and mask.any()}
    record = batch.record
    if record is not None and record.before:
        nothing = [pa.nulls(len(batch.old_rows), column.type) for column in columns]
        record = replace(record, before=[*record.before, *nothing])
    return replace(
        batch,
        columns=[*batch.columns, *columns],
        unchanged={**batch.unchanged, **more},
        record=record,
    )
