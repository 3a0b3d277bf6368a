"""Backfills as Dagster runs them: each mirror has a companion whose partitions are its buckets.

A companion is an asset of its own, with an op of its own: a partitioned and an unpartitioned asset
in one op would make each other's runs impossible. A run is asked for buckets and materializes each
of them, or fails: a backfill waits for ever for a bucket that a run which succeeded left out. So
one that is right already is told of, too, with nothing inserted, changed or removed.

All assets of a partitioned job have the same partitions. So tables with as many buckets as the
config's first one are in the job `<name>_backfill`, those with another number in one beside it.

Annotations are evaluated in this module: Dagster reads the one of an op's context.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

import dagster as dg
from dagster.components.resolved.core_models import OpSpec

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.backfill_text import (
    backfill_line,
    differences,
    differing,
    rows_per_second,
)
from cdc_assets.operations.reporting import megabytes
from cdc_assets.orchestration.failures import describe, run_failure
from cdc_assets.orchestration.keys import names_of
from cdc_assets.orchestration.metadata import Metadata, position_metadata
from cdc_assets.progress import BackfillEvent, BucketBackfilled, WindowApplied
from cdc_assets.waits import listening
from cdc_assets.wording import counted

# What describes a mirror, and would be gone from its page with the next result that lacks it.
_STANDING = ("dagster/table_name", "dagster/column_schema", "dagster/column_lineage", "cdc/comment")


def snapshot_specs(
    config: PipelineConfig, mirrors: Mapping[TableName, dg.AssetSpec]
) -> dict[TableName, dg.AssetSpec]:
    """Describe the companions of a pipeline's mirrors: beside each, and shaped as it is."""
    taken = {spec.key for spec in mirrors.values()}
    specs = {}
    for table, mirror in mirrors.items():
        specs[table] = _snapshot_spec(config, table, mirror, key=_key_beside(mirror.key, taken))
        taken.add(specs[table].key)
    return specs


def _key_beside(mirror: dg.AssetKey, taken: set[dg.AssetKey]) -> dg.AssetKey:
    """Give the companion's key; a source may have a table of that name, too."""
    *folder, name = mirror.path
    key = dg.AssetKey([*folder, f"{name}__snapshot"])
    while key in taken:
        key = dg.AssetKey([*folder, f"{key.path[-1]}_"])
    return key


def _snapshot_spec(
    config: PipelineConfig, table: TableName, mirror: dg.AssetSpec, *, key: dg.AssetKey
) -> dg.AssetSpec:
    backfill = config.table(table).backfill
    shown = mirror.key.to_user_string()
    return dg.AssetSpec(
        key,
        deps=mirror.deps,
        description=(
            f"The rows of the source's `{table}`, in {counted(backfill.buckets, 'bucket')}: ranges"
            f" of its key. Materializing one reads it anew and puts right what differs in the"
            f" mirror `{shown}`, which stays readable and goes on being synced meanwhile. A mirror"
            " that can't go on, or is not there yet, is copied as a whole."
        ),
        metadata={
            "cdc/mirror": dg.MetadataValue.asset(mirror.key),
            **{name: value for name, value in mirror.metadata.items() if name.startswith("cdc/")},
        },
        # Not the mirrors' own: "Materialize all" of that is a sync, which has no partitions
        group_name=f"{mirror.group_name}_backfill",
        tags={tag: value for tag, value in mirror.tags.items() if not tag.startswith("dagster/")},
        owners=mirror.owners,
        kinds={"duckdb", "snapshot"},
        partitions_def=dg.StaticPartitionsDefinition(backfill.bucket_names),
    )


