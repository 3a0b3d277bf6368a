"""The pipeline's durable slot: where it is, what it is of, and moving it on."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cdc_assets import waits
from cdc_assets.changes.fence import Snapshot
from cdc_assets.errors import (
    ConnectionLostError,
    PreflightError,
    ReplicationError,
    SlotInUseError,
    SlotNotFoundError,
)
from cdc_assets.lsn import LSN, WalIdentity
from cdc_assets.source.connection import (
    IN_USE_TIMEOUT_SECONDS,
    Connection,
    fetch_one,
    translated,
)
from cdc_assets.source.refusals import NO_SLOT, invalidated
from cdc_assets.source.standby import furthest_behind

PLUGIN = "pgoutput"
_FLUSH_TIMEOUT_SECONDS = 60.0
_UNASKED_FLUSH_SECONDS = 0.1
_JOIN_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class SlotState:
    """The server's own account of the slot."""

    confirmed_lsn: LSN
    restart_lsn: LSN
    wal_status: str
    active_pid: int | None


def read_identity(connection: Connection, slot: str) -> WalIdentity:
    """Ask the source who it is."""
    row = fetch_one(
        connection,
        "SELECT (SELECT system_identifier::text FROM pg_control_system()),"
        " ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int,"
        " current_database()",
    )
    return WalIdentity(row[0], row[1], row[2], slot)


def read_slot(connection: Connection, slot: str) -> SlotState:
    """Read the slot's state.

    Raises:
        SlotNotFoundError: It does not exist.
        PreflightError: It is another plugin's, another database's, or physical.
        SlotInvalidatedError: The server threw away WAL that it needs.
    """
    row = connection.execute(
        "SELECT plugin, database, current_database(), confirmed_flush_lsn::text,"
        " restart_lsn::text, wal_status, active_pid, to_jsonb(s) ->> 'invalidation_reason',"
        " two_phase FROM pg_replication_slots s WHERE slot_name = %s",
        (slot,),
    ).fetchone()
    if row is None:
        raise SlotNotFoundError(f"slot {slot!r} does not exist", hint=NO_SLOT)
    plugin, database, current, confirmed, restart, status, active_pid, reason, two_phase = row
    if plugin != PLUGIN or database != current:
        raise PreflightError(
            f"slot {slot!r} is of plugin {plugin!r} in database {database!r},"
            f" expected {PLUGIN!r} in {current!r}",
            hint="choose another name for source.slot and run 'cdc-assets setup'",
        )
    if two_phase:
        raise PreflightError(
            f"slot {slot!r} decodes prepared transactions, which come twice then",
            hint="choose another name for source.slot and run 'cdc-assets setup'",
        )
    if status == "lost" or reason is not None or confirmed is None or restart is None:
        raise invalidated(slot, reason or f"wal_status is {status!r}")
    return SlotState(LSN.parse(confirmed), LSN.parse(restart), status, active_pid)


def wait_until_free(connection: Connection, slot: str) -> SlotState:
    """Wait a little for a dead reader's backend to let go of the slot.

    Raises:
        SlotInUseError: Somebody still reads it; says who.
    """
    states = [read_slot(connection, slot)]

    def free() -> bool:
        states[0] = read_slot(connection, slot)
        return states[0].active_pid is None

    def reader() -> str:
        return session_name(connection, states[0].active_pid or 0)

    if not waits.until(
        free, lambda: f"{reader()} to let go of slot {slot!r}", seconds=IN_USE_TIMEOUT_SECONDS
    ):
        raise SlotInUseError(
            f"slot {slot!r} is in use by {reader()}",
            hint="stop the other reader, or give this pipeline a slot of its own",
        )
    return states[0]


def current_end(connection: Connection) -> LSN:
    """Give the WAL's end with everything that is committed now before it, and flushed.

    A commit with synchronous_commit = off is visible before it is flushed, and decoding sees
    flushed WAL only: so the insert position, waited for until it is flushed.

    Raises:
        ConnectionLostError: The server does not flush in time.
    """
    row = fetch_one(connection, "SELECT pg_current_wal_insert_lsn()::text")
    end = LSN.parse(row[0])
    wait_until_flushed(connection, end)
    return end


