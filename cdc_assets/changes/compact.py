"""From changes in order to one outcome per key.

A change becomes one or two events on a key: a delete of the old key, an upsert of the new one. The
last event of a key decides: the row is written or it is not. Whatever the outcome, every key that
was touched is deleted first, so applying a batch twice, or over rows that are already there, ends
the same.

A row that is written may lack values that its change did not carry (unchanged TOAST). They are
those that the row had before: in the last earlier image of the same row within the batch, under its
old key if the key changed, or else in the warehouse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc_assets.changes.batch import ChangeBatch, Mask
from cdc_assets.changes.endings import Endings, endings_of
from cdc_assets.changes.shape import TableShape
from cdc_assets.pgoutput.messages import DELETE, INSERT, TRUNCATE, UPDATE, Ints

_UNKNOWN = np.iinfo(np.int64).min
NOWHERE = _UNKNOWN + 1


@dataclass(frozen=True, slots=True)
class Events:
    """What happens to keys, in order; n events.

    Attributes:
        keys: One array of n per key column.
        rows: The change behind each event.
        is_upsert: Whether the key gets the change's new row; else it loses its row.
        is_moved: Whether it is one half of a change of key, the delete or the upsert.
    """

    keys: list[pa.Array]
    rows: Ints
    is_upsert: Mask
    is_moved: Mask

    def __len__(self) -> int:
        return len(self.rows)

    def keep(self, mask: Mask) -> Events:
        """Leave out events."""
        chosen = pa.array(mask)
        return Events(
            [key.filter(chosen) for key in self.keys],
            self.rows[mask],
            self.is_upsert[mask],
            self.is_moved[mask],
        )


@dataclass(frozen=True, slots=True)
class Fill:
    """Values of one column that written rows take from elsewhere.

    Attributes:
        column: Index of the column.
        rows: Changes whose row lacks the value.
        sources: For each the change that has it; or -1 - k, the warehouse's row under the key of
            event k; or `NOWHERE`: the row came from a key whose delete was left out.
    """

    column: int
    rows: Ints
    sources: Ints


@dataclass(frozen=True, slots=True)
class Compacted:
    """The outcome per key.

    Attributes:
        keys: Every key that was touched, once each; one array per key column.
        standing: Per key, whether it had a row before, for the changes to be possible: its first
            event is a delete or an update that keeps the key.
        is_told: Per key, whether the changes tell so; None: of all. Of a row that may not have been
            kept before, only an insert tells.
        rows: Changes whose new row is written, one per key that has a row in the end; or has had
            one within the batch, where endings are asked for.
        fills: What those rows lack.
        endings: How keys have lost their rows; None where deleted rows are not kept.
    """

    keys: list[pa.Array]
    standing: Mask
    is_told: Mask | None
    rows: Ints
    fills: list[Fill]
    endings: Endings | None = None

    @property
    def stamps(self) -> Ints:
        """Give for each of `rows` the change that says since when it is so: it, or its ending."""
        if self.endings is None:
            return self.rows
        stamps, ended = self.rows.copy(), self.endings.images >= 0
        places = np.searchsorted(self.rows, self.endings.images[ended])
        stamps[places] = self.endings.by[ended]
        return stamps


def behind_last_truncate(batch: ChangeBatch) -> tuple[ChangeBatch, int | None]:
    """Drop what a truncation made void.

    Returns:
        The changes behind the last one, and its transaction's end_lsn; None when there is none.
    """
    truncations = np.flatnonzero(batch.ops == TRUNCATE)
    if not len(truncations):
        return batch, None
    last = int(truncations[-1])
    return batch.slice(last + 1, len(batch)), int(batch.end_lsn[last])


def events_of(batch: ChangeBatch, shape: TableShape) -> Events:
    """Turn changes into events on keys, without what fences keep out; truncations are none."""
    events = _all_events(batch, shape)
    fenced = np.where(
        events.is_upsert, batch.fenced_new[events.rows], batch.fenced_old[events.rows]
    )
    return events.keep(~fenced) if fenced.any() else events


def _all_events(batch: ChangeBatch, shape: TableShape) -> Events:
    upserts = np.flatnonzero((batch.ops == INSERT) | (batch.ops == UPDATE))
    new_keys = [batch.columns[at] for at in shape.key_indexes]
    if not len(batch.old_rows):
        if len(upserts) < len(batch):
            new_keys = [key.take(pa.array(upserts)) for key in new_keys]
        none, every = np.zeros(len(upserts), dtype=bool), np.ones(len(upserts), dtype=bool)
        return Events(new_keys, upserts, every, none)
    moved = _moved(batch, new_keys)
    gone = np.flatnonzero(moved | (batch.ops[batch.old_rows] == DELETE))
    rows = np.concatenate([batch.old_rows[gone], upserts])
    # an old key goes before the new one of the same change: the sort is stable and it stands first
    order = np.argsort(rows, kind="stable")
    keys = [
        pa.concat_arrays([old.take(pa.array(gone)), new.take(pa.array(upserts))]).take(
            pa.array(order)
        )
        for old, new in zip(batch.old_key, new_keys, strict=True)
    ]
    is_upsert = np.repeat([False, True], [len(gone), len(upserts)])[order]
    is_moved = np.isin(rows, batch.old_rows[moved])[order]
    return Events(keys, rows[order], is_upsert, is_moved)


def _moved(batch: ChangeBatch, new_keys: list[pa.Array]) -> Mask:
    """Find the old rows whose change has another key; with identity full most have the same."""
    moved = np.zeros(len(batch.old_rows), dtype=bool)
    at = pa.array(batch.old_rows)
    for old, new in zip(batch.old_key, new_keys, strict=True):
        differs = pc.not_equal(_groupable(old), _groupable(new.take(at)))
        moved |= differs.fill_null(False).to_numpy(zero_copy_only=False)
    return moved


def compact(batch: ChangeBatch, events: Events, *, with_endings: bool = False) -> Compacted:
    """Find the outcome of each key.

    Args:
        batch: Changes without truncations.
        events: Their events.
        with_endings: Whether rows are kept that are deleted.
    """
    if len(events.keys) == 1 and pa.types.is_integer(events.keys[0].type):
        first, last = _ends_per_number(events.keys[0].to_numpy())
    else:
        first, last = _ends_per_group([_groupable(key) for key in events.keys])
    keys = events.keys
    if len(last) == len(events):
        first = last = np.arange(len(events))
    else:
        keys = [key.take(pa.array(last)) for key in keys]
    makes = makes_row(batch, events)
    is_kept = np.ones(len(batch), dtype=bool) if batch.chosen is None else batch.chosen.kept
    is_live = events.is_upsert & is_kept[events.rows]
    rows, endings = events.rows[last[is_live[last]]], None
    if with_endings and len(events):
        endings = endings_of(group_numbers(events.keys), events.rows, is_live, last)
        rows = np.concatenate([rows, endings.images[endings.images >= 0]])
    rows = np.sort(rows)
    return Compacted(
        keys=keys,
        standing=~makes[first],
        is_told=None if batch.chosen is None else makes[first],
        rows=rows,
        fills=fills_of(batch, events, rows) if batch.unchanged else [],
        endings=endings,
    )


def makes_row(batch: ChangeBatch, events: Events) -> Mask:
    """Find the events that give a key a row which had none."""
    makes: Mask = events.is_upsert & (events.is_moved | (batch.ops[events.rows] == INSERT))
    return makes


def _ends_per_number(numbers: Ints) -> tuple[Ints, Ints]:
    """Sort: changes come in a few ascending runs, as a rule, which a merge sort only joins."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    is_first, is_last = np.ones((2, len(order)), dtype=bool)
    is_first[1:] = is_last[:-1] = ordered[1:] != ordered[:-1]
    return order[is_first], order[is_last]


