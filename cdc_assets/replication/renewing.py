"""Brings rows up to date that have what another table's rows are now (`keep: current`).

A row is written with what its partner was just before it (`enriching`). From then on it takes part
in every change of what it has of the partner, and is of that change's transaction then. Both are
told by the order of the stream, so how that is cut into batches does not matter. A change of the
partner that leaves these columns as they are is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import ChangeBatch
from cdc_assets.changes.compact import events_of, group_numbers
from cdc_assets.changes.partners import Asked, partners_of, places_beside
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import TRUNCATE, Ints
from cdc_assets.replication.enriching import look_up
from cdc_assets.replication.session import Session, refusals_of
from cdc_assets.shaping.enriching import Enrichment
from cdc_assets.shaping.equality import same_rows
from cdc_assets.steps import reached
from cdc_assets.warehouse.values import Copy, Moment


@dataclass(frozen=True, slots=True)
class Renewal:
    """What rows of one table get of what happened to a partner, between two of its truncations.

    Attributes:
        table: Whose rows.
        enrich: What they take.
        truncated: The partner's truncation that goes before, if any.
        keys: Of n partners, one array per column of `on`.
        values: What they have become, one array per column that is taken.
        end_lsn: Of the transaction that has made each what it is.
        commit_micros: When that was committed.
    """

    table: TableName
    enrich: Enrichment
    truncated: Moment | None
    keys: list[pa.Array]
    values: list[pa.Array]
    end_lsn: Ints
    commit_micros: Ints


def renewals_of(
    session: Session, partner: TableName, batch: ChangeBatch, tables: Collection[TableName]
) -> list[Renewal]:
    """Find what changes of a table bring to the rows of others, in the order of the stream.

    Args:
        session: Inside a transaction; the partner's mirror does not have the changes.
        partner: Whose changes these are.
        batch: The changes.
        tables: That are applied together with it.
    """
    return [
        renewal
        for table, enrich in _current_ones(session, partner)
        if table in tables and session.checkpoints[table].phase == "streaming"
        for renewal in _renewals(session, table, enrich, batch)
    ]


def renew(session: Session, renewals: Sequence[Renewal]) -> Counter[TableName]:
    """Bring rows up to date, those of the batches before the partner's included; how many."""
    enriched, renewed = session.warehouse.enriched, Counter[TableName]()
    for renewal in renewals:
        with refusals_of(renewal.table):
            if renewal.truncated is not None:
                renewed[renewal.table] += enriched.forget(
                    renewal.table, renewal.enrich, renewal.truncated
                )
            if len(renewal.end_lsn):
                renewed[renewal.table] += enriched.renew(
                    renewal.table,
                    renewal.enrich,
                    renewal.keys,
                    renewal.values,
                    lsn=renewal.end_lsn,
                    micros=renewal.commit_micros,
                )
    if renewals:
        reached("dependents_renewed")
    return renewed


def renew_differing(session: Session, copy: Copy) -> Counter[TableName]:
    """Bring rows up to date whose partners are found to be others than they ought to be; how many.

    A table that is elsewhere than its partner does not go on beside it, and is left as it is.
    """
    partner, renewed = session.checkpoints[copy.table], Counter[TableName]()
    for table, enrich in _current_ones(session, copy.table):
        point = session.checkpoints.get(table)
        if point is not None and point.phase == "streaming" and point.lsn == partner.lsn:
            with refusals_of(table):
                renewed[table] += session.warehouse.enriched.renew_differing(
                    table, enrich, copy, session.kept_shape(copy.table), partner.lsn
                )
    return renewed


def _current_ones(session: Session, partner: TableName) -> Iterator[tuple[TableName, Enrichment]]:
    for table in sorted(session.config.links.dependents(partner)):
        for one in session.shaping(table).enrich:
            if one.partner == partner and one.is_current:
                yield table, one


def _renewals(
    session: Session, table: TableName, enrich: Enrichment, batch: ChangeBatch
) -> Iterator[Renewal]:
    shape, names = session.kept_shape(enrich.partner), list(enrich.columns)
    events, truncations = events_of(batch, shape), np.flatnonzero(batch.ops == TRUNCATE)
    numbered, *beside = places_beside(batch, events.rows)
    before, after = (
        partners_of(
            Asked(events.keys, batch.end_lsn[events.rows], places),
            numbered,
            shape,
            names,
            partial(look_up, session, enrich.partner, shape, names),
        )
        for places in beside
    )
    changed = np.flatnonzero(~same_rows(before, after))
    spans = np.searchsorted(truncations, events.rows)
    keys = dict(zip(shape.key, events.keys, strict=True))
    for number, at in enumerate([None, *truncations.tolist()]):
        mine = changed[spans[changed] == number]
        last = mine[_last_of_each([key.take(pa.array(mine)) for key in events.keys])]
        if at is None and not len(last):
            continue
        rows, chosen = events.rows[last], pa.array(last)
        yield Renewal(
            table=table,
            enrich=enrich,
            truncated=None
            if at is None
            else Moment(LSN(batch.end_lsn[at]), int(batch.commit_micros[at])),
            keys=[keys[name].take(chosen) for name in enrich.on.values()],
            values=[column.take(chosen) for column in after],
            end_lsn=batch.end_lsn[rows],
            commit_micros=batch.commit_micros[rows],
        )


def _last_of_each(keys: list[pa.Array]) -> Ints:
    """Find the last place of each key."""
    groups = group_numbers(keys)
    _, found = np.unique(groups[::-1], return_index=True)
    places: Ints = np.sort(len(groups) - 1 - found)
    return places
