"""What a check of a pipeline's health looks at, and what it finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from cdc_assets.config import PipelineConfig
from cdc_assets.operations.evidence import Evidence
from cdc_assets.replication.journal import Journal
from cdc_assets.source.health import SlotHealth

Severity = Literal["warn", "error"]
Value = int | float | str

SLACK_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """One thing that was looked at.

    Attributes:
        name: One of `health.CHECK_NAMES`.
        passed: Whether it is as it should be.
        severity: Of a check that did not pass.
        message: What was found, also where all is well.
        hint: What to do; empty where nothing needs to be done.
        values: Numbers and texts to plot and to read; a number's name ends in its unit.
        known: False where it could not be looked at: the message says why.
        tables: Which tables it is about, where it is about single ones.
    """

    name: str
    passed: bool
    severity: Severity
    message: str
    hint: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    known: bool = True
    tables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """A check's outcome before it has its name; without a severity all is well."""

    message: str
    severity: Severity | None = None
    hint: str = ""
    values: Mapping[str, Value | None] = field(default_factory=dict)
    known: bool = True
    tables: tuple[str, ...] = ()

    def named(self, name: str) -> HealthCheck:
        """Make it the outcome of a check."""
        return HealthCheck(
            name=name,
            passed=self.severity is None,
            severity=self.severity or "warn",
            message=self.message,
            hint=self.hint if self.severity else "",
            values={key: value for key, value in self.values.items() if value is not None},
            known=self.known,
            tables=self.tables,
        )


@dataclass(frozen=True, slots=True)
class Case:
    """What a check looks at."""

    config: PipelineConfig
    evidence: Evidence

    @property
    def journal(self) -> Journal | None:
        """What runs have left word of."""
        return self.evidence.journal

    @property
    def catches_up(self) -> bool:
        """Whether a run goes on."""
        return self.evidence.life == "running"

    @property
    def lag_bound_seconds(self) -> float | None:
        """How old a mirror may be; None where nothing says when syncs run."""
        if self.config.health.lag_seconds is not None:
            return self.config.health.lag_seconds
        if self.config.schedule is None:
            return None
        return 2 * self.config.schedule.longest_gap.total_seconds() + SLACK_SECONDS

    def seconds_since(self, then: datetime) -> float:
        """Give how long ago something was."""
        return max(0.0, (self.evidence.at - then).total_seconds())

    def lateness(self, value: float | None, bound: float | None) -> Severity | None:
        """Judge what a run that goes on brings down: it silences the warning, not the error."""
        severity = past(value, bound)
        return None if severity == "warn" and self.catches_up else severity


@dataclass(frozen=True, slots=True)
class SourceCase(Case):
    """What a check looks at that needs the source's answer."""

    slot: SlotHealth


def past(value: float | None, bound: float | None) -> Severity | None:
    """Warn past a bound; past twice of it is an error."""
    if value is None or bound is None or value <= bound:
        return None
    return "error" if value > 2 * bound else "warn"
