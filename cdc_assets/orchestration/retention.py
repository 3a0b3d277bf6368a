"""The job that removes changes which are older than they are kept, and its schedule.

Annotations are evaluated in this module: Dagster reads the one of an op's context.
"""

from collections.abc import Iterable
from contextlib import closing

import dagster as dg
from dagster.components.resolved.core_models import OpSpec

from cdc_assets.config import PipelineConfig, ScheduleConfig
from cdc_assets.config.tables import CHANGES
from cdc_assets.identifiers import TableName
from cdc_assets.operations.rebuild_text import retain_line
from cdc_assets.orchestration.execution import PipelineAssets
from cdc_assets.orchestration.failures import each_table
from cdc_assets.orchestration.schedule import scheduled
from cdc_assets.orchestration.under_way import Job
from cdc_assets.progress import TableRetained
from cdc_assets.waits import listening

EVERY_NIGHT = "0 4 * * *"


def retention_job_and_schedule(
    config: PipelineConfig, assets: PipelineAssets, *, op: OpSpec
) -> dg.Definitions:
    """Define them, where a table keeps changes for a while.

    The schedule is on when that of the syncs is, and there is none where these have none.

    Args:
        config: The pipeline.
        assets: Its keys.
        op: How the user shaped the sync's op: this one has the same tags and pool, as only one of
            them can have the warehouse.
    """
    limited = [table.name for table in config.tables if table.changes.is_limited]
    if not limited:
        return dg.Definitions()

    @dg.op(
        name=f"{config.name}_remove_changes",
        description="Removes changes that are older than they are kept, while syncs wait.",
        tags=op.tags,
        pool=op.pool or f"cdc_{config.name}",
        out=dg.Out(dg.Nothing),
    )
    def remove_changes(context: dg.OpExecutionContext) -> None:
        run_retention(context, config, assets, limited)

    @dg.job(
        name=f"{config.name}_retention",
        executor_def=dg.in_process_executor,
        description=f"Removes changes of {config.name} that are older than they are kept.",
    )
    def retention() -> None:
        remove_changes()

    if config.schedule is None:
        return dg.Definitions(jobs=[retention])
    nightly = ScheduleConfig(
        cron=EVERY_NIGHT, timezone=config.schedule.timezone, start=config.schedule.start
    )
    watched = Job(config, retention.name, keys=())
    return dg.Definitions(jobs=[retention], schedules=[scheduled(retention, nightly, watched)])


def run_retention(
    context: dg.OpExecutionContext,
    config: PipelineConfig,
    assets: PipelineAssets,
    tables: Iterable[TableName],
) -> None:
    """Remove old changes of tables; one of which they can't be does not stop the others.

    Raises:
        dg.Failure: The warehouse refused, or changes do not add up; the other tables are told of.
        dg.RetryRequested: What is in the way may be gone at the next try.
    """

    def one(table: TableName) -> None:
        _retain(context, config, assets, table)

    each_table(context, config.name, tables, one, otherwise="keeps the changes that it has")


def _retain(
    context: dg.OpExecutionContext, config: PipelineConfig, assets: PipelineAssets, table: TableName
) -> None:
    from cdc_assets.replication.retaining import retain

    changes = assets.records.get(table, {}).get(CHANGES, assets.kept[table])
    with closing(retain(config, table)) as events, listening(context.log.info):
        for event in events:
            context.log.info(retain_line(event))
            if isinstance(event, TableRetained):
                for note in event.notes:
                    context.log.info(note)
                context.log_event(_observation(changes, event))


def _observation(key: dg.AssetKey, done: TableRetained) -> dg.AssetObservation:
    notes = {"cdc/notes": dg.MetadataValue.text(" ".join(done.notes))} if done.notes else {}
    return dg.AssetObservation(
        key,
        description=retain_line(done),
        metadata={
            "cdc/changes_removed": dg.MetadataValue.int(done.removed),
            "cdc/since_lsn": dg.MetadataValue.text(str(done.since_lsn)),
            "cdc/since_lsn_int": dg.MetadataValue.int(int(done.since_lsn)),
            "cdc/seconds": dg.MetadataValue.float(round(done.seconds, 1)),
            **notes,
        },
    )
