"""The check `equals_source` on every mirror: that it has its source table's rows, at one LSN.

It reads tables as a whole, so nothing but its job, its schedule and its own button run it. Dagster
adds an asset's checks to whatever materializes the asset; there it is left out, as a sync that was
asked for is no reason to read the source's tables.

Annotations are evaluated in this module: Dagster reads the one of an op's context.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Self

import dagster as dg
from dagster._utils.warnings import disable_dagster_warnings
from dagster.components.resolved.core_models import OpSpec

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.hints import with_options
from cdc_assets.operations.reconcile_text import (
    COUNTED,
    compared_line,
    counts_of,
    details,
    reconcile_line,
    totals,
)
from cdc_assets.orchestration.failures import MAX_RETRIES, describe, run_failure
from cdc_assets.orchestration.keys import names_of
from cdc_assets.orchestration.metadata import Metadata
from cdc_assets.orchestration.schedule import scheduled
from cdc_assets.orchestration.under_way import Job
from cdc_assets.progress import BucketCompared, RunMark, TableCompared
from cdc_assets.waits import listening

EQUALS_SOURCE = "equals_source"
_MOST_BUCKETS = 200
# Nothing differs, as far as anybody knows
_WARN = dg.AssetCheckSeverity.WARN


class _Checks(dg.AssetChecksDefinition):
    """Checks that stay checks when Dagster adds to them where a component's file is.

    Its own copy is one of an asset, made into a check again for each key, with a warning to users
    that a parameter of that is in beta.
    """

    @classmethod
    def dagster_internal_init(cls, **attributes: Any) -> Self:
        with disable_dagster_warnings():
            return cls(**attributes)


def equality_checks(
    config: PipelineConfig, mirrors: Mapping[TableName, dg.AssetKey], *, op: OpSpec
) -> dg.AssetChecksDefinition:
    """Define the check of every mirror: one op, which looks at those that it is asked for."""
    specs = [_check_spec(config, table, key) for table, key in mirrors.items()]
    inputs = names_of(mirrors.values())
    # The check's own name for it gives `a_b.c` and `a.b_c` one name: see names_of
    outputs = {f"{name}_{EQUALS_SOURCE}": spec for name, spec in zip(inputs, specs, strict=True)}
    sample = config.reconcile.sample if config.reconcile else 1.0

    @dg.op(
        name=f"{config.name}_{EQUALS_SOURCE}",
        description="Compares the selected mirrors with the source, while syncs go on.",
        tags=op.tags,
        pool=f"{op.pool or f'cdc_{config.name}'}_reconcile",
        config_schema={
            "sample": dg.Field(
                float, default_value=sample, description="Which share of the buckets is compared."
            ),
            "repair": dg.Field(
                bool, default_value=False, description="Backfill the buckets that differ."
            ),
        },
        ins={name: dg.In(dg.Nothing) for name in inputs},
        out={name: dg.Out(dg.Nothing, is_required=False) for name in outputs},
    )
    def compare_mirrors(context: dg.OpExecutionContext) -> Iterator[dg.AssetCheckResult]:
        yield from run_reconcile(context, config, mirrors)

    return _Checks.dagster_internal_init(
        keys_by_input_name=inputs,
        keys_by_output_name={},
        node_def=compare_mirrors,
        check_specs_by_output_name=outputs,
        can_subset=True,
    )


def _check_spec(config: PipelineConfig, table: TableName, mirror: dg.AssetKey) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        EQUALS_SOURCE,
        asset=mirror,
        description=(
            f"The mirror has the rows of the source's `{table}`, all of them and no others, at one"
            f" LSN. Run it here or by `{config.name}_reconcile`: a sync does not."
        ),
    )


def reconcile_job_and_schedule(
    config: PipelineConfig, checks: dg.AssetChecksDefinition
) -> dg.Definitions:
    """Define the job that runs the check of every mirror, and its schedule where there is one."""
    job = dg.define_asset_job(
        f"{config.name}_reconcile",
        selection=dg.AssetSelection.checks(*checks.check_keys),
        executor_def=dg.in_process_executor,
        description=f"Compares every mirror of {config.name} with its source table.",
    )
    if config.reconcile is None:
        return dg.Definitions(jobs=[job])
    watched = Job(config, job.name, keys=())
    return dg.Definitions(
        jobs=[job], schedules=[scheduled(job, config.reconcile.schedule, watched)]
    )


def run_reconcile(
    context: dg.OpExecutionContext, config: PipelineConfig, mirrors: Mapping[TableName, dg.AssetKey]
) -> Iterator[dg.AssetCheckResult]:
    """Compare the selected mirrors; one that can't be compared now says why.

    Raises:
        dg.Failure: The source or the warehouse refused; what was compared before is reported.
        dg.RetryRequested: What is in the way may be gone at the next try.
    """
    asked = {key.asset_key for key in context.selected_asset_check_keys}
    if asked & (context.run.asset_selection or set()):
        context.log.info(f"{EQUALS_SOURCE} is left out beside a sync: run the check by itself")
        return
    from cdc_assets.replication.reconcile import reconcile

    tables, given = [table for table, key in mirrors.items() if key in asked], context.op_config
    run = RunMark("reconcile", context.run.run_id)
    # An op that is tried again must not have yielded its outputs
    retries = context.retry_number
    broke_off: CdcError | None = None
    try:
        with (
            closing(reconcile(config, tables=tables, run=run, **given)) as events,
            listening(context.log.info),
        ):
            for event in events:
                context.log.info(reconcile_line(event))
                if isinstance(event, TableCompared):
                    retries = MAX_RETRIES
                    yield _result(event, mirrors[event.table], config)
    except CdcError as error:
        broke_off = error  # raised below, where it is no failure's context
    if broke_off is not None:
        context.log.error(describe(broke_off, config.name))
        raise run_failure(broke_off, config.name, retries=retries)


def _result(
    compared: TableCompared, mirror: dg.AssetKey, config: PipelineConfig
) -> dg.AssetCheckResult:
    # Shown as Markdown, where one line break is none
    text = "\n\n".join([compared_line(compared), *details(compared)])
    return dg.AssetCheckResult(
        asset_key=mirror,
        check_name=EQUALS_SOURCE,
        passed=compared.equal,
        severity=_WARN if compared.not_compared else dg.AssetCheckSeverity.ERROR,
        description=with_options(text, f"--pipeline {config.name}"),
        metadata=_check_metadata(compared),
    )


def _check_metadata(compared: TableCompared) -> Metadata:
    if compared.not_compared:
        return {}
    found: Metadata = {
        f"cdc/{name}": dg.MetadataValue.int(count)
        for name, count in zip(COUNTED, totals(compared), strict=True)
    }
    if compared.columns:
        found["cdc/columns"] = dg.MetadataValue.text(", ".join(compared.columns))
    return {
        **found,
        "cdc/at_lsn": dg.MetadataValue.text(str(compared.at_lsn)),
        "cdc/seconds": dg.MetadataValue.float(round(compared.seconds, 1)),
        "cdc/buckets": _bucket_table(compared.buckets),
    }


def _bucket_table(buckets: Sequence[BucketCompared]) -> dg.MetadataValue:
    """Show the buckets, those that differ first."""
    shown = sorted(buckets, key=lambda bucket: bucket.equal)[:_MOST_BUCKETS]
    return dg.MetadataValue.table(
        records=[
            dg.TableRecord(
                {
                    "bucket": one.bucket,
                    **dict(zip(COUNTED, counts_of(one), strict=True)),
                    "at_lsn": str(one.at_lsn),
                }
            )
            for one in shown
        ],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn("bucket", "string"),
                *(dg.TableColumn(name, "int") for name in COUNTED),
                dg.TableColumn("at_lsn", "string"),
            ]
        ),
    )