def _ends_per_group(keys: list[pa.Array]) -> tuple[Ints, Ints]:
    names = [str(at) for at in range(len(keys))]
    table = pa.table([*keys, np.arange(len(keys[0]))], [*names, "event"])
    ends = table.group_by(names).aggregate([("event", "min"), ("event", "max")])
    first, last = (ends[f"event_{end}"].combine_chunks().to_numpy() for end in ("min", "max"))
    return first, last


def _groupable(key: pa.Array) -> pa.Array:
    """Give an array that Arrow can group, in which two keys are equal just when Postgres says so.

    For Postgres -0 is 0 and NaN is NaN. Arrow can't group lists at all: these few become text.
    """
    if isinstance(key, pa.ExtensionArray):
        return key.storage
    if pa.types.is_floating(key.type):
        positive_zero = pc.add(key, pa.scalar(0, key.type))
        return positive_zero.view(pa.int32() if key.type == pa.float32() else pa.int64())
    if pa.types.is_list(key.type):
        elements = _as_numbers(_groupable(key.values))
        lists = pa.ListArray.from_arrays(key.offsets, elements).to_pylist()
        return pc.if_else(key.is_valid(), pa.array(map(repr, lists), pa.string()), None)
    return key


def _as_numbers(elements: pa.Array) -> pa.Array:
    """Show dates and times as numbers: Python has no infinity of them and no 24:00:00."""
    if not pa.types.is_temporal(elements.type):
        return elements
    return elements.view(pa.int32() if pa.types.is_date32(elements.type) else pa.int64())