def snapshot_assets(
    config: PipelineConfig,
    specs: Mapping[TableName, dg.AssetSpec],
    *,
    mirrors: Mapping[TableName, dg.AssetKey],
    op: OpSpec,
) -> list[dg.AssetsDefinition]:
    """Define the companions.

    Args:
        config: The pipeline.
        specs: What describes each.
        mirrors: The mirrors' keys.
        op: How the user shaped the sync's op: a backfill's has the same tags, and its own pool, as
            syncs go on while it does.
    """
    names = {key: name for name, key in names_of(spec.key for spec in specs.values()).items()}
    return [
        _snapshot_asset(config, table, spec, name=names[spec.key], mirror=mirrors[table], op=op)
        for table, spec in specs.items()
    ]


def _snapshot_asset(
    config: PipelineConfig,
    table: TableName,
    spec: dg.AssetSpec,
    *,
    name: str,
    mirror: dg.AssetKey,
    op: OpSpec,
) -> dg.AssetsDefinition:
    inputs = names_of(dep.asset_key for dep in spec.deps)

    @dg.op(
        name=name,
        description=f"Backfills the buckets of {table} that the run was asked for.",
        tags=op.tags,
        pool=f"{op.pool or f'cdc_{config.name}'}_backfill",
        ins={name: dg.In(dg.Nothing) for name in inputs},
        out={"result": dg.Out(dg.Nothing)},
    )
    def backfill_buckets(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        yield from run_backfill(context, config, table, mirror)

    return dg.AssetsDefinition(
        keys_by_input_name=inputs,
        keys_by_output_name={"result": spec.key},
        node_def=backfill_buckets,
        specs=[spec],
        # A run of many buckets would fail for all of them where one fails
        backfill_policy=dg.BackfillPolicy.multi_run(),
    )


def backfill_jobs(
    config: PipelineConfig, specs: Mapping[TableName, dg.AssetSpec]
) -> dg.Definitions:
    """Define the job `<name>_backfill`, and one more for each other number of buckets."""
    by_buckets: dict[int, list[dg.AssetKey]] = {}
    for table, spec in specs.items():
        by_buckets.setdefault(config.table(table).backfill.buckets, []).append(spec.key)
    return dg.Definitions(
        jobs=[
            dg.define_asset_job(
                f"{config.name}_backfill" + (f"_{buckets}" if at else ""),
                selection=dg.AssetSelection.assets(*keys),
                executor_def=dg.in_process_executor,
                description=(
                    f"Reads a bucket of each table of {config.name} anew, of those with"
                    f" {counted(buckets, 'bucket')}, and puts right what differs."
                ),
            )
            for at, (buckets, keys) in enumerate(by_buckets.items())
        ]
    )


def run_backfill(
    context: dg.AssetExecutionContext,
    config: PipelineConfig,
    table: TableName,
    mirror: dg.AssetKey,
) -> Iterator[dg.MaterializeResult[None]]:
    """Backfill the buckets that a run was asked for, and materialize them.

    Raises:
        dg.Failure: The run failed; buckets that were durable before are reported.
        dg.RetryRequested: What is in the way may be gone at the next try.
    """
    from cdc_assets.replication.backfill import backfill

    run = _Run(context, config, table, mirror)
    broke_off: CdcError | None = None
    try:
        with (
            closing(backfill(config, table, buckets=run.asked)) as events,
            listening(context.log.info),
        ):
            for event in events:
                run.report(event)
    except CdcError as error:
        broke_off = error  # raised below, where it is no failure's context
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        context.log.warning("stopped: what was committed stays, a backfill of the rest goes on")
        run.report_what_is_durable()
        raise
    if broke_off is not None:
        context.log.error(describe(broke_off, config.name))
        run.report_what_is_durable()
        raise run_failure(broke_off, config.name, retries=context.retry_number)
    yield run.result()
    run.tell_mirror()


class _Run:
    """Reports a run's events, and keeps what is durable of the buckets that it was asked for."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        config: PipelineConfig,
        table: TableName,
        mirror: dg.AssetKey,
    ) -> None:
        self._context, self._config, self._table, self._mirror = context, config, table, mirror
        self.asked: Sequence[str] = context.partition_keys
        self._done: list[BucketBackfilled] = []
        self._streamed = 0

    def report(self, event: BackfillEvent) -> None:
        """Log an event, and keep what Dagster is told of it at the end."""
        self._context.log.info(backfill_line(event))
        if isinstance(event, BucketBackfilled):
            self._done.append(event)
        elif isinstance(event, WindowApplied) and self._table in event.tables:
            self._streamed += event.tables[self._table].total

    def result(self) -> dg.MaterializeResult[None]:
        """Materialize every bucket that was asked for.

        Raises:
            dg.Failure: One was left out.
        """
        told = self._told()
        left_out = [bucket for bucket in self.asked if bucket not in told]
        if left_out:
            raise dg.Failure(
                f"bucket {', '.join(map(repr, left_out))} of {str(self._table)!r} was not"
                " backfilled, and nothing said why",
                allow_retries=False,
            )
        for bucket, found in told.items():
            self._context.add_asset_metadata(
                found, asset_key=self._context.asset_key, partition_key=bucket
            )
        return dg.MaterializeResult(asset_key=self._context.asset_key)

    def report_what_is_durable(self) -> None:
        """Materialize what was done before the run broke off: logged, as it may be tried again."""
        for bucket, found in self._told().items():
            self._context.log_event(
                dg.AssetMaterialization(self._context.asset_key, metadata=found, partition=bucket)
            )
        self.tell_mirror()

    def tell_mirror(self) -> None:
        """Materialize the mirror where rows of it were written: what waits for it is to start.

        One of which nothing was told yet is left to the next sync, which tells all there is to say.
        """
        written = self._streamed + sum(differing(event) for event in self._done)
        last = self._context.instance.get_latest_materialization_event(self._mirror)
        if not written or not self._done or last is None or last.asset_materialization is None:
            return
        before, lsn = last.asset_materialization.metadata, self._done[-1].lsn
        self._context.log_event(
            dg.AssetMaterialization(
                self._mirror,
                description=f"written by a backfill: {counted(written, 'row')}",
                metadata={
                    **{name: before[name] for name in _STANDING if name in before},
                    **position_metadata(lsn),
                },
                tags={"dagster/data_version": str(lsn)},
            )
        )

    def _told(self) -> dict[str, Metadata]:
        """Give what is said of each bucket that was asked for and is done."""
        found = {event.bucket: bucket_metadata(event) for event in self._done}
        whole = found.pop("", None)
        if whole is not None:  # the mirror could not go on: a part of it could not be put right
            return dict.fromkeys(self.asked, whole)
        return {bucket: found[bucket] for bucket in self.asked if bucket in found}


def bucket_metadata(event: BucketBackfilled) -> Metadata:
    """Describe what a backfill found and did in a bucket, or in the whole table."""
    size = f"{counted(event.rows_read, 'row')} ({megabytes(event.nbytes)}) in {event.seconds:.1f} s"
    return {
        "cdc/backfilled": dg.MetadataValue.text(
            f"{'' if event.bucket else 'the whole table: '}{size}, {differences(event)}"
        ),
        **_key_range(event),
        "cdc/rows_read": dg.MetadataValue.int(event.rows_read),
        "cdc/rows_inserted": dg.MetadataValue.int(event.rows_inserted),
        "cdc/rows_changed": dg.MetadataValue.int(event.rows_changed),
        "cdc/rows_removed": dg.MetadataValue.int(event.rows_removed),
        **position_metadata(event.lsn),
        "cdc/seconds": dg.MetadataValue.float(round(event.seconds, 1)),
        "cdc/rows_per_second": dg.MetadataValue.int(rows_per_second(event)),
        "cdc/bytes": dg.MetadataValue.int(event.nbytes),
    }


def _key_range(event: BucketBackfilled) -> Metadata:
    ends = [
        f"{word} {', '.join(key)}"
        for word, key in (("past", event.low), ("up to", event.high))
        if key is not None
    ]
    return {"cdc/key_range": dg.MetadataValue.text(" ".join(ends))} if ends else {}
