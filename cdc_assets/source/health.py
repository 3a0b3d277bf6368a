"""What the source knows of the slot's health: how far it is, what is kept for it, who holds it up.

Everything is read in a few catalog queries and judged elsewhere. Nothing here fails because the
slot is missing or lost: that is what one wants to know. A role without `pg_read_all_stats` sees of
other roles' sessions who they are, but not since when they are open; without `pg_monitor` it does
not see the size of the WAL's folder. What can't be seen is None. How much space the disk has left
is not known to SQL at all.
"""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import dict_row

from cdc_assets.errors import ReplicationError
from cdc_assets.lsn import LSN
from cdc_assets.source.connection import Connection
from cdc_assets.source.lock import LockHolder, lock_holder

_SLOT = """
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
       ELSE pg_current_wal_lsn() END::text AS end_lsn,
       s.slot_name IS NOT NULL AS found, s.active_pid, s.restart_lsn::text AS restart_lsn,
       s.confirmed_flush_lsn::text AS confirmed_lsn, s.wal_status, s.safe_wal_size,
       to_jsonb(s) ->> 'invalidation_reason' AS invalidation_reason,
       extract(epoch FROM clock_timestamp() - (to_jsonb(s) ->> 'inactive_since')::timestamptz
              )::float8 AS inactive_seconds,
       (SELECT nullif(setting::bigint, -1) * 1048576 FROM pg_settings
        WHERE name = 'max_slot_wal_keep_size') AS keep_bytes,
       (SELECT nullif(setting::float8, 0) FROM pg_settings
        WHERE name = 'idle_replication_slot_timeout') AS idle_timeout_seconds,
       (SELECT setting::bigint * 1048576 FROM pg_settings
        WHERE name = 'max_wal_size') AS max_wal_bytes,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all,
       has_function_privilege('pg_catalog.pg_ls_waldir()', 'EXECUTE') AS sees_folder
FROM (SELECT %s::name AS wanted) AS asked
LEFT JOIN pg_replication_slots AS s ON s.slot_name = asked.wanted
"""
# Only a transaction that has written something, in whatever database, holds restart_lsn back
_TRANSACTION = """
SELECT pid, coalesce(datname, ''), coalesce(application_name, ''), coalesce(state, ''),
       extract(epoch FROM clock_timestamp() - xact_start)::float8
FROM pg_stat_activity
WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
ORDER BY age(backend_xid) DESC
LIMIT 1
"""
_PREPARED = """
SELECT gid, database, owner, extract(epoch FROM clock_timestamp() - prepared)::float8
FROM pg_prepared_xacts
ORDER BY age(transaction) DESC
LIMIT 1
"""
# A run's own copy of the slot is temporary
_OTHER_SLOTS = """
SELECT slot_name, active, restart_lsn::text
FROM pg_replication_slots
WHERE slot_name <> %s AND NOT temporary AND restart_lsn IS NOT NULL
ORDER BY restart_lsn
LIMIT 3
"""


@dataclass(frozen=True, slots=True)
class OpenTransaction:
    """The oldest open transaction that has written something, in any of the server's databases.

    Attributes:
        seconds: How long it is open; None where the role may not see that.
    """

    pid: int
    database: str
    application: str
    state: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class PreparedTransaction:
    """The oldest transaction that was prepared and neither committed nor rolled back."""

    name: str
    database: str
    owner: str
    seconds: float


@dataclass(frozen=True, slots=True)
class OtherSlot:
    """Another slot of the server that keeps WAL."""

    name: str
    active: bool
    retained_bytes: int


@dataclass(frozen=True, slots=True)
class SlotHealth:
    """What the source says of a slot, which may be missing or lost.

    Attributes:
        end_lsn: Where the source's WAL ends.
        wal_status: `reserved`, `extended`, `unreserved` or `lost`; empty without a slot.
        invalidation_reason: Why the slot is lost, from Postgres 17 on, else empty.
        safe_wal_bytes: What may still be written before the slot is lost; None without a limit.
        keep_bytes: `max_slot_wal_keep_size`, None without a limit.
        max_wal_bytes: `max_wal_size`, which the server exceeds for a slot's sake.
        folder_bytes: Size of all WAL files, None where the role may not see it.
        idle_timeout_seconds: `idle_replication_slot_timeout`, from Postgres 18 on; None is never.
        inactive_seconds: How long nobody has used the slot, from Postgres 17 on.
        sees_all: Whether the role sees how long other roles' transactions are open.
        other_slots: Those that keep most, at the most three.
        holder: Who holds the pipeline's lock.
    """

    slot: str
    end_lsn: LSN
    exists: bool
    confirmed_lsn: LSN | None
    restart_lsn: LSN | None
    wal_status: str
    invalidation_reason: str
    active_pid: int | None
    safe_wal_bytes: int | None
    keep_bytes: int | None
    max_wal_bytes: int
    folder_bytes: int | None
    idle_timeout_seconds: float | None
    inactive_seconds: float | None
    sees_all: bool
    transaction: OpenTransaction | None
    prepared: PreparedTransaction | None
    other_slots: tuple[OtherSlot, ...]
    holder: LockHolder | None

    @property
    def is_lost(self) -> bool:
        """Whether the server has thrown away WAL that the slot needed, or given the slot up."""
        return self.wal_status == "lost" or bool(self.invalidation_reason)

    @property
    def lag_bytes(self) -> int | None:
        """WAL between what is confirmed and the source's end."""
        return None if self.confirmed_lsn is None else max(0, self.end_lsn - self.confirmed_lsn)

    @property
    def retained_bytes(self) -> int | None:
        """WAL that the source keeps for the slot."""
        return None if self.restart_lsn is None else max(0, self.end_lsn - self.restart_lsn)


def read_health(connection: Connection, slot: str) -> SlotHealth:
    """Read all that the source knows of a slot's health; the slot may be missing."""
    with connection.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(_SLOT, (slot,)).fetchone()
    if row is None:
        raise ReplicationError("expected a row about the slot")
    transaction = connection.execute(_TRANSACTION).fetchone()
    prepared = connection.execute(_PREPARED).fetchone()
    end = LSN.parse(row["end_lsn"])
    return SlotHealth(
        slot=slot,
        end_lsn=end,
        exists=row["found"],
        confirmed_lsn=_lsn(row["confirmed_lsn"]),
        restart_lsn=_lsn(row["restart_lsn"]),
        wal_status=row["wal_status"] or ("lost" if row["found"] else ""),
        invalidation_reason=row["invalidation_reason"] or "",
        active_pid=row["active_pid"],
        safe_wal_bytes=row["safe_wal_size"],
        keep_bytes=row["keep_bytes"],
        max_wal_bytes=row["max_wal_bytes"],
        folder_bytes=_folder_bytes(connection) if row["sees_folder"] else None,
        idle_timeout_seconds=row["idle_timeout_seconds"],
        inactive_seconds=row["inactive_seconds"],
        sees_all=row["sees_all"],
        transaction=OpenTransaction(*transaction) if transaction else None,
        prepared=PreparedTransaction(*prepared) if prepared else None,
        other_slots=tuple(
            OtherSlot(name, active, max(0, end - LSN.parse(restart)))
            for name, active, restart in connection.execute(_OTHER_SLOTS, (slot,))
        ),
        holder=lock_holder(connection, slot),
    )


def _folder_bytes(connection: Connection) -> int:
    rows = connection.execute("SELECT coalesce(sum(size), 0)::bigint FROM pg_ls_waldir()")
    return int(rows.fetchall()[0][0])


def _lsn(text: str | None) -> LSN | None:
    return None if text is None else LSN.parse(text)
