"""Gives changes the columns that their rows take of other tables, when they are written.

A change has what its partner was just before it: the partner's last earlier change of those that
are pending, or else the partner's mirror, which is written behind its dependents. How the stream is
cut into batches does not matter so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc_assets.changes.batch import ChangeBatch, Mask, concatenate
from cdc_assets.changes.partners import Asked, partners_of, places_beside, with_columns
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import INSERT, UPDATE
from cdc_assets.replication.chunk_rows import not_transformed
from cdc_assets.replication.session import Session, refusals_of
from cdc_assets.shaping.enriching import Enrichment
from cdc_assets.shaping.functions import FunctionError

Pending = dict[TableName, list[ChangeBatch]]


def without_partners(session: Session, table: TableName, batch: ChangeBatch) -> ChangeBatch:
    """Give a batch the columns of other tables, all null: a copy gets them in its place."""
    taken = session.checkpoints[table].shape.enriched
    if not taken:
        return batch
    nothing = [pa.nulls(len(batch), column.type.arrow) for column in taken]
    return with_columns(batch, nothing, [None] * len(nothing))


def with_partners(
    session: Session, table: TableName, batch: ChangeBatch, pending: Pending
) -> ChangeBatch:
    """Give a batch the columns of other tables, as of just before each change.

    Args:
        session: Inside a transaction; the partners' mirrors do not have what is pending of them.
        table: Whose changes these are.
        batch: All that is pending of it.
        pending: What is pending of the others; the batches of a partner are joined.
    """
    enrich = session.shaping(table).enrich
    shape = session.kept_shape(table)
    columns: list[pa.Array] = []
    unknown: list[Mask | None] = []
    for one in enrich:
        columns += _taken(session, batch, shape, one, pending)
        lacks = _lacks(batch, shape, one)
        unknown += [lacks] * len(one.columns)
    return with_columns(batch, columns, unknown) if enrich else batch


def _lacks(batch: ChangeBatch, shape: TableShape, one: Enrichment) -> Mask | None:
    """Find the changes that did not carry what they are joined by: these stay as they were."""
    masks = [
        batch.unchanged[at] for name in one.on if (at := shape.names.index(name)) in batch.unchanged
    ]
    return np.logical_or.reduce(masks) if masks else None


def _taken(
    session: Session, batch: ChangeBatch, shape: TableShape, one: Enrichment, pending: Pending
) -> list[pa.Array]:
    partner, there = one.partner, session.kept_shape(one.partner)
    lefts = {right: left for left, right in one.on.items()}
    keys = [batch.columns[shape.names.index(lefts[name])] for name in there.key]
    asks = (batch.ops == INSERT) | (batch.ops == UPDATE)
    for key in keys:
        asks &= key.is_valid().to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(asks)
    if batch.ordinals is None:
        raise ValueError("changes of a table that takes columns of another were not numbered")
    if partner in pending:
        pending[partner] = [concatenate(pending[partner])]
    asked = Asked(
        [
            _as_key(key.take(pa.array(rows)), column.type.arrow)
            for key, column in zip(keys, there.key_columns, strict=True)
        ],
        batch.end_lsn[rows],
        batch.ordinals[rows],
    )
    names = list(one.columns)
    found = partners_of(
        asked,
        next(iter(pending.get(partner, [])), None),
        there,
        names,
        partial(look_up, session, partner, there, names),
    )
    places = np.cumsum(asks) - 1
    at = pa.array(places, mask=~asks)
    return [column.take(at) for column in found]


def transformed_late(session: Session, table: TableName, batch: ChangeBatch) -> ChangeBatch:
    """Put changes through the function that waits for what their rows take of others.

    What a row was before is not known of the stream, as that does not say what it took then: it is
    what an earlier change in the batch has made of it, or else what the mirror has.

    Args:
        session: Inside a transaction; the table's mirror does not have the changes.
        table: Whose changes these are.
        batch: The changes.

    Raises:
        TransformError: The function fails.
    """
    try:
        done = session.shaping(table).late(batch, session.checkpoints[table].shape)
    except FunctionError as error:
        raise not_transformed(table, error, LSN(batch.end_lsn[0])) from None
    if done.record is None or not len(done.old_rows):
        return done
    shape = session.kept_shape(table)
    numbered, places, _ = places_beside(done, done.old_rows)
    asked = Asked(done.old_key, done.end_lsn[done.old_rows], places)
    names = list(shape.names)
    mirror = partial(look_up, session, table, shape, names)
    before = partners_of(asked, numbered, shape, names, mirror)
    return replace(done, record=replace(done.record, before=before))


def _as_key(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Give values that can be compared with a key: of integers of two sizes in the larger one."""
    return values if values.type == kind else pc.cast(values, pa.int64())


def look_up(
    session: Session,
    partner: TableName,
    shape: TableShape,
    names: Sequence[str],
    keys: Sequence[pa.Array],
) -> pa.Table:
    """Give columns of a partner's mirror for keys; null where there is no row."""
    with refusals_of(partner):
        return session.mirrors.look_up(partner, shape, keys, names)
