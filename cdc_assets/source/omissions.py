"""Finds out whether a publication has left out changes for a while.

The catalog says that a publication was altered, by another version of its row, but not what it was
in between: `publish = 'insert'` and back looks like a change of its owner. The slot knows both. It
gives what was published, and a copy of it under `test_decoding`, which knows no publications, gives
what was written. Where a table has as many changes of each kind in both, nothing was left out. The
server counts; no row leaves it.

A server of version 18 reports transactions that it found to be aborted as if it had streamed them
(`pgoutput/messages.py`), and `test_decoding` crashes it then. So `pgoutput` reads the range first:
the other one, which would come by the same reports, is not asked where there are any.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg.rows import TupleRow

from cdc_assets import waits
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.source.catalog import SourceTable
from cdc_assets.source.connection import Connection, fetch_one, translated
from cdc_assets.source.published import below
from cdc_assets.source.reader import publication_list
from cdc_assets.source.slot import wait_for_open_transactions

_CRASHES = (
    "by a server that 'test_decoding' crashes: a large transaction with savepoints was rolled back"
)
_SETTLE_SECONDS = 1.0
_KINDS = {"INSERT": "I", "UPDATE": "U", "DELETE": "D", "TRUNCATE": "T"}
# Behind the kind byte: the relation's oid, for T their number, flags, and an oid each, for A an xid
_PUBLISHED = """
WITH said AS MATERIALIZED (
    SELECT data, chr(get_byte(data, 0)) AS kind FROM pg_logical_slot_get_binary_changes(
        %s, %s, NULL, 'proto_version', '1', 'publication_names', %s)
), placed AS (
    SELECT data, kind, CASE kind WHEN 'T' THEN 6 + 4 * number ELSE 1 END AS at
    FROM said, LATERAL generate_series(0, CASE kind WHEN 'T' THEN
        get_byte(data, 3) * 256 + get_byte(data, 4) - 1 ELSE 0 END) AS number
    WHERE kind IN ('I', 'U', 'D', 'T', 'A')
)
SELECT ((get_byte(data, at) * 256::bigint + get_byte(data, at + 1)) * 256
        + get_byte(data, at + 2)) * 256 + get_byte(data, at + 3) AS relation, kind, count(*)
FROM placed GROUP BY 1, 2
"""
_WRITTEN = """
SELECT found[1], found[2], count(*)
FROM pg_logical_slot_get_changes(%s, %s, NULL, 'include-xids', '0', 'skip-empty-xacts', '1'),
     LATERAL regexp_match(left(data, 1000), '^table (.*?): (INSERT|UPDATE|DELETE|TRUNCATE): ')
     AS found
WHERE found IS NOT NULL GROUP BY 1, 2
"""
_NAMES = f"""
SELECT c.oid::bigint, relation.relid = c.oid,
       quote_ident(n.nspname) || '.' || quote_ident(named.relname)
FROM unnest(%s::oid[]) AS wanted(oid) JOIN pg_class c ON c.oid = wanted.oid
CROSS JOIN LATERAL (SELECT c.oid AS relid UNION
                    SELECT relid FROM {below("c.oid")} AS tree WHERE c.relkind = 'p') AS relation
