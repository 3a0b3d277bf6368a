"""Which warehouse a slot serves, kept on the source where a slot keeps nothing but its position.

A mark is the comment of a large object in the slot's own database. Any role may make one without
another privilege, everybody may read it, and it is as durable as a table: it outlives crash,
restart, failover and pg_upgrade, and needs no table of ours. What was weighed instead:
a publication's comment is its owner's to write; a replication origin and a role's settings are a
superuser's; a second slot costs one and alarms; a logical message is gone once it is confirmed; an
advisory lock ends with its session.

The newest mark of a slot counts, so that a role can speak after an administrator whose mark it may
not remove. A mark can be lost: `vacuumlo` removes large objects that no table refers to. Then the
right warehouse, whose checkpoints the slot has not passed, marks it again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import MAXYEAR, datetime, timedelta

from cdc_assets.identifiers import quote_literal
from cdc_assets.source.connection import Connection, fetch_one

_KEY = "cdc_assets"

# A slot that is not there, or is lost, serves nobody, whatever was said of one of its name
_MARKS = """
SELECT mark.description, mark.objoid::text
FROM pg_description mark
WHERE mark.classoid = 'pg_largeobject'::regclass AND mark.objsubid = 0
  AND starts_with(mark.description, '{"cdc_assets":')
"""
_SLOT_SERVES = """
SELECT 1 FROM pg_replication_slots slot
WHERE slot_name = %s AND database = current_database() AND wal_status IS DISTINCT FROM 'lost'
  AND to_jsonb(slot) ->> 'invalidation_reason' IS NULL
"""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Whom a slot serves.

    Attributes:
        warehouse: The id that the warehouse was given when it was made.
        since: When it was said, by the source's clock.
    """

    slot: str
    warehouse: str
    since: datetime


@dataclass(frozen=True, slots=True)
class _Mark:
    oid: int
    warehouse: str | None  # None: nobody
    at: datetime


def served_warehouse(connection: Connection, slot: str) -> Ownership | None:
    """Read which warehouse a slot serves; None where it has served none yet, or is not there."""
    if connection.execute(_SLOT_SERVES, (slot,)).fetchone() is None:
        return None
    newest = max(_marks(connection, slot), key=lambda mark: mark.at, default=None)
    if newest is None or newest.warehouse is None:
        return None
    return Ownership(slot, newest.warehouse, newest.at)


def mark_served(connection: Connection, slot: str, warehouse: str | None) -> None:
    """Say durably which warehouse a slot serves from now on; None: none yet.

    Raises:
        psycopg.Error: The source refuses.
    """
    older = _marks(connection, slot)
    at = fetch_one(connection, "SELECT clock_timestamp()")[0]
    newest = max((mark.at for mark in older), default=at - timedelta(days=1))
    at = max(at, newest + timedelta(microseconds=1))  # a clock that was set back, or a false mark
    said = json.dumps({_KEY: {"slot": slot, "warehouse": warehouse, "at": at.isoformat()}})
    with connection.transaction():
        # a standby that is down holds nothing up: a mark that a failover loses is made again
        connection.execute("SET LOCAL synchronous_commit = local")
        oid = fetch_one(connection, "SELECT lo_create(0)")[0]
        connection.execute(f"COMMENT ON LARGE OBJECT {int(oid)} IS {quote_literal(said)}")
        _unlink(connection, older)


def forget_served(connection: Connection, slot: str) -> None:
    """Take away what was said of a slot of this name, of which nobody is served any more."""
    with connection.transaction():
        _unlink(connection, _marks(connection, slot))
    if _marks(connection, slot):
        mark_served(connection, slot, None)


def _marks(connection: Connection, slot: str) -> list[_Mark]:
    rows = connection.execute(_MARKS).fetchall()
    marks = [_read_mark(slot, said, int(oid)) for said, oid in rows]
    return [mark for mark in marks if mark is not None]


def _read_mark(slot: str, said: str, oid: int) -> _Mark | None:
    """Read a comment, which anybody may have written."""
    try:
        mark = json.loads(said)[_KEY]
        at = datetime.fromisoformat(mark["at"])
        warehouse = mark["warehouse"]
        known = mark["slot"] == slot and at.tzinfo is not None
        known = known and at.year < MAXYEAR  # no mark could be newer
    except (ValueError, KeyError, TypeError):
        return None
    return _Mark(oid, None if warehouse is None else str(warehouse), at) if known else None


def _unlink(connection: Connection, marks: list[_Mark]) -> None:
    """Remove those of the marks that the role may."""
    connection.execute(
        "SELECT lo_unlink(oid) FROM pg_largeobject_metadata"
        " WHERE oid::text = ANY(%s::text[]) AND pg_has_role(lomowner, 'USAGE')",
        ([str(mark.oid) for mark in marks],),
    )