def fills_of(batch: ChangeBatch, events: Events, rows: Ints) -> list[Fill]:
    """Find where the values stand that written rows lack.

    Args:
        batch: Changes without truncations.
        events: Their events.
        rows: Changes whose new row is written, ascending.
    """
    return [
        Fill(column, lacking, sources(mask, events)[lacking])
        for column, mask in sorted(batch.unchanged.items())
        if len(lacking := rows[mask[rows]])
    ]


def sources(unchanged: Mask, events: Events) -> Ints:
    """Find for every change where its value of one column stands; see `Fill.sources`.

    Events of one key are brought together, in order. Within a key an upsert that lacks the value
    takes the source of the event before it, and the first one takes the warehouse's row. A change
    of key is different: its value comes from the events of the old key, so those few are resolved
    one by one, earliest first, before the rest is filled in one sweep.
    """
    groups = group_numbers(events.keys)
    order = np.lexsort((np.arange(len(events)), groups))
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    head = np.ones(len(order), dtype=bool)
    head[1:] = groups[order][1:] != groups[order][:-1]

    source = np.full(len(unchanged), _UNKNOWN)
    has_value = events.is_upsert & ~unchanged[events.rows]
    source[events.rows[has_value]] = events.rows[has_value]
    lacking = events.is_upsert & events.is_moved & unchanged[events.rows]
    for event in np.flatnonzero(lacking).tolist():
        row = events.rows[event]
        left = event > 0 and events.rows[event - 1] == row
        source[row] = _before(event - 1, events, order, place, head, source) if left else NOWHERE
    return _sweep(events, order, head, source)


def group_numbers(keys: list[pa.Array]) -> Ints:
    """Number n keys, none of them null, so that those that are one key have one number."""
    number = np.zeros(len(keys[0]), dtype=np.int64)
    for key in keys:
        codes = pc.dictionary_encode(_groupable(key)).indices.to_numpy().astype(np.int64)
        number = number * (int(codes.max(initial=0)) + 1) + codes
        _, number = np.unique(number, return_inverse=True)
    return number


def _before(event: int, events: Events, order: Ints, place: Ints, head: Mask, source: Ints) -> int:
    """Find the source of the row that `event` deletes: the state just before it."""
    at = int(place[event])
    while not head[at]:
        at -= 1
        earlier = int(order[at])
        found = int(source[events.rows[earlier]]) if events.is_upsert[earlier] else _UNKNOWN
        if found != _UNKNOWN:
            return found
    return -1 - int(order[at])


def _sweep(events: Events, order: Ints, head: Mask, source: Ints) -> Ints:
    """Fill every key's upserts from the nearest earlier one whose source is known."""
    rows = events.rows[order]
    known = events.is_upsert[order] & (source[rows] != _UNKNOWN)
    at = np.arange(len(order))
    nearest = np.maximum.accumulate(np.where(known | head, at, 0))
    from_warehouse = ~known[nearest]
    found = np.where(from_warehouse, -1 - order[nearest], source[rows[nearest]])
    upserts = events.is_upsert[order]
    filled = source.copy()
    filled[rows[upserts]] = found[upserts]
    return filled
