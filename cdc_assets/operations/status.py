"""How far a pipeline is and how it fares, told from both ends and from its runs' journal.

It always has an answer, a line for each table too: while a run holds the warehouse, while the
source is down, when the slot is lost. What can't be asked now is taken from what the last run left
word of, and is said to be so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError, WarehouseBusyError
from cdc_assets.identifiers import TableName, change_table
from cdc_assets.lsn import LSN, WalIdentity
from cdc_assets.operations.evidence import Evidence, read_evidence
from cdc_assets.operations.finding import HealthCheck
from cdc_assets.operations.health import judge
from cdc_assets.replication.comparing import altered_mirrors, unshapable
from cdc_assets.replication.journal import TableRecord
from cdc_assets.replication.ownership import ownership_problem
from cdc_assets.replication.publishing import copy_note
from cdc_assets.replication.session import RECOPY_ALL_HINT, recopy_hint
from cdc_assets.replication.shaping import shapings
from cdc_assets.replication.unfit import widened_notes
from cdc_assets.warehouse.opening import open_warehouse
from cdc_assets.warehouse.values import Checkpoint


@dataclass(frozen=True, slots=True)
class TableStatus:
    """How far one table is.

    Attributes:
        phase: `missing`, `waiting` for a backfill, `copying` or `streaming`; `unknown` where nobody
            can say now.
        lag_seconds: The mirror has everything that was committed longer ago than that; None where
            that is not known, as in a copy.
        rows: Of the mirror, or of the change table where there is none, now or when the last run
            ended.
        error: Why it does not go on, or empty.
        hint: The way out of the error.
        called: The name that the source has for it, where that is another one.
        notes: What is good to know of its columns.
    """

    table: TableName
    phase: str
    confirmed_lsn: LSN | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    rows: int | None = None
    error: str = ""
    hint: str = ""
    called: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """How far a pipeline is, and how it fares.

    Attributes:
        evidence: What the source and the journal say.
        warehouse_note: Why the warehouse's part is missing or is not of now, or empty.
        problem: Why nothing can go on: the slot serves another warehouse than the config's, or the
            warehouse can't be opened.
        checks: Of the pipeline's health.
    """

    pipeline: str
    evidence: Evidence
    warehouse_note: str
    tables: tuple[TableStatus, ...]
    checks: tuple[HealthCheck, ...]
    problem: CdcError | None = None

    @property
    def at(self) -> datetime:
        """When it was looked at."""
        return self.evidence.at

    @property
    def problems(self) -> tuple[HealthCheck, ...]:
        """The checks that found something, but for those that only say what a table says."""
        failed = {str(table.table) for table in self.tables if table.error}
        return tuple(
            check
            for check in self.checks
            if check.known and not check.passed and not self._is_said(check)
            if not check.tables or set(check.tables) - failed
        )

    def _is_said(self, check: HealthCheck) -> bool:
        return self.problem is not None and self.problem.message in check.message

    @property
    def healthy(self) -> bool:
        """Whether nothing failed and nothing is at risk; a run that goes on is well."""
        failed = any(table.error for table in self.tables)
        return self.problem is None and not self.problems and not failed


@dataclass(frozen=True, slots=True)
class _Known:
    """What the warehouse says, or the journal in its place."""

    note: str
    tables: Mapping[TableName, TableStatus]
    absent: str  # the phase of a table that is not among them
    problem: CdcError | None = None


def read_status(config: PipelineConfig) -> PipelineStatus:
    """Read how far the pipeline is, from both ends, without the pipeline's lock.

    Raises:
        ConfigError: The connection string is missing or is none.
    """
    evidence = read_evidence(config)
    known = _known(config, evidence)
    return PipelineStatus(
        pipeline=config.name,
        evidence=evidence,
        warehouse_note=known.note,
        tables=tuple(
            replace(
                known.tables.get(table, TableStatus(table, _absent(config, table, known))),
                called=_called(table, evidence),
            )
            for table in config.table_names
        ),
        checks=judge(config, evidence),
        problem=known.problem,
    )


def _called(table: TableName, evidence: Evidence) -> str:
    source = evidence.sources.get(table)
    return str(source.called) if source is not None and source.called != table else ""


def _absent(config: PipelineConfig, table: TableName, known: _Known) -> str:
    waits = known.absent == "missing" and config.table(table).backfill.first == "wait"
    return "waiting" if waits else known.absent


def _known(config: PipelineConfig, evidence: Evidence) -> _Known:
    path = str(config.warehouse_path)
    if not config.warehouse_path.exists():
        note = "" if evidence.absent else f"{path!r} does not exist yet: run 'cdc-assets sync'"
        return _Known(note, {}, "missing", evidence.absent)
    try:
        return _of_warehouse(config, evidence)
    except WarehouseBusyError:
        return _of_journal(evidence, f"{path!r} is in use, {_user(evidence)}")
    except CdcError as error:
        return _of_journal(evidence, f"{path!r} can't be read", error)


def _user(evidence: Evidence) -> str:
    if evidence.beside is not None:
        return f"by the {evidence.beside.what}"
    return "by the sync" if evidence.life == "running" else "most likely by a sync"


def _of_journal(evidence: Evidence, why: str, problem: CdcError | None = None) -> _Known:
    journal = evidence.journal
    if journal is None:
        return _Known(why, {}, "unknown", problem)
    tables = {
        TableName.parse(name): _aged(
            TableStatus(
                TableName.parse(name),
                record.phase,
                record.lsn,
                rows=record.rows,
                error=record.error.message if record.error else "",
                hint=record.error.hint if record.error else "",
            ),
            record,
            evidence,
        )
        for name, record in journal.tables.items()
    }
    return _Known(f"{why}; tables are as the journal has them", tables, "missing", problem)


def _of_warehouse(config: PipelineConfig, evidence: Evidence) -> _Known:
    warehouse = open_warehouse(config, read_only=True)
    try:
        state, mirrors = warehouse.state, warehouse.mirrors
        problem = ownership_problem(config, evidence.served, state.warehouse_id())
        checkpoints = state.read()
        kept = {
            table: change_table(table) if table in config.unmirrored else table
            for table in checkpoints
        }
        counts = mirrors.row_counts(kept.values())
        rows = {table: counts[name].live for table, name in kept.items() if name in counts}
        going_on = {table: at for table, at in checkpoints.items() if at.phase == "streaming"}
        altered = altered_mirrors(mirrors, going_on, shapings(config))
        altered |= unshapable(config, list(altered), evidence.sources)  # as a sync will say it
        note = copy_note(config, warehouse)
    finally:
        warehouse.close()
    records = evidence.journal.tables if evidence.journal else {}
    # What another warehouse's slot does to these tables is not their error
    compared = evidence if problem is None else replace(evidence, slot=None)
    return _Known(
        note,
        {
            table: _of_checkpoint(
                point,
                rows=rows.get(table),
                record=records.get(str(table)),
                altered=altered.get(table),
                evidence=compared,
            )
            for table, point in checkpoints.items()
        },
        "missing",
        problem,
    )


def _of_checkpoint(
    checkpoint: Checkpoint,
    *,
    rows: int | None,
    record: TableRecord | None,
    altered: CdcError | None,
    evidence: Evidence,
) -> TableStatus:
    error, hint = checkpoint.error, ""
    if altered is not None:
        error, hint = altered.message, altered.hint
    elif error:
        told = record.error if record else None
        hint = told.hint if told and told.message == error else recopy_hint(checkpoint.table)
    status = TableStatus(
        checkpoint.table,
        checkpoint.phase,
        checkpoint.lsn,
        rows=rows,
        error=error,
        hint=hint,
        notes=widened_notes(checkpoint.table, checkpoint.shape),
    )
    return _aged(_compared(status, checkpoint.identity, evidence), record, evidence)


def _compared(status: TableStatus, identity: WalIdentity, evidence: Evidence) -> TableStatus:
    """Hold a checkpoint against the source."""
    lsn, slot = status.confirmed_lsn, evidence.slot
    if slot is None or lsn is None or status.phase == "copying":
        return status
    if evidence.identity is not None and identity != evidence.identity:
        return replace(
            status,
            error="its checkpoint is of another server, timeline or database",
            hint="correct source.dsn; if the source was replaced on purpose, " + RECOPY_ALL_HINT,
        )
    if slot.confirmed_lsn is not None and slot.confirmed_lsn > lsn:
        return replace(
            status,
            error="the slot is past its checkpoint, changes are gone",
            hint=recopy_hint(status.table),
        )
    return status


def _aged(status: TableStatus, record: TableRecord | None, evidence: Evidence) -> TableStatus:
    """Say how far a table is behind the source, in WAL and in time."""
    lsn, slot = status.confirmed_lsn, evidence.slot
    lag_bytes = None if slot is None or lsn is None else max(0, slot.end_lsn - lsn)
    seconds = None
    if status.phase == "streaming" and lag_bytes == 0:
        seconds = 0.0
    elif record is not None and record.complete_at is not None:
        seconds = max(0.0, (evidence.at - record.complete_at).total_seconds())
    return replace(status, lag_bytes=lag_bytes, lag_seconds=seconds)
