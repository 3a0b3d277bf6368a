"""Looks after a slot's health when no sync does: the sync that would tell may be what is broken."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import dagster as dg

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError
from cdc_assets.orchestration.checks import evaluations, news, plots

if TYPE_CHECKING:
    from cdc_assets.operations.finding import HealthCheck

# A sync that ended in this time has looked itself.
LOOKS_EVERY_SECONDS = 300


def health_sensor(config: PipelineConfig, slot: dg.AssetKey) -> dg.SensorDefinition:
    """Define the sensor `<name>_health`; it is on unless the schedule is declared to be off."""
    stopped = config.schedule is not None and config.schedule.start == "stopped"

    @dg.sensor(
        name=f"{config.name}_health",
        minimum_interval_seconds=LOOKS_EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.STOPPED
        if stopped
        else dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Looks at the health of {config.name}'s slot when no sync has done so for"
            f" {LOOKS_EVERY_SECONDS // 60} minutes."
        ),
    )
    def look(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return _look(context.instance, config, slot)

    return look


def look_at_health(config: PipelineConfig) -> tuple[tuple[HealthCheck, ...], str]:
    """Look at a pipeline's health, and say why where that can't be done.

    Whoever looks must not fail for it: a sync has ended well when its changes are durable.
    """
    from cdc_assets.operations.health import check_health

    try:
        return check_health(config), ""
    except CdcError as error:
        return (), error.message
    except Exception as error:
        return (), f"an unexpected {type(error).__name__}"


def _look(
    instance: dg.DagsterInstance, config: PipelineConfig, slot: dg.AssetKey
) -> dg.SensorResult | dg.SkipReason:
    ago = time.time() - _last_sync(instance, slot)
    if ago < LOOKS_EVERY_SECONDS:
        return dg.SkipReason(f"a sync looked {ago:.0f} s ago")
    checks, why = look_at_health(config)
    if not checks:
        return dg.SkipReason(f"the slot's health can't be looked at here: {why}")
    told = news(evaluations(checks, config, slot), instance)
    observed = dg.AssetObservation(slot, metadata=plots(checks))
    return dg.SensorResult(asset_events=[observed, *told])


def _last_sync(instance: dg.DagsterInstance, slot: dg.AssetKey) -> float:
    last = instance.get_latest_materialization_event(slot)
    return last.timestamp if last else 0.0
