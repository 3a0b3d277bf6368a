"""Writes what a batch of changes makes of a table's history, inside a transaction.

A version is opened by the transaction that makes a row another one, and closed by the next that
does, or that removes it. Every change is there, those too that a fence keeps out of the mirror:
they have happened. Only a row that lacks a value which no change carried is not known; it is taken
in when the stream has passed the read that brought it (`fencing.record_read_anew`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import ChangeBatch, Mask
from cdc_assets.changes.compact import events_of
from cdc_assets.changes.endings import between_truncates
from cdc_assets.changes.rows import build_rows
from cdc_assets.changes.shape import TableShape
from cdc_assets.changes.versions import (
    NO_ROW,
    VERSION_COLUMNS,
    Outcomes,
    outcomes_of,
    written_rows,
)
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import Ints
from cdc_assets.shaping.equality import same_rows
from cdc_assets.warehouse.base import Histories
from cdc_assets.warehouse.values import Moment

_STREAM = "stream"


@dataclass(frozen=True, slots=True)
class _Versions:
    """A table's history."""

    histories: Histories
    table: TableName
    shape: TableShape


def write_versions(
    histories: Histories,
    table: TableName,
    shape: TableShape,
    batch: ChangeBatch,
    *,
    written_lsn: int,
) -> None:
    """Take a batch into a table's history.

    Args:
        histories: The warehouse's, inside a transaction.
        table: Whose.
        shape: The kept one.
        batch: Changes, uncompacted.
        written_lsn: Of the last transaction that was written there already: the batch may go on
            with it.

    Raises:
        MirrorRefusedError: Somebody else altered the history, and it does not take it.
    """
    of = _Versions(histories, table, shape)
    for part, at in between_truncates(batch.unfenced()):
        if at is not None:
            moment = Moment(LSN(batch.end_lsn[at]), int(batch.commit_micros[at]))
            histories.close_all(table, moment)
            written_lsn = int(moment.lsn)
        if len(part):
            _write_part(of, part, goes_on=int(part.end_lsn[0]) == written_lsn)
            written_lsn = int(part.end_lsn[-1])


def _write_part(of: _Versions, batch: ChangeBatch, *, goes_on: bool) -> None:
    histories, table, shape = of.histories, of.table, of.shape
    rows, outcomes = _rows_of(of, batch)
    if goes_on:  # what was written of the transaction was not its outcome yet
        lsn = LSN(batch.end_lsn[0])
        keys = [key.filter(pa.array(outcomes.lsn == lsn)) for key in outcomes.keys]
        histories.reopen(table, shape, keys, lsn)
        outcomes = replace(outcomes, stands=np.ones(len(outcomes), dtype=bool))
    outcomes = outcomes.keep(_makes_another(rows, outcomes))
    first = np.flatnonzero(~outcomes.follows & outcomes.stands)
    if len(first):
        keys = [key.take(pa.array(first)) for key in outcomes.keys]
        same, since = histories.compare_open(table, shape, keys, _take(rows, outcomes.rows[first]))
        micros = outcomes.micros.copy()
        micros[first] = np.maximum(micros[first], since)
        stays = np.zeros(len(outcomes), dtype=bool)
        stays[first] = same & outcomes.has_row[first]
        outcomes = outcomes.not_before(micros).keep(~stays)
        ends = np.flatnonzero(~outcomes.follows & outcomes.stands)
        histories.close(
            table,
            shape,
            [key.take(pa.array(ends)) for key in outcomes.keys],
            lsn=outcomes.lsn[ends],
            micros=outcomes.micros[ends],
        )
    histories.append(table, _versions(rows, outcomes, shape))


def _rows_of(of: _Versions, batch: ChangeBatch) -> tuple[pa.Table, Outcomes]:
    """Give the rows that transactions left, and what they left, with `rows` as places there."""
    shape = of.shape
    events = events_of(batch, shape)
    outcomes = outcomes_of(batch, events)
    written = written_rows(batch, events, outcomes)
    rows, lookup = build_rows(batch, events, written, shape)
    changes = written.rows
    if lookup is not None:
        filled, found = of.histories.fill(of.table, shape, lookup)
        rows = pa.concat_tables([rows, filled])
        whole = np.setdiff1d(changes, lookup.changes, assume_unique=True)
        changes = np.concatenate([whole, lookup.changes[found]])
    places = np.full(len(batch) + 1, NO_ROW)  # the last one is that of no row
    places[changes] = np.arange(len(changes))
    is_known = ~outcomes.has_row | (places[outcomes.rows] != NO_ROW)
    outcomes = outcomes.keep(is_known)
    columns = rows.select(list(shape.names)).combine_chunks()
    return columns, replace(outcomes, rows=places[outcomes.rows])


def _makes_another(rows: pa.Table, outcomes: Outcomes) -> Mask:
    """Find what is another row than the one before it of the same key, or none where one was."""
    before = np.roll(outcomes.rows, 1)
    both = outcomes.follows & outcomes.has_row & (before != NO_ROW)
    neither = outcomes.follows & ~outcomes.has_row & (before == NO_ROW)
    pairs = np.flatnonzero(both)
    same = np.zeros(len(outcomes), dtype=bool)
    same[pairs] = same_rows(
        _take(rows, before[pairs]).columns, _take(rows, outcomes.rows[pairs]).columns
    )
    another: Mask = ~(same | neither)
    return another


def _take(rows: pa.Table, places: Ints) -> pa.Table:
    """Take rows; all columns are null where there is none."""
    nothing = places == NO_ROW
    at = pa.array(places, mask=nothing if nothing.any() else None)
    columns = [column.combine_chunks().take(at) for column in rows.columns]
    return pa.table(columns, rows.column_names)


def _versions(rows: pa.Table, outcomes: Outcomes, shape: TableShape) -> pa.Table:
    """Give the versions that outcomes open, with where those end that others of them close."""
    opens = np.flatnonzero(outcomes.has_row)
    is_open = outcomes.last[opens]
    following = np.minimum(opens + 1, len(outcomes) - 1)
    kind = VERSION_COLUMNS[0].type
    added = [
        pa.array(outcomes.micros[opens]).view(kind),
        pa.array(outcomes.micros[following], mask=is_open).view(kind),
        pa.array(outcomes.lsn[opens].astype(np.uint64)),
        pa.array(outcomes.lsn[following].astype(np.uint64), mask=is_open),
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(opens), dtype=np.int8)), [_STREAM]),
    ]
    kept = _take(rows, outcomes.rows[opens])
    names = [*shape.names, *(column.name for column in VERSION_COLUMNS)]
    return pa.table([*kept.columns, *added], names)
