"""The pipeline's lock: one run at a time, and who it is.

A session-level advisory lock on the source, named by the slot. It belongs to the database and ends
with its session, however that ends: so the server knows of every run whether it still goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zlib import crc32

from cdc_assets import waits
from cdc_assets.errors import SlotInUseError
from cdc_assets.source.connection import (
    IN_USE_TIMEOUT_SECONDS,
    Connection,
    fetch_one,
)

_LOCK_CLASS = crc32(b"cdc_assets") - 2**31  # advisory locks take two int4

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


def lock_pipeline(connection: Connection, slot: str) -> None:
    """Take the pipeline's lock for the session's life.

    The server may take a moment to see that a killed run is gone, so it is asked for a few seconds.

    Raises:
        SlotInUseError: Another run holds it.
    """
    key = (_LOCK_CLASS, _lock_key(slot))

    def locked() -> bool:
        return bool(fetch_one(connection, "SELECT pg_try_advisory_lock(%s, %s)", key)[0])

    def holder() -> str:
        known = lock_holder(connection, slot)
        return f" ({known})" if known else ""

    if not waits.until(
        locked,
        lambda: f"another run{holder()} to let go of the pipeline of slot {slot!r}",
        seconds=IN_USE_TIMEOUT_SECONDS,
    ):
        raise SlotInUseError(
            f"another run holds the pipeline of slot {slot!r}{holder()}",
            hint="wait for it to end; two runs at once would read the same changes",
        )


def lock_holder(connection: Connection, slot: str) -> LockHolder | None:
    """Find who runs the pipeline now, in Dagster or on a command line; None when nobody does."""
    row = connection.execute(_HOLDER, (_LOCK_CLASS % 2**32, _lock_key(slot) % 2**32)).fetchone()
    return LockHolder(*row) if row else None


def _lock_key(slot: str) -> int:
    return crc32(slot.encode()) - 2**31
