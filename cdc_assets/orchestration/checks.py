"""Asset checks on the slot: its health as Dagster shows it.

The sync's own op looks after each sync, and a sensor looks when no sync does. Dagster shows an
outcome of an asset's last materialization only, so each sync tells all of them; the sensor tells
what has another outcome than before, and all of it once an hour.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)

from cdc_assets.config import PipelineConfig
from cdc_assets.operations.hints import with_options
from cdc_assets.orchestration.metadata import Metadata

if TYPE_CHECKING:
    from cdc_assets.operations.finding import HealthCheck

TOLD_AGAIN_SECONDS = 3600.0

# Their names without the import of what evaluates them: it needs drivers, and these load with the
# definitions.
DESCRIPTIONS: Mapping[str, str] = {
    "source": "The source can be asked.",
    "last_sync": "The last sync ended well, for every table.",
    "slot_lag": "The mirrors are not too far behind the source, in WAL and in time.",
    "slot_moving": "Syncs that end well bring the slot on: one that stands still pins WAL.",
    "wal_retained": "The source does not keep too much WAL for the slot.",
    "wal_safe": "The slot is there, and far from being ended by max_slot_wal_keep_size.",
    "open_transaction": "No transaction is open for so long that the slot's WAL can't be removed.",
    "idle_timeout": "The slot is not given up between two syncs by idle_replication_slot_timeout.",
    "warehouse": "The warehouse that the slot serves is where the config says.",
    "publication": "The publication carries every table of the config.",
    "schema_drift": "The source's tables have the columns and keys of their mirrors.",
}
# What plots on the slot, by the check that finds it.
_PLOTTED = {
    ("wal_retained", "retained_bytes"): "cdc/retained_bytes",
    ("wal_safe", "safe_wal_bytes"): "cdc/safe_wal_bytes",
    ("slot_lag", "lag_bytes"): "cdc/lag_bytes",
    ("slot_lag", "lag_seconds"): "cdc/lag_seconds",
    ("open_transaction", "transaction_seconds"): "cdc/oldest_transaction_seconds",
}


def check_specs(slot: dg.AssetKey) -> list[dg.AssetCheckSpec]:
    """Describe the checks on a pipeline's slot. None of them blocks: the mirrors are right."""
    return [
        dg.AssetCheckSpec(name, asset=slot, description=description)
        for name, description in DESCRIPTIONS.items()
    ]


def plots(checks: Iterable[HealthCheck]) -> Metadata:
    """Give the numbers that plot; no open transaction is one of 0 seconds."""
    values = {(one.name, key): value for one in checks for key, value in one.values.items()}
    found: Metadata = {
        name: dg.MetadataValue.int(value)
        if isinstance(value, int)
        else dg.MetadataValue.float(float(value))
        for place, name in _PLOTTED.items()
        if (value := values.get(place)) is not None
    }
    found.setdefault("cdc/oldest_transaction_seconds", dg.MetadataValue.float(0.0))
    return found


def evaluations(
    checks: Iterable[HealthCheck], config: PipelineConfig, slot: dg.AssetKey
) -> list[dg.AssetCheckEvaluation]:
    """Give the events for what was found of a pipeline's slot."""
    return [_evaluation(one, config=config, slot=slot) for one in checks]


def news(
    found: Iterable[dg.AssetCheckEvaluation], instance: dg.DagsterInstance
) -> list[dg.AssetCheckEvaluation]:
    """Leave out what was told in the last hour with the same outcome."""
    found = list(found)
    told = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [one.asset_check_key for one in found]
    )
    return [one for one in found if _is_news(one, told.get(one.asset_check_key))]


def _is_news(now: dg.AssetCheckEvaluation, last: AssetCheckExecutionRecord | None) -> bool:
    if last is None or last.event is None:
        return True
    if last.status is AssetCheckExecutionRecordStatus.PLANNED:
        return True
    before = last.event.get_dagster_event().asset_check_evaluation_data
    if (before.passed, before.severity) != (now.passed, now.severity):
        return True
    return time.time() - last.event.timestamp >= TOLD_AGAIN_SECONDS


def _evaluation(
    one: HealthCheck, *, config: PipelineConfig, slot: dg.AssetKey
) -> dg.AssetCheckEvaluation:
    # Shown as Markdown, where one line break is none
    text = f"{one.message}\n\nhint: {one.hint}" if one.hint else one.message
    is_error = one.severity == "error"
    return dg.AssetCheckEvaluation(
        asset_key=slot,
        check_name=one.name,
        passed=one.passed,
        severity=dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN,
        description=with_options(text, f"--pipeline {config.name}"),
        metadata={f"cdc/{key}": value for key, value in one.values.items()},
        blocking=False,
    )