JOIN pg_class named ON named.oid = relation.relid
JOIN pg_namespace n ON n.oid = named.relnamespace
"""


@dataclass(frozen=True, slots=True)
class SlotRange:
    """What to count: the slot's changes of transactions that end in `(start_lsn, upto_lsn]`.

    At most `max_wal_bytes` of WAL at a time: the server keeps in temporary files what it counts.
    """

    slot: str
    publication: str
    start_lsn: LSN
    upto_lsn: LSN
    max_wal_bytes: int


@dataclass(frozen=True, slots=True)
class Omissions:
    """What a publication has left out.

    Attributes:
        tables: Those that lack changes.
        unknown: Why nobody can know that of any table, or empty.
    """

    tables: frozenset[TableName] = frozenset()
    unknown: str = ""


def find_omissions(
    connection: Connection, span: SlotRange, tables: Collection[SourceTable]
) -> Omissions:
    """Find the tables of which the publication has left out changes.

    Needs a spare slot. A table whose row filter keeps rows out counts as one, too, where any were.

    Raises:
        CdcError: The source refuses, or the connection is lost.
    """
    waits.say("waiting for the source to count what an altered publication left out")
    with translated(span.slot):
        # A transaction is known as aborted a moment after its record is written: whatever ends
        # right now is to look the same to both readings
        wait_for_open_transactions(connection, seconds=_SETTLE_SECONDS)
        published = _published(connection, span)
        if any(kind == "A" for _, kind in published):
            return Omissions(unknown=_CRASHES)
        try:
            written = _written(connection, span)
        except psycopg.errors.UndefinedFile:
            return Omissions(unknown="without 'test_decoding' on it")
        own, others = _names(connection, [table.shape.oid for table in tables])
    return Omissions(
        frozenset(
            table.name
            for table in tables
            if any(
                published[table.shape.oid, kind]
                != sum(written[name, kind] for name in _bearers(table.shape.oid, kind, own, others))
                for kind in _KINDS.values()
            )
        )
    )


def _bearers(oid: int, kind: str, own: dict[int, str], parts: dict[int, list[str]]) -> list[str]:
    """Give the names under which a table's changes were written: a truncation has the root's."""
    return [own[oid]] if kind == "T" or oid not in parts else parts[oid]


def _written(connection: Connection, span: SlotRange) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for names, kind, count in _counted(connection, span, "test_decoding", _WRITTEN):
        for name in names.split(", ") if kind == "TRUNCATE" else (names,):
            counts[name, _KINDS[kind]] += count
    return counts


def _published(connection: Connection, span: SlotRange) -> Counter[tuple[int, str]]:
    counts: Counter[tuple[int, str]] = Counter()
    listed = publication_list(span.publication)
    for oid, kind, count in _counted(connection, span, "pgoutput", _PUBLISHED, listed):
        counts[oid, kind] += count
    return counts


def _counted(
    connection: Connection, span: SlotRange, plugin: str, sql: str, *parameters: str
) -> Iterator[TupleRow]:
    """Run a count over the range under a plugin, part by part."""
    with _copied(connection, span, plugin) as copy:
        position = span.start_lsn
        while position < span.upto_lsn:
            upto = LSN(min(position + span.max_wal_bytes, span.upto_lsn))
            yield from connection.execute(sql, (copy, str(upto), *parameters)).fetchall()
            position = _position(connection, copy)


def _names(connection: Connection, oids: list[int]) -> tuple[dict[int, str], dict[int, list[str]]]:
    own: dict[int, str] = {}
    parts: dict[int, list[str]] = {}
    for oid, is_itself, name in connection.execute(_NAMES, (oids,)):
        if is_itself:
            own[oid] = name
        else:
            parts.setdefault(oid, []).append(name)
    return own, parts


def _position(connection: Connection, slot: str) -> LSN:
    row = fetch_one(
        connection,
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s",
        (slot,),
    )
    return LSN.parse(row[0])


@contextmanager
def _copied(connection: Connection, span: SlotRange, plugin: str) -> Iterator[str]:
    """Copy the slot for a while, to read it from the range's start."""
    copy = f"{span.slot[:40]}_look_{connection.info.backend_pid}"
    connection.execute(
        "SELECT pg_copy_logical_replication_slot(%s, %s, true, %s)", (span.slot, copy, plugin)
    )
    try:
        if _position(connection, copy) < span.start_lsn:
            connection.execute(
                "SELECT pg_replication_slot_advance(%s, %s)", (copy, str(span.start_lsn))
            )
        yield copy
    finally:
        if not connection.closed:
            connection.execute("SELECT pg_drop_replication_slot(%s)", (copy,))
