"""Judges a pipeline's health before anything is lost, and says what to do.

Each check compares one thing with its threshold in the config's `health`: past it is a warning,
past twice of it an error. What is lost already, or is lost by itself if nobody acts, is an error at
once. A run that goes on silences the warning about what it is catching up with, not the error.

Judging does no I/O: `judge` looks at what `read_evidence` has found. The warehouse is not opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cdc_assets.config import PipelineConfig
from cdc_assets.operations import health_of_runs as runs
from cdc_assets.operations import health_of_slot as slot
from cdc_assets.operations.evidence import Evidence, read_evidence
from cdc_assets.operations.finding import Case, Finding, HealthCheck, Severity, SourceCase

__all__ = ["CHECK_NAMES", "HealthCheck", "Severity", "check_health", "judge"]

_LOOKS: Mapping[str, Callable[[SourceCase], Finding]] = {
    "slot_lag": runs.slot_lag,
    "slot_moving": runs.slot_moving,
    "wal_retained": slot.wal_retained,
    "wal_safe": slot.wal_safe,
    "open_transaction": slot.open_transaction,
    "idle_timeout": slot.idle_timeout,
    "warehouse": runs.warehouse,
    "publication": runs.publication,
    "schema_drift": runs.schema_drift,
}
CHECK_NAMES = ("source", "last_sync", *_LOOKS)


def check_health(config: PipelineConfig) -> tuple[HealthCheck, ...]:
    """Ask the source and the last run's journal, and judge; one check for each of `CHECK_NAMES`.

    Raises:
        ConfigError: The connection string is missing or is none.
    """
    return judge(config, read_evidence(config))


def judge(config: PipelineConfig, evidence: Evidence) -> tuple[HealthCheck, ...]:
    """Judge what was found; one check for each of `CHECK_NAMES`, in their order."""
    case = Case(config, evidence)
    return (
        _source(evidence).named("source"),
        runs.last_sync(case).named("last_sync"),
        *(_of_source(case, look).named(name) for name, look in _LOOKS.items()),
    )


def _source(evidence: Evidence) -> Finding:
    if evidence.error is not None:
        return Finding(evidence.error.message, "error", evidence.error.hint)
    return Finding("the source answers")


def _of_source(case: Case, look: Callable[[SourceCase], Finding]) -> Finding:
    if case.evidence.slot is None:
        return Finding("not known while the source can't be asked", "warn", known=False)
    return look(SourceCase(case.config, case.evidence, case.evidence.slot))
