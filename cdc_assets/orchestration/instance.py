"""Says what the Dagster instance lacks, where somebody looks: the load log and a tick's log."""

from __future__ import annotations

import logging

import dagster as dg
from dagster._core.definitions.definitions_load_context import (
    DefinitionsLoadContext,
    DefinitionsLoadType,
)
from dagster._core.run_coordinator import QueuedRunCoordinator

from cdc_assets.operations.instance import in_a_line, lacking, lacking_here

_DAGSTERS_INTERVAL_SECONDS = 5


def warn_at_load() -> None:
    """Say once per code server what the instance lacks; a run that loads the definitions does not.

    Definitions are loaded without an instance: DAGSTER_HOME says where its settings are, if it is
    set there.
    """
    if DefinitionsLoadContext.get().load_type is DefinitionsLoadType.INITIALIZATION:
        _warn_once("load", logging.getLogger("dagster.cdc_assets"), lacking_here())


def warn_at_tick(context: dg.ScheduleEvaluationContext) -> None:
    """Say at a code server's first tick what the instance lacks: a tick has the instance itself."""
    _warn_once("tick", context.log, lacking(_settings(context.instance)))


_said: set[tuple[str, str]] = set()


def _warn_once(where: str, log: logging.Logger, missing: list[str]) -> None:
    text = in_a_line(missing)
    if missing and (where, text) not in _said:
        _said.add((where, text))
        log.warning(text)


def _settings(instance: dg.DagsterInstance) -> dict[str, object]:
    names = ("run_monitoring", "concurrency", "retention")
    settings = {name: instance.get_settings(name) for name in names}
    coordinator = instance.run_coordinator
    if isinstance(coordinator, QueuedRunCoordinator):
        seconds = coordinator.dequeue_interval_seconds
        own = seconds if seconds != _DAGSTERS_INTERVAL_SECONDS else None
        return {**settings, "run_queue": {"dequeue_interval_seconds": own}}
    return {**settings, "run_queue": {"dequeue_interval_seconds": "no queue"}}
