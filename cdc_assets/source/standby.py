"""What the standbys of a failover slot have confirmed: nothing past it may be applied.

A failover slot (Postgres 17 and later) goes on at a standby when the source is lost. What a standby
of `synchronized_standby_slots` has not received yet is gone then, so a warehouse that showed it
would show rows that never were. The server holds such a slot's own reader back
(WaitForStandbyConfirmation, slot.c). It does not hold back a reader of a copy, which is no failover
slot; and it waits without end where a slot is moved past what the standbys have. So a run asks by
the server's own rule: every slot that is listed is a physical one, is not invalidated, and has its
restart_lsn there.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdc_assets import waits
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.source.connection import Connection

_TIMEOUT_SECONDS = 5.0
# Slots are named as in SplitIdentifierString; their names need no quotes
_FURTHEST_BEHIND = """
SELECT listed.name, coalesce(standby.restart_lsn, '0/0')::text
FROM unnest(string_to_array(current_setting('synchronized_standby_slots', true), ',')) AS part,
    LATERAL (SELECT lower(btrim(part, E' \\t\\n"'))) AS listed (name)
LEFT JOIN pg_replication_slots standby ON standby.slot_name = listed.name
    AND standby.slot_type = 'physical' AND standby.wal_status <> 'lost'
WHERE EXISTS (
    SELECT 1 FROM pg_replication_slots slot
    WHERE slot.slot_name = %s AND to_jsonb(slot) ->> 'failover' = 'true'
)
ORDER BY standby.restart_lsn NULLS FIRST LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Standby:
    """A standby's slot and how far it has confirmed; 0/0 if it can't confirm anything."""

    slot: str
    confirmed_lsn: LSN


def furthest_behind(connection: Connection, slot: str) -> Standby | None:
    """Find the standby that a failover slot has to wait for first; None if for none."""
    row = connection.execute(_FURTHEST_BEHIND, (slot,)).fetchone()
    return None if row is None else Standby(row[0], LSN.parse(row[1]))


def lacking_standby(connection: Connection, slot: str, lsn: LSN) -> str:
    """Wait a little until every standby that `slot` depends on has confirmed `lsn`.

    Returns:
        Which one has not and how far it is; empty if all have.
    """
    found: list[Standby] = []

    def confirmed() -> bool:
        standby = furthest_behind(connection, slot)
        found[:] = [] if standby is None or standby.confirmed_lsn >= lsn else [standby]
        return not found

    def what() -> str:
        return describe(found[0], lsn)

    return "" if waits.until(confirmed, what, seconds=_TIMEOUT_SECONDS) else what()


def describe(standby: Standby, lsn: LSN) -> str:
    """Say which standby lacks a position."""
    return (
        f"the standby of slot {standby.slot!r} (synchronized_standby_slots) to confirm {lsn}, "
        f"it is at {standby.confirmed_lsn}"
    )


def lagging_standby_error(table: TableName, lacking: str) -> TableError:
    """Say that rows of a table were not taken over which a failover would take back."""
    return TableError(
        f"rows of table {str(table)!r} can't be read yet: waited for {lacking}",
        table=str(table),
        hint="a failover would take back what is past it: bring the standby back, or take its slot "
        "out of synchronized_standby_slots; the next sync goes on",
    )


def require_standbys(connection: Connection, slot: str, table: TableName, lsn: LSN) -> None:
    """Wait a little until what was read at `lsn` is safe from a failover.

    Raises:
        TableError: A standby does not confirm it.
    """
    lacking = lacking_standby(connection, slot, lsn)
    if lacking:
        raise lagging_standby_error(table, lacking)
