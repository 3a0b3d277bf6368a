"""The job that makes mirrors and histories anew from their change tables, without the source.

Annotations are evaluated in this module: Dagster reads the one of an op's context.
"""

from collections.abc import Mapping
from contextlib import closing

import dagster as dg
from dagster.components.resolved.core_models import OpSpec

from cdc_assets.config import PipelineConfig
from cdc_assets.config.tables import CHANGES, HISTORY
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.operations.rebuild_text import rebuild_line
from cdc_assets.orchestration.execution import PipelineAssets
from cdc_assets.orchestration.failures import each_table, or_failure
from cdc_assets.orchestration.metadata import Metadata
from cdc_assets.orchestration.told import tell_anew
from cdc_assets.progress import TableRebuilt
from cdc_assets.waits import listening


def rebuild_job(config: PipelineConfig, assets: PipelineAssets, *, op: OpSpec) -> dg.Definitions:
    """Define the job, where a table has changes beside its mirror.

    Args:
        config: The pipeline.
        assets: Its keys.
        op: How the user shaped the sync's op: this one has the same tags and pool, as only one of
            them can have the warehouse.
    """
    if not any(CHANGES in kept for kept in assets.records.values()):
        return dg.Definitions()

    @dg.op(
        name=f"{config.name}_rebuild_tables",
        description="Makes tables anew from their change tables, while syncs wait.",
        tags=op.tags,
        pool=op.pool or f"cdc_{config.name}",
        config_schema={
            "tables": dg.Field([str], description="Which, as the config names them."),
            "to_lsn": dg.Field(
                str, default_value="", description="As of which LSN, with `into`; else of now."
            ),
            "into": dg.Field(
                str,
                default_value="",
                description="The name, schema.table, that the one table gets beside what is there;"
                " else each takes its mirror's place.",
            ),
        },
        out=dg.Out(dg.Nothing),
    )
    def rebuild_tables(context: dg.OpExecutionContext) -> None:
        run_rebuild(context, config, assets)

    @dg.job(
        name=f"{config.name}_rebuild",
        executor_def=dg.in_process_executor,
        description=f"Makes mirrors and histories of {config.name} anew from their change tables.",
    )
    def rebuild_job() -> None:
        rebuild_tables()

    return dg.Definitions(jobs=[rebuild_job])


def run_rebuild(
    context: dg.OpExecutionContext, config: PipelineConfig, assets: PipelineAssets
) -> None:
    """Rebuild the tables of the op's config; one that can't be does not stop the others.

    Raises:
        dg.Failure: The warehouse refused, or a table could not be rebuilt; the others are told of.
        dg.RetryRequested: What is in the way may be gone at the next try.
    """
    tables, to_lsn, into = or_failure(
        context, config.name, lambda: _asked(config, context.op_config)
    )

    def one(table: TableName) -> None:
        _rebuild(context, config, assets, table, to_lsn=to_lsn, into=into)

    each_table(context, config.name, tables, one, otherwise="was not rebuilt")


def _asked(
    config: PipelineConfig, given: Mapping[str, object]
) -> tuple[tuple[TableName, ...], LSN | None, TableName | None]:
    names, lsn, into = given["tables"], str(given["to_lsn"]), str(given["into"])
    tables = config.select(names if isinstance(names, list) else [])
    if not tables or (into and len(tables) > 1):
        raise ConfigError(
            "expected " + ("one table to make beside what is there" if into else "tables"),
            hint="ops.…_rebuild_tables.config.tables in the run's config",
        )
    try:
        return (
            tables,
            LSN.parse(lsn) if lsn else None,
            TableName.parse(into) if into else None,
        )
    except ValueError as error:
        raise ConfigError(str(error), hint="correct the run's config") from error


def _rebuild(
    context: dg.OpExecutionContext,
    config: PipelineConfig,
    assets: PipelineAssets,
    table: TableName,
    *,
    to_lsn: LSN | None,
    into: TableName | None,
) -> None:
    from cdc_assets.replication.rebuilding import rebuild

    with (
        closing(rebuild(config, table, to_lsn=to_lsn, into=into)) as events,
        listening(context.log.info),
    ):
        for event in events:
            context.log.info(rebuild_line(event))
            if isinstance(event, TableRebuilt):
                for note in event.notes:
                    context.log.warning(note)
                if into is None:
                    _tell(context, assets, event)


def _tell(context: dg.OpExecutionContext, assets: PipelineAssets, done: TableRebuilt) -> None:
    beside = assets.records[done.table]
    made = {assets.kept[done.table]: done.rows}
    if done.versions is not None:
        made[beside[HISTORY]] = done.versions
    for key, rows in made.items():
        found: Metadata = {
            "cdc/rebuilt": dg.MetadataValue.text(rebuild_line(done)),
            "cdc/rebuilt_from": dg.MetadataValue.asset(beside[CHANGES]),
            "cdc/rebuilt_since_lsn": dg.MetadataValue.text(str(done.since_lsn)),
            "cdc/changes_applied": dg.MetadataValue.int(done.changes),
            "cdc/seconds": dg.MetadataValue.float(round(done.seconds, 1)),
            "dagster/row_count": dg.MetadataValue.int(rows),
        }
        tell_anew(context, key, description="rebuilt from its changes", found=found, lsn=done.lsn)
