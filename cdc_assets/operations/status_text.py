"""What a status looks like: for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from cdc_assets.errors import CdcError
from cdc_assets.operations.finding import HealthCheck
from cdc_assets.operations.reporting import columns, duration, megabytes
from cdc_assets.operations.status import PipelineStatus, TableStatus
from cdc_assets.replication.journal import Activity, Run, Turn
from cdc_assets.wording import counted

_HEADER = ("table", "phase", "at", "behind", "lag", "rows")


def status_lines(status: PipelineStatus) -> list[str]:
    """Show how far a pipeline is: its ends, its runs, its tables, and what is wrong with it."""
    return [
        f"pipeline   {status.pipeline}: {_summary(status)}",
        *_ends(status),
        *_runs(status),
        *([f"warehouse  {status.warehouse_note}"] if status.warehouse_note else []),
        *columns([_HEADER, *map(_row, status.tables)]),
        *_error(status.problem),
        *_other_names(status),
        *_table_errors(status),
        *(line for check in status.problems for line in _problem(check)),
    ]


def status_line(status: PipelineStatus) -> str:
    """Show a pipeline in one line, as a log of it has them."""
    slot, doing = status.evidence.slot, _doing(status)
    at = f"slot at {slot.confirmed_lsn}, {_bytes(slot.lag_bytes)} behind" if slot else "no source"
    return f"{status.at:%H:%M:%S} {status.pipeline}: {_summary(status)}; {at}" + (
        f"; {doing}" if doing else ""
    )


def _summary(status: PipelineStatus) -> str:
    failed = sum(bool(table.error) for table in status.tables)
    found = len(status.problems) + (status.problem is not None)
    parts = [
        f"{counted(failed, 'table')} failed" if failed else "",
        counted(found, "problem") if found else "",
    ]
    return ", ".join(part for part in parts if part) or "healthy"


def _ends(status: PipelineStatus) -> Iterator[str]:
    slot = status.evidence.slot
    if slot is None:
        yield "source     can't be asked"
        return
    yield f"source     at {slot.end_lsn}" + _freshness(status)
    if not slot.exists:
        yield f"slot       {slot.slot} does not exist"
        return
    if slot.is_lost:
        reason = slot.invalidation_reason or "the WAL that it needs is gone"
        yield f"slot       lost at {slot.confirmed_lsn or '-'}: {reason}"
        return
    safe = slot.safe_wal_bytes
    left = f", {megabytes(safe)} more until it is lost" if safe is not None and safe > 0 else ""
    yield (
        f"slot       at {slot.confirmed_lsn or '-'}, {_bytes(slot.lag_bytes)} behind;"
        f" {_bytes(slot.retained_bytes)} of WAL kept ({slot.wal_status}){left}"
    )


def _freshness(status: PipelineStatus) -> str:
    known = [table.lag_seconds for table in status.tables if table.lag_seconds is not None]
    if len(known) < len(status.tables):
        return ""
    if not any(known):
        return "; the mirrors have all of it"
    return f"; the mirrors have all that is older than {duration(max(known))}"


def _runs(status: PipelineStatus) -> Iterator[str]:
    journal = status.evidence.journal
    if journal is None:
        yield "last sync  none has left word here yet"
        return
    run = journal.run
    if status.evidence.life in ("running", "unknown"):
        if journal.last is not None:
            yield f"last sync  {_ended(status, journal.last)}"
        died = "" if status.evidence.life == "running" else " (or died: only the source can tell)"
        since = duration((status.at - run.started_at).total_seconds())
        yield f"sync       goes on for {since}{died}: {_doing(status)}"
    else:
        yield f"last sync  {_ended(status, run)}"
        beside = status.evidence.beside
        if beside is not None:
            since = duration((status.at - beside.since).total_seconds())
            yield f"{beside.what:<10} goes on for {since}: {_beside(beside)}"
        elif status.evidence.slot and status.evidence.slot.holder:
            yield f"lock       held by {status.evidence.slot.holder}"


def _ended(status: PipelineStatus, run: Run) -> str:
    ago = f"{duration((status.at - (run.ended_at or run.heard_at)).total_seconds())} ago"
    if run.state == "running":
        return f"died, last heard of {ago} (pid {run.pid} on {run.host!r})"
    copied = f"{counted(run.rows_copied, 'row')} copied in {duration(run.seconds)}"
    done = f"{counted(run.changes, 'change')}, {copied}"
    match run.state:
        case "ok" if run.failed_tables:
            return f"left {', '.join(run.failed_tables)} behind, {ago}: {done}"
        case "ok":
            return f"ok, {ago}: {done}"
        case "stopped":
            return f"was stopped {ago}: {done}"
        case _:
            why = f": {run.error.message}" if run.error else ""
            return f"failed {ago}{why}"


def _doing(status: PipelineStatus) -> str:
    journal, beside = status.evidence.journal, status.evidence.beside
    if beside is not None:
        return f"{beside.what} {_beside(beside)}"
    if journal is None or status.evidence.life not in ("running", "unknown"):
        return ""
    activity = journal.run.activity
    if activity is None:
        return "ends"
    waits = ""
    if activity.waits_since is not None:
        seconds = (status.at - activity.waits_since).total_seconds()
        waits = f"; {activity.waits_for} (for {duration(seconds)})"
    return _activity(activity) + waits


def _beside(doing: Turn) -> str:
    part = f" of its part {doing.part!r}" if doing.part else ""
    of = f" of about {doing.rows_expected:,}" if doing.rows_expected else ""
    return f"reads {doing.table}, {doing.rows_read:,}{of} rows{part} so far"


def _activity(activity: Activity) -> str:
    match activity.what:
        case "copying":
            of = f" of about {activity.rows_expected:,}" if activity.rows_expected else ""
            rate = f", {activity.rate:,.0f} a second" if activity.rate else ""
            return (
                f"copies {activity.table}, chunk {activity.chunk},"
                f" {activity.rows_copied:,}{of} rows so far{rate}"
            )
        case "applying":
            rate = f" at {megabytes(int(activity.rate))}/s" if activity.rate else ""
            return (
                f"applies the window from {activity.start_lsn} on,"
                f" {_bytes(activity.remaining_bytes)} to go up to {activity.target_lsn}{rate}"
            )
        case "opening":
            return "opens the warehouse"


def _row(table: TableStatus) -> tuple[str, ...]:
    return (
        str(table.table),
        "failed" if table.error else table.phase,
        str(table.confirmed_lsn or "-"),
        _bytes(table.lag_bytes),
        "-" if table.lag_seconds is None else duration(table.lag_seconds),
        "-" if table.rows is None else f"{table.rows:,}",
    )


def _error(error: CdcError | None) -> Iterator[str]:
    if error is not None:
        yield f"error: {error.message}"
        if error.hint:
            yield f"hint: {error.hint}"


def _other_names(status: PipelineStatus) -> Iterator[str]:
    for table in status.tables:
        if table.called:
            yield f"note: {table.table} is called {table.called!r} on the source now"


def _table_errors(status: PipelineStatus) -> Iterator[str]:
    for table in status.tables:
        if table.error:
            yield f"error: {table.table}: {table.error}"
            if table.hint:
                yield f"hint: {table.hint}"
        yield from (f"note: {note}" for note in table.notes)


def _problem(check: HealthCheck) -> Iterator[str]:
    yield f"{'warning' if check.severity == 'warn' else 'error'}: {check.name}: {check.message}"
    if check.hint:
        yield f"hint: {check.hint}"


def _bytes(count: int | None) -> str:
    return "-" if count is None else megabytes(count)


def status_as_json(status: PipelineStatus) -> dict[str, Any]:
    """Give a pipeline's state with LSNs as text and times as ISO 8601."""
    slot, journal, error = status.evidence.slot, status.evidence.journal, status.evidence.error
    return {
        "pipeline": status.pipeline,
        "healthy": status.healthy,
        "at": status.at.isoformat(),
        "source_error": _error_as_json(error) if error else None,
        "source_lsn": str(slot.end_lsn) if slot else None,
        "slot_lsn": str(slot.confirmed_lsn) if slot and slot.confirmed_lsn else None,
        "lag_bytes": slot.lag_bytes if slot else None,
        "retained_bytes": slot.retained_bytes if slot else None,
        "safe_wal_bytes": slot.safe_wal_bytes if slot else None,
        "wal_status": slot.wal_status if slot else None,
        "invalidation_reason": slot.invalidation_reason if slot else None,
        "transaction": asdict(slot.transaction) if slot and slot.transaction else None,
        "prepared": asdict(slot.prepared) if slot and slot.prepared else None,
        "other_slots": [asdict(other) for other in slot.other_slots] if slot else [],
        "warehouse_note": status.warehouse_note,
        "error": status.problem.message if status.problem else None,
        "hint": status.problem.hint if status.problem else None,
        "sync": status.evidence.life,
        "beside": _beside_as_json(status.evidence.beside),
        "lock": str(slot.holder) if slot and slot.holder else None,
        "run": journal.run.model_dump(mode="json") if journal else None,
        "last_run": journal.ended.model_dump(mode="json") if journal and journal.ended else None,
        "tables": [_table_as_json(table) for table in status.tables],
        "checks": [asdict(check) for check in status.checks],
    }


def _beside_as_json(doing: Turn | None) -> dict[str, Any] | None:
    return doing.model_dump(mode="json", exclude={"backend_pid"}) if doing else None


def _error_as_json(error: CdcError) -> dict[str, str]:
    return {"kind": type(error).__name__, "error": error.message, "hint": error.hint}


def _table_as_json(table: TableStatus) -> dict[str, Any]:
    return {
        "table": str(table.table),
        "phase": table.phase,
        "confirmed_lsn": str(table.confirmed_lsn) if table.confirmed_lsn else None,
        "lag_bytes": table.lag_bytes,
        "lag_seconds": None if table.lag_seconds is None else round(table.lag_seconds, 1),
        "rows": table.rows,
        "error": table.error,
        "hint": table.hint,
        "called": table.called,
        "notes": list(table.notes),
    }