def wait_until_flushed(connection: Connection, lsn: LSN) -> None:
    """Wait until the source's WAL is on its disk up to `lsn`.

    On an idle server nobody flushes what no commit has asked for: the WAL of an open transaction,
    or of a read that pruned a page; and a position behind the header of a new page is reached by no
    flush at all. So after a moment a commit of our own, of an empty transaction,
    asks for it. That and the mark of `ownership.py` is all that a run ever writes to the source.

    Raises:
        ConnectionLostError: The server does not flush in time.
    """
    started, asked, position = time.monotonic(), False, LSN(0)

    def flushed() -> bool:
        nonlocal asked, position
        position = LSN.parse(fetch_one(connection, "SELECT pg_current_wal_flush_lsn()::text")[0])
        if position < lsn and not asked and time.monotonic() - started > _UNASKED_FLUSH_SECONDS:
            connection.execute("SELECT pg_current_xact_id()")
            asked = True
        return position >= lsn

    def what() -> str:
        return f"the source to flush its WAL to {lsn}, it is at {position}"

    if not waits.until(flushed, what, seconds=_FLUSH_TIMEOUT_SECONDS):
        raise ConnectionLostError(
            f"the source has flushed its WAL to {position} only, waited for {lsn}",
            hint="look at the source's disk and its wal_writer",
        )


def current_snapshot(connection: Connection) -> Snapshot:
    """Ask which transactions the source shows now."""
    return Snapshot.parse(fetch_one(connection, "SELECT pg_current_snapshot()::text")[0])


_JOINED_LATELY = """
SELECT bool_or(age(entry.xid) <= age(slot.catalog_xmin))
FROM pg_replication_slots slot, pg_publication p, LATERAL (
    SELECT p.xmin
    UNION ALL SELECT r.xmin FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = %s
    UNION ALL SELECT n.xmin FROM pg_publication_namespace n JOIN pg_class c
        ON c.relnamespace = n.pnnspid WHERE n.pnpubid = p.oid AND c.oid = %s
) AS entry(xid)
WHERE slot.slot_name = %s AND p.pubname = %s
"""


def wait_for_unpublished_changes(
    connection: Connection, *, slot: str, publication: str, table_oid: int
) -> int | None:
    """Wait until no open transaction can hold changes that were made before a table was published.

    The slot decodes a change with the catalog as it was then, so it leaves such changes out; only
    a read of the table that sees them committed brings them. Where the slot's catalog_xmin is past
    the table's entry in the publication, every change that the slot still gives is published.

    Returns:
        The pid of a session whose transaction stays open, else None.
    """
    row = fetch_one(connection, _JOINED_LATELY, (table_oid, table_oid, slot, publication))
    if not row[0]:
        return None
    return wait_for_open_transactions(connection, seconds=_JOIN_TIMEOUT_SECONDS)


def wait_for_open_transactions(connection: Connection, *, seconds: float) -> int | None:
    """Wait until every transaction that is open now has ended and is shown.

    A snapshot's xmax is behind the last xid that has ended, not behind the last that was given out,
    so an xid of our own marks what is older.

    Returns:
        The pid of a session whose transaction stays open, 0 for a prepared one, else None.
    """
    own = int(fetch_one(connection, "SELECT pg_current_xact_id()::text")[0])

    def what() -> str:
        return f"{writer_name(connection, oldest_writer(connection))} to end its transaction"

    ended = waits.until(lambda: current_snapshot(connection).xmin > own, what, seconds=seconds)
    return None if ended else oldest_writer(connection)


def oldest_writer(connection: Connection) -> int:
    """Find the session whose transaction is the oldest of those that write; 0 where there is none.

    A prepared transaction is open without a session.
    """
    row = connection.execute(
        "SELECT pid FROM pg_stat_activity WHERE backend_xid IS NOT NULL"
        " ORDER BY age(backend_xid) DESC LIMIT 1"
    ).fetchone()
    return int(row[0]) if row else 0


def writer_name(connection: Connection, pid: int) -> str:
    """Name what `oldest_writer` has found."""
    return session_name(connection, pid) if pid else "a prepared transaction"


def session_name(connection: Connection, pid: int) -> str:
    """Name a session of the source: its pid, and its application if it has told one."""
    row = connection.execute(
        "SELECT application_name FROM pg_stat_activity WHERE pid = %s", (pid,)
    ).fetchone()
    return f"pid {pid}" + (f" ({row[0]!r})" if row and row[0] else "")


def confirm(connection: Connection, slot: str, lsn: LSN) -> LSN:
    """Move the slot to `lsn`, an end that the warehouse has made durable; never back.

    Nor past what the standbys of a failover slot have: the server would wait for them without end.

    Raises:
        ReplicationError: The server moved it somewhere else.
    """
    with translated(slot, about="slot"):
        state = read_slot(connection, slot)
        standby = furthest_behind(connection, slot)
        if standby is not None:
            lsn = min(lsn, standby.confirmed_lsn)
        if state.confirmed_lsn >= lsn:
            return state.confirmed_lsn
        row = fetch_one(
            connection,
            "SELECT end_lsn::text FROM pg_replication_slot_advance(%s, %s)",
            (slot, str(lsn)),
        )
    reached = LSN.parse(row[0])
    if reached > lsn:
        raise ReplicationError(f"slot {slot!r} was confirmed to {reached}, past the asked {lsn}")
    return reached
