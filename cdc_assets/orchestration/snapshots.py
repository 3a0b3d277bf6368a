"""Companions of the mirrors, whose partitions are a table's buckets: what a backfill is asked for.

A companion is an asset of its own, with an op of its own: a partitioned and an unpartitioned asset
in one op would make each other's runs impossible.

All assets of a partitioned job have the same partitions. So tables with as many buckets as the
config's first one are in the job `<name>_backfill`, those with another number in one beside it.

Annotations are evaluated in this module: Dagster reads the one of an op's context.
"""

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg
from dagster.components.resolved.core_models import OpSpec

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.orchestration.backfill import run_backfill
from cdc_assets.orchestration.keys import names_of
from cdc_assets.wording import counted


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
    kept: Mapping[TableName, Sequence[dg.AssetKey]],
    op: OpSpec,
) -> list[dg.AssetsDefinition]:
    """Define the companions.

    Args:
        config: The pipeline.
        specs: What describes each.
        kept: The keys of mirrors, each with those of what is kept beside it.
        op: How the user shaped the sync's op: a backfill's has the same tags, and its own pool, as
            syncs go on while it does.
    """
    names = {key: name for name, key in names_of(spec.key for spec in specs.values()).items()}
    return [
        _snapshot_asset(config, table, spec, name=names[spec.key], kept=kept[table], op=op)
        for table, spec in specs.items()
    ]


def _snapshot_asset(
    config: PipelineConfig,
    table: TableName,
    spec: dg.AssetSpec,
    *,
    name: str,
    kept: Sequence[dg.AssetKey],
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
        yield from run_backfill(context, config, table, kept)

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
