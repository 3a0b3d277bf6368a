"""A mirror and its history made anew from the change table alone, without the source.

What is made beside the mirror that is there (`replaying`) takes its place in one transaction, so a
rebuild that is killed leaves the mirror as it was.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.progress import RebuildEvent, TableRebuilt
from cdc_assets.replication.publishing import publish_copy
from cdc_assets.replication.rebuildable import RebuildPlan, plan_rebuild
from cdc_assets.replication.replaying import Replay, in_warehouse
from cdc_assets.steps import reached
from cdc_assets.warehouse.base import Warehouse


def rebuild(
    config: PipelineConfig,
    table: TableName,
    *,
    to_lsn: LSN | None = None,
    into: TableName | None = None,
) -> Generator[RebuildEvent]:
    """Make a table's mirror, and the history if one is kept, anew from its change table.

    Args:
        config: The pipeline.
        table: One of its tables.
        to_lsn: As of which LSN; by default as of its checkpoint.
        into: The name that it gets, beside the mirror; None: it takes the mirror's place.

    Yields:
        An event per part of the changes that were applied, and `TableRebuilt`.

    Raises:
        TableError: It can't be rebuilt, or its changes do not add up; the mirror is as it was.
        WarehouseError: The warehouse refuses.
    """

    def work(warehouse: Warehouse) -> Iterator[RebuildEvent]:
        plan = plan_rebuild(config, warehouse, table, to_lsn=to_lsn, into=into)
        yield from _rebuilt(config, warehouse, plan)

    yield from in_warehouse(config, work)


def _rebuilt(
    config: PipelineConfig, warehouse: Warehouse, plan: RebuildPlan
) -> Iterator[RebuildEvent]:
    started, made = time.monotonic(), plan.made
    replay = Replay(warehouse, plan)
    yield from replay.events()
    rows = warehouse.mirrors.row_count(made.stage)
    versions = None
    if made.has_history:
        versions = warehouse.mirrors.row_count(warehouse.histories.name(made.stage))
    _put(warehouse, plan)
    _, failed = publish_copy(config, warehouse)
    yield TableRebuilt(
        table=made.table,
        into=plan.into,
        since_lsn=made.since.lsn,
        lsn=plan.upto,
        rows=rows,
        versions=versions,
        changes=replay.changes,
        seconds=time.monotonic() - started,
        notes=(*plan.notes, *([failed] if failed else [])),
    )


def _put(warehouse: Warehouse, plan: RebuildPlan) -> None:
    state = warehouse.state
    with warehouse.transaction():
        if plan.into is not None:
            warehouse.rebuilds.leave(plan.made, plan.into, plan.upto)
        else:
            warehouse.rebuilds.put_in_place(plan.made)
            warehouse.moments.show(plan.made.table, plan.made.shape)
            if plan.checkpoint.error:
                state.write(replace(plan.checkpoint, error=""))
        state.renew_stamp()
        reached("rebuild_staged")
    reached("rebuild_placed")
