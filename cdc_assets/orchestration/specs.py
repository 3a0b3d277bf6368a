"""Asset specs: what is known of a pipeline's assets before anything has run."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from cdc_assets.config import PipelineConfig, ScheduleConfig
from cdc_assets.config.tables import CHANGES, HISTORY
from cdc_assets.identifiers import TableName, record_table
from cdc_assets.orchestration.keys import mirror_key, record_key, slot_key, source_key
from cdc_assets.replication.versions import code_version

_RECORDS = {
    CHANGES: "Every change of the source's `{table}`, once, in the order of `_cdc_lsn` and"
    " `_cdc_seq`.",
    HISTORY: "Every version of every row of the source's `{table}`, with the transactions that"
    " opened and closed it; `{table}__as_of(…)` shows a moment.",
}

_FRESHNESS_GRACE = timedelta(minutes=5)


def source_spec(config: PipelineConfig, table: TableName) -> dg.AssetSpec:
    """Describe a table of the source: nothing materializes it, it is there for the lineage."""
    return dg.AssetSpec(
        source_key(config.name, table),
        # No dagster/table_name: assets that share one are shown as the same table.
        description=f"Table `{table}` of the source, published by `{config.source.publication}`.",
        group_name=f"{config.name}_source",
        kinds={"postgres"},
    )


def mirror_spec(config: PipelineConfig, table: TableName) -> dg.AssetSpec:
    """Describe a table's mirror in the warehouse."""
    return dg.AssetSpec(
        mirror_key(config.name, table),
        deps=_sources(config, table),
        skippable=True,
        description=(
            f"Current rows of the source's `{table}`. A run materializes it when it changed"
            " a row; `_cdc_lsn` and `_cdc_commit_ts` say which transaction wrote each."
        ),
        metadata={"dagster/table_name": str(table)},
        group_name=config.name,
        code_version=code_version(config, table),
        kinds={"duckdb", "table"},
    )


def record_spec(config: PipelineConfig, table: TableName, keep: str) -> dg.AssetSpec:
    """Describe a table's change table or history: it comes out of the mirror's op."""
    beside = (
        " A run that was asked for it brings on the mirror as well, and the reverse: both are"
        " written in one transaction."
        if config.table(table).keeps_mirror
        else " It has no mirror beside it."
    )
    return dg.AssetSpec(
        record_key(mirror_key(config.name, table), keep),
        deps=_sources(config, table),
        skippable=True,
        description=f"{_RECORDS[keep].format(table=table)}{beside}",
        metadata={"dagster/table_name": str(record_table(table, keep))},
        group_name=config.name,
        code_version=code_version(config, table),
        kinds={"duckdb", "table"},
    )


def slot_spec(config: PipelineConfig) -> dg.AssetSpec:
    """Describe the control asset.

    Freshness counts materializations, and a quiet table has none, so it is promised here: every
    run materializes the slot, with or without changes.
    """
    return dg.AssetSpec(
        slot_key(config.name),
        deps=[source_key(config.name, table) for table in config.table_names],
        description=(
            f"Replication slot `{config.source.slot}`: how far the pipeline has read. Every run"
            " materializes it, also one that found no change."
        ),
        skippable=True,
        group_name=config.name,
        kinds={"postgres"},
        freshness_policy=_freshness(config.schedule),
    )


def _sources(config: PipelineConfig, table: TableName) -> list[dg.AssetKey]:
    """Give the tables of the source that rows are made of: the own one, and those of an enrich."""
    partners = sorted(config.links.partners.get(table, ()))
    return [source_key(config.name, one) for one in (table, *partners)]


def _freshness(schedule: ScheduleConfig | None) -> dg.FreshnessPolicy | None:
    if schedule is None:
        return None
    longest = schedule.longest_gap
    return dg.FreshnessPolicy.time_window(
        warn_window=longest + _FRESHNESS_GRACE, fail_window=2 * longest + 3 * _FRESHNESS_GRACE
    )
