"""Whether runs end well, keep the mirrors fresh and really move the slot."""

from __future__ import annotations

from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.finding import Case, Finding, Severity, SourceCase, Value, past
from cdc_assets.operations.reporting import duration, megabytes
from cdc_assets.replication.journal import Journal, Run
from cdc_assets.replication.session import recopy_hint

NO_JOURNAL = "no sync has left word beside the warehouse yet"


def last_sync(case: Case) -> Finding:
    """Judge how the last run ended, or that one goes on."""
    if case.journal is None:
        return Finding(NO_JOURNAL, known=False)
    run = case.journal.run
    since = case.seconds_since(run.started_at)
    values: dict[str, Value | None] = {
        "state": "died" if case.evidence.life == "died" else run.state,
        "seconds": round(run.seconds, 1),
        "tables_failed": len(run.failed_tables),
    }
    if case.catches_up:
        return Finding(f"a sync goes on since {duration(since)}", values=values)
    if case.evidence.life == "died":
        return Finding(
            f"the sync that started {duration(since)} ago died without a word"
            f" (pid {run.pid} on {run.host!r})",
            past(since, case.lag_bound_seconds) or "warn",
            "nothing is lost: the next sync goes on from the checkpoint; if that one dies, too, "
            "look for what ends it: the kernel's log tells of a lack of memory",
            values,
        )
    if run.error is not None:
        severity: Severity = "warn" if run.error.retryable else "error"
        text = f"the last sync failed {duration(since)} ago: {run.error.message}"
        return Finding(text, severity, run.error.hint, values)
    if run.failed_tables:
        return _left_behind(case.journal, run, values)
    return Finding(f"the last sync ended {run.state}, {duration(since)} ago", values=values)


def _left_behind(journal: Journal, run: Run, values: dict[str, Value | None]) -> Finding:
    first, *others = run.failed_tables
    table = journal.tables.get(first)
    error = table.error if table else None
    more = f" and {len(others)} more" if others else ""
    return Finding(
        f"the last sync left {first!r}{more} behind: {error.message if error else 'unknown'}",
        "error",
        error.hint if error else "see 'cdc-assets status'",
        values,
        tables=run.failed_tables,
    )


def slot_lag(case: SourceCase) -> Finding:
    """Judge how far the slot is behind the source, in WAL and in time."""
    lag_bytes = case.slot.lag_bytes
    if lag_bytes is None or case.slot.is_lost:
        lost = "the slot is missing or lost: see the check 'wal_safe'"
        return Finding(lost, "error", known=False)
    lag_seconds, oldest = freshness(case)
    by_bytes = case.lateness(lag_bytes, case.config.health.lag_bytes)
    by_time = case.lateness(lag_seconds, case.lag_bound_seconds)
    text = f"the slot is {megabytes(lag_bytes)} behind the source"
    if lag_seconds is not None:
        text += f", the mirrors lack what was committed in the last {duration(lag_seconds)}"
    if oldest and by_time:
        text += f" ({oldest} lacks most)"
    return Finding(
        text,
        "error" if "error" in (by_bytes, by_time) else by_bytes or by_time,
        _lag_hint(case),
        {"lag_bytes": lag_bytes, "lag_seconds": lag_seconds and round(lag_seconds, 1)},
    )


def _lag_hint(case: Case) -> str:
    if case.catches_up:
        return "a sync is at work on it: see what it does with 'cdc-assets status'"
    if case.journal is not None and case.journal.run.failed_tables:
        return "a table that was left behind holds the slot: see the check 'last_sync'"
    return "see that syncs run: the schedule in Dagster, or 'cdc-assets sync'"


def freshness(case: Case) -> tuple[float | None, str]:
    """Give how old the mirrors are in seconds, and the name of the oldest.

    A mirror has everything that was committed before the last run that brought it to its target
    read where the source's WAL ended. If nothing was written since, it is as of now.
    """
    slot = case.evidence.slot
    if slot is not None and slot.lag_bytes == 0:
        return 0.0, ""
    if case.journal is None:
        return None, ""
    known = {
        name: table.complete_at
        for name, table in case.journal.tables.items()
        if table.complete_at is not None
    }
    if not known:
        return None, ""
    oldest = min(known, key=lambda name: known[name])
    return case.seconds_since(known[oldest]), oldest


def slot_moving(case: SourceCase) -> Finding:
    """Judge whether runs that end well bring the slot to where they were to come."""
    slot = case.journal.slot if case.journal else None
    if slot is None:
        return Finding(NO_JOURNAL, known=False)
    here = case.slot.confirmed_lsn
    values = {"confirmed_lsn": str(here) if here else None}
    if slot.stalled_since is None:
        return Finding("every sync moves the slot", values=values)
    seconds = case.seconds_since(slot.stalled_since)
    waits = f", it waits for {', '.join(slot.held_by[:3])}" if slot.held_by else ""
    return Finding(
        f"the slot stands at {slot.confirmed_lsn} since {duration(seconds)}, though syncs ran"
        + waits,
        past(seconds, case.lag_bound_seconds),
        "WAL is kept from there on: bring the tables that it waits for on, with a sync of all "
        "tables, or copy them anew",
        {**values, "stalled_seconds": round(seconds, 1)},
    )


def warehouse(case: SourceCase) -> Finding:
    """Judge whether the warehouse that the slot serves is where the config says.

    Whether the file there is the right one says the sync that opens it.
    """
    absent = case.evidence.absent
    if absent is not None:
        return Finding(absent.message, "error", absent.hint)
    return Finding("the warehouse is in its place, or the slot has served none yet")


def publication(case: SourceCase) -> Finding:
    """Judge whether the publication carries the config's tables, as a check finds it."""
    problems = case.evidence.problems
    values = {"problems": len(problems)}
    if not problems:
        return Finding("the publication carries every table", values=values)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Finding(problems[0].message + more, "error", problems[0].hint, values)


def schema_drift(case: SourceCase) -> Finding:
    """Judge whether tables were altered on the source since their mirrors were made.

    Of a table that is not published as it must be, 'publication' tells.
    """
    if case.journal is None:
        return Finding(NO_JOURNAL, known=False)
    told = {error.table for error in case.evidence.problems if isinstance(error, TableError)}
    altered = [
        name
        for name, table in case.journal.tables.items()
        if table.shape
        and name not in told
        and (now := case.evidence.shapes.get(TableName.parse(name))) is not None
        and now != table.shape
    ]
    if not altered:
        return Finding("the source's tables have the shape of their mirrors")
    followed = {str(table.name) for table in case.config.tables if table.schema_changes.evolves}
    if followed.issuperset(altered):
        said = "table was altered" if len(altered) == 1 else "tables were altered"
        return Finding(f"{len(altered)} {said} on the source: the next sync follows")
    altered = [name for name in altered if name not in followed]
    more = f" and {len(altered) - 1} more" if len(altered) > 1 else ""
    return Finding(
        f"table {altered[0]!r}{more} was altered on the source since its mirror was made",
        "error",
        recopy_hint(TableName.parse(altered[0])),
        {"tables_altered": len(altered)},
        tables=tuple(altered),
    )
