"""Whether the source keeps the slot's WAL, for how much longer, and who makes it keep so much."""

from __future__ import annotations

from cdc_assets.identifiers import TableName
from cdc_assets.operations.finding import Finding, Severity, SourceCase, past
from cdc_assets.operations.reporting import duration, megabytes
from cdc_assets.replication.session import RECOPY_ALL_HINT, recopy_hint

_ROOM = 4  # by default a quarter of max_slot_wal_keep_size shall be left
_NO_SLOT = "the slot is not there: see the check 'wal_safe'"


def wal_retained(case: SourceCase) -> Finding:
    """Judge how much WAL the source keeps for the slot."""
    slot = case.slot
    if slot.retained_bytes is None:
        return Finding("the source keeps no WAL for the slot", values={"retained_bytes": 0})
    text = f"the source keeps {megabytes(slot.retained_bytes)} of WAL for the slot"
    others = [other for other in slot.other_slots if other.retained_bytes > slot.retained_bytes]
    if others:
        text += f"; slot {others[0].name!r} makes it keep {megabytes(others[0].retained_bytes)}"
    return Finding(
        text,
        case.lateness(slot.retained_bytes, case.config.health.retained_bytes),
        _retained_hint(case),
        {
            "retained_bytes": slot.retained_bytes,
            "folder_bytes": slot.folder_bytes,
            "max_wal_bytes": slot.max_wal_bytes,
        },
    )


def _retained_hint(case: SourceCase) -> str:
    slot = case.slot
    retained, lag = slot.retained_bytes or 0, slot.lag_bytes or 0
    if 2 * lag > retained:
        return "syncs are behind: see the checks 'slot_lag' and 'last_sync'"
    if slot.prepared is not None:
        return _prepared_hint(case)
    if slot.transaction is not None:
        return _transaction_hint(case)
    return "the next sync lets go of it, once no older transaction is open"


def wal_safe(case: SourceCase) -> Finding:
    """Judge whether the slot is there, and how much may be written before it is lost."""
    slot = case.slot
    if not slot.exists:
        return Finding(
            f"slot {slot.slot!r} does not exist",
            "error",
            "run 'cdc-assets setup'; if it was there before, changes are gone: " + RECOPY_ALL_HINT,
            {"wal_status": "missing"},
        )
    values = {
        "wal_status": slot.wal_status,
        "invalidation_reason": slot.invalidation_reason or None,
        "safe_wal_bytes": slot.safe_wal_bytes,
        "max_slot_wal_keep_bytes": slot.keep_bytes,
    }
    if slot.is_lost:
        reason = slot.invalidation_reason or "the WAL that it needs is gone"
        return Finding(
            f"slot {slot.slot!r} is lost: {reason}",
            "error",
            "changes are gone; raise what ended it (max_slot_wal_keep_size, or "
            "idle_replication_slot_timeout), then " + RECOPY_ALL_HINT,
            values,
        )
    return Finding(*_safety(case), values)


def _safety(case: SourceCase) -> tuple[str, Severity | None, str]:
    slot = case.slot
    hint = (
        f"{_bring_on(case)}, or raise max_slot_wal_keep_size (ALTER SYSTEM, then "
        "pg_reload_conf()): past it the source ends the slot, and every table must be copied anew"
    )
    if slot.wal_status == "unreserved":
        return (
            f"the source throws the WAL of slot {slot.slot!r} away at its next checkpoint",
            ("error"),
            hint,
        )
    if slot.safe_wal_bytes is None or slot.keep_bytes is None:
        return (
            "nothing ends the slot, however much WAL it keeps: the source's disk is the limit",
            (None),
            "",
        )
    bound = case.config.health.safe_wal_bytes or slot.keep_bytes // _ROOM
    severity: Severity | None = None
    if slot.safe_wal_bytes < bound:
        severity = "error" if 2 * slot.safe_wal_bytes < bound else "warn"
    text = f"{megabytes(slot.safe_wal_bytes)} of WAL may be written before the slot is lost"
    return text, severity, hint


def _bring_on(case: SourceCase) -> str:
    """Say what moves the slot: a sync, unless it waits for tables that were left behind."""
    failed = case.journal.run.failed_tables if case.journal else ()
    if not failed:
        return "run a sync now"
    more = f", and likewise {', '.join(failed[1:4])}" if len(failed) > 1 else ""
    return f"the slot waits for {failed[0]}: {recopy_hint(TableName.parse(failed[0]))}{more}"


def open_transaction(case: SourceCase) -> Finding:
    """Judge how long the oldest transaction that has written something is open."""
    slot, bound = case.slot, case.config.health.transaction_seconds
    if slot.prepared is not None and (severity := past(slot.prepared.seconds, bound)):
        return Finding(
            f"transaction {slot.prepared.name!r} of {slot.prepared.owner!r} is prepared since "
            f"{duration(slot.prepared.seconds)}: the slot keeps all WAL from its start on",
            severity,
            _prepared_hint(case),
            {"transaction_seconds": round(slot.prepared.seconds, 1)},
        )
    open_one = slot.transaction
    if open_one is None:
        return Finding("no transaction is open that has written something")
    who = f"pid {open_one.pid}" + (f" ({open_one.application!r})" if open_one.application else "")
    if open_one.seconds is None:
        return Finding(
            f"{who} has an open transaction; since when is not shown to a role without "
            "pg_read_all_stats",
            values={"pid": open_one.pid},
            known=False,
        )
    return Finding(
        f"{who} has a transaction open since {duration(open_one.seconds)} ({open_one.state})",
        past(open_one.seconds, bound),
        _transaction_hint(case),
        {"transaction_seconds": round(open_one.seconds, 1), "pid": open_one.pid},
    )


def _transaction_hint(case: SourceCase) -> str:
    pid = case.slot.transaction.pid if case.slot.transaction else 0
    return (
        "the slot keeps all WAL from its start on, and every window reads it again: let it end, or "
        f"end it on the source: SELECT pg_terminate_backend({pid})"
    )


def _prepared_hint(case: SourceCase) -> str:
    prepared = case.slot.prepared
    name, database = (prepared.name, prepared.database) if prepared else ("", "")
    return f"COMMIT PREPARED or ROLLBACK PREPARED '{name}' in database {database!r}"


def idle_timeout(case: SourceCase) -> Finding:
    """Judge whether the source gives up a slot that is only read every now and then."""
    limit = case.slot.idle_timeout_seconds
    if limit is None:
        return Finding("the source gives up no slot for being idle")
    idle = case.slot.inactive_seconds or 0.0
    schedule = case.config.schedule
    gap = schedule.longest_gap.total_seconds() if schedule else 0.0
    severity: Severity | None = None
    if gap >= limit or 4 * idle > 3 * limit:
        severity = "error"
    elif 2 * gap > limit or 2 * idle > limit:
        severity = "warn"
    return Finding(
        f"the source gives up slots that are idle for {duration(limit)}; syncs come up to "
        f"{duration(gap)} apart, the last one used the slot {duration(idle)} ago",
        severity,
        "raise idle_replication_slot_timeout to several times the schedule's longest gap, or set "
        "it to 0; a slot that is given up means copying every table anew",
        {"idle_timeout_seconds": limit, "inactive_seconds": round(idle, 1), "gap_seconds": gap},
    )
