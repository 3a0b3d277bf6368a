"""Changes are kept for as long as the config says; what is older goes, the table as of then stays.

The change table begins later then: with the rows as they were at an LSN, which are made of its
changes up to there (`replaying`), and have the LSNs and times of the transactions that wrote them.
So what is rebuilt of it is the same, and from there on as of every LSN. It changes in one
transaction: whoever is killed has removed all of it or nothing.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from datetime import timedelta

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.progress import RetainEvent, TableRetained
from cdc_assets.replication.publishing import publish_copy
from cdc_assets.replication.rebuildable import RebuildPlan, kept_shape, older_history, stage_name
from cdc_assets.replication.replaying import Replay, in_warehouse
from cdc_assets.steps import reached
from cdc_assets.warehouse.base import Warehouse
from cdc_assets.warehouse.values import Bounds, Checkpoint, Rebuild


def retain(config: PipelineConfig, table: TableName) -> Generator[RetainEvent]:
    """Remove the changes of a table that are older than they are kept.

    Args:
        config: The pipeline.
        table: One of its tables, with a limit in `changes`.

    Yields:
        An event per part of the changes that were applied, and `TableRetained`.

    Raises:
        TableError: Its changes are not what its mirror is made of, or do not add up; they stay.
        WarehouseError: The warehouse refuses.
    """

    def work(warehouse: Warehouse) -> Iterator[RetainEvent]:
        yield from _retained(config, warehouse, table)

    yield from in_warehouse(config, work)


def _retained(
    config: PipelineConfig, warehouse: Warehouse, table: TableName
) -> Iterator[RetainEvent]:
    started = time.monotonic()
    checkpoint, bounds = warehouse.state.read().get(table), warehouse.change_tables.bounds(table)
    upto = None if bounds is None else _limit(config, warehouse, table, bounds.since.lsn)
    if checkpoint is None or bounds is None or upto is None:
        since = LSN(0) if bounds is None else bounds.since.lsn
        yield TableRetained(table, since, since, 0, None, time.monotonic() - started)
        return
    rows: int | None = None
    if config.table(table).keeps_mirror:
        plan = _plan(config, warehouse, checkpoint, bounds, upto)
        yield from Replay(warehouse, plan).events()
        with warehouse.transaction():
            removed, rows = warehouse.retention.fold(plan.made, upto)
            warehouse.moments.show(table, plan.made.shape)
            warehouse.state.renew_stamp()
            reached("changes_folded")
    else:
        with warehouse.transaction():
            removed = warehouse.retention.cut(table, upto)
            warehouse.state.renew_stamp()
            reached("changes_folded")
    _, failed = publish_copy(config, warehouse)
    notes = [_of_history(config, warehouse, table, upto), failed]
    yield TableRetained(
        table=table,
        before_lsn=bounds.since.lsn,
        since_lsn=upto,
        removed=removed,
        rows=rows,
        seconds=time.monotonic() - started,
        notes=tuple(filter(None, notes)),
    )


def _limit(
    config: PipelineConfig, warehouse: Warehouse, table: TableName, since: LSN
) -> LSN | None:
    """Find up to where changes go; at it all rows of the table are known."""
    said, retention = config.table(table).changes, warehouse.retention
    upto: LSN | None = None
    if said.keep_days is not None:
        upto = retention.older_than(table, timedelta(days=said.keep_days))
    elif said.keep_bytes is not None:
        upto = retention.past_bytes(table, said.keep_bytes)
    unknown = [*warehouse.state.read_ahead(table), *warehouse.change_tables.gaps(table)]
    for low, high in sorted(unknown, key=lambda ends: ends[0], reverse=True):
        if upto is not None and low < upto and (high is None or upto < high):
            upto = low
    return upto if upto is not None and upto > since else None


def _plan(
    config: PipelineConfig,
    warehouse: Warehouse,
    checkpoint: Checkpoint,
    bounds: Bounds,
    upto: LSN,
) -> RebuildPlan:
    table = checkpoint.table
    made = Rebuild(
        table=table,
        stage=stage_name(table),
        shape=kept_shape(config, warehouse, checkpoint),
        since=bounds.since,
        has_history=False,
    )
    return RebuildPlan(checkpoint, made, upto, None, warehouse.state.read_ahead(table))


def _of_history(config: PipelineConfig, warehouse: Warehouse, table: TableName, since: LSN) -> str:
    """Say what becomes of a rebuild of a history that goes further back."""
    begins = older_history(config, warehouse, table, since)
    if begins is None:
        return ""
    return (
        f"the history of {table} begins at {begins} and keeps all it has; its changes begin at "
        f"{since} now, so a rebuild leaves it as it is from now on"
    )
