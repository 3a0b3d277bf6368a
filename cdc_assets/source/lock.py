"""The pipeline's lock: one run at a time, and who it is.

A backfill takes turns: it marks its hold with a second lock, syncs wait for it in the server's
queue, and it lets go once somebody does.

A session-level advisory lock on the source, named by the slot. It belongs to the database and ends
with its session, however that ends: so the server knows of every run whether it still goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zlib import crc32

from cdc_assets import waits
from cdc_assets.errors import SlotInUseError, SourceBusyError
from cdc_assets.source.connection import (
    IN_USE_TIMEOUT_SECONDS,
    Connection,
    fetch_one,
)

_LOCK_CLASS = crc32(b"cdc_assets") - 2**31  # advisory locks take two int4
_TURNS_CLASS = crc32(b"cdc_assets turns") - 2**31
TURN_SECONDS = 90.0  # how long a sync waits for a backfill to let go
_SYNCS_SECONDS = 6 * 3600.0  # and a backfill for syncs

# objsubid 2 is a lock of two int4, which pg_locks shows as oids; another database's locks are there
# too. Activity of another role is hidden from one without pg_read_all_stats.
_HOLDER = """
SELECT held.pid, coalesce(session.application_name, ''), session.backend_start
FROM pg_locks held LEFT JOIN pg_stat_activity session ON session.pid = held.pid
WHERE held.locktype = 'advisory' AND held.granted AND held.objsubid = 2
  AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND held.classid = %s::bigint::oid AND held.objid = %s::bigint::oid
"""


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The session that runs the pipeline now.

    Attributes:
        pid: Its process on the source.
        application: What it calls itself; empty where it may not be seen.
        since: When it connected, which a run does as the first thing; None where it may not be
            seen.
    """

    pid: int
    application: str
    since: datetime | None

    def __str__(self) -> str:
        of = f" of {self.application!r}" if self.application else ""
        since = f" since {self.since:%Y-%m-%d %H:%M:%S %Z}" if self.since else ""
        return f"pid {self.pid}{of} on the source{since}"


def lock_pipeline(connection: Connection, slot: str, *, takes_turns: bool = False) -> None:
    """Take the pipeline's lock for the session's life.

    The server may take a moment to see that a killed run is gone, so it is asked for a few seconds.

    Args:
        connection: A session.
        slot: The pipeline's.
        takes_turns: Whether syncs go first, however long they take.

    Raises:
        SlotInUseError: Another run holds it.
    """
    key = (_LOCK_CLASS, _lock_key(slot))

    def locked() -> bool:
        return bool(fetch_one(connection, "SELECT pg_try_advisory_lock(%s, %s)", key)[0])

    def holder() -> str:
        known = lock_holder(connection, slot)
        return f" ({known})" if known else ""

    seconds = _SYNCS_SECONDS if takes_turns else IN_USE_TIMEOUT_SECONDS
    is_ours = locked() or (not takes_turns and _queued(connection, slot))
    if not is_ours and not waits.until(
        locked,
        lambda: f"another run{holder()} to let go of the pipeline of slot {slot!r}",
        seconds=seconds,
    ):
        raise SlotInUseError(
            f"another run holds the pipeline of slot {slot!r}{holder()}",
            hint="wait for it to end; two runs at once would read the same changes",
        )
    if takes_turns:
        turns = (_TURNS_CLASS, _lock_key(slot))
        connection.execute("SELECT pg_advisory_lock_shared(%s, %s)", turns)


def _queued(connection: Connection, slot: str) -> bool:
    """Wait in the server's queue for a backfill to let go; whether the lock is ours then."""
    if _locks(connection, _TURNS_CLASS, slot, granted=True) == 0:
        return False
    waits.say(f"waiting for a backfill to let go of the pipeline of slot {slot!r}")
    try:
        with connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{TURN_SECONDS:.0f}s'")
            connection.execute("SELECT pg_advisory_lock(%s, %s)", (_LOCK_CLASS, _lock_key(slot)))
    except SourceBusyError:
        return False
    waits.over()
    return True


def is_waited_for(connection: Connection, slot: str) -> bool:
    """Say whether somebody waits for the pipeline's lock."""
    return _locks(connection, _LOCK_CLASS, slot, granted=False) > 0


def _locks(connection: Connection, of_class: int, slot: str, *, granted: bool) -> int:
    """Count locks, or waits for one."""
    return int(
        fetch_one(
            connection,
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND classid = %s::bigint::oid AND objid = %s::bigint::oid AND granted = %s",
            (of_class % 2**32, _lock_key(slot) % 2**32, granted),
        )[0]
    )


def lock_holder(connection: Connection, slot: str) -> LockHolder | None:
    """Find who runs the pipeline now, in Dagster or on a command line; None when nobody does."""
    row = connection.execute(_HOLDER, (_LOCK_CLASS % 2**32, _lock_key(slot) % 2**32)).fetchone()
    return LockHolder(*row) if row else None


def _lock_key(slot: str) -> int:
    return crc32(slot.encode()) - 2**31
