"""How rebuilds, and the removal of old changes, are told, as text and as JSON."""

from __future__ import annotations

from typing import Any

from cdc_assets.progress import RebuildEvent, RetainEvent, TableRebuilt, TableRetained
from cdc_assets.wording import counted


def rebuild_line(event: RebuildEvent) -> str:
    """Describe an event in one line."""
    if not isinstance(event, TableRebuilt):
        return f"{event.table}: {counted(event.changes, 'change')} up to {event.upto}"
    into = "" if event.into is None else f" into {event.into}"
    versions = "" if event.versions is None else f", {counted(event.versions, 'version')}"
    return (
        f"{event.table} was rebuilt{into} as of {event.lsn} from {counted(event.changes, 'change')}"
        f" since {event.since_lsn}: {counted(event.rows, 'row')}{versions} in {event.seconds:.1f} s"
    )


def retain_line(event: RetainEvent) -> str:
    """Describe an event in one line."""
    if not isinstance(event, TableRetained):
        return rebuild_line(event)
    if not event.removed:
        return f"{event.table}: no change is older than it is kept"
    begins = "" if event.rows is None else f", with {counted(event.rows, 'row')} as of then"
    return (
        f"{event.table}: {counted(event.removed, 'change')} up to {event.since_lsn} were removed"
        f" in {event.seconds:.1f} s; the change table begins there now{begins}"
    )


def rebuilt_as_json(done: TableRebuilt) -> dict[str, Any]:
    """Give what was rebuilt as JSON has it."""
    return {
        "table": str(done.table),
        "into": None if done.into is None else str(done.into),
        "since_lsn": str(done.since_lsn),
        "at_lsn": str(done.lsn),
        "at_lsn_int": int(done.lsn),
        "rows": done.rows,
        "versions": done.versions,
        "changes": done.changes,
        "seconds": round(done.seconds, 3),
        "notes": list(done.notes),
    }
