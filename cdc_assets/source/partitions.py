"""Whether a partitioned table has other rows than its changes on the slot have made.

A partition that is new is harmless where nothing can have been in it before it was published as its
root: it was created as a partition and has its first file, so every row came through the stream; or
its file is empty, and its first one.

A partition whose file is another one was truncated, or rewritten. Where one transaction has done so
with all of them it may have truncated the whole table, which the stream says.

*Created as a partition*: its columns are inherited as they were inserted, by the command that
inserted its system columns. ATTACH and DETACH write the rows of all columns anew.
"""

from __future__ import annotations

from collections.abc import Collection

from cdc_assets.changes.partitions import compare_partitions
from cdc_assets.changes.shape import TableShape
from cdc_assets.errors import SourceBusyError
from cdc_assets.source.connection import Connection, bounded_locks
from cdc_assets.source.names import names_of

# Of pg_class c: the table itself, and what is below it that nobody is about to detach
PARTITIONS = """CASE c.relkind WHEN 'p' THEN (
    WITH RECURSIVE tree(relid, since) AS (
        SELECT c.oid, '0'
        UNION ALL
        SELECT inhrelid, below.xmin::text FROM pg_inherits below
        JOIN tree ON inhparent = tree.relid WHERE NOT inhdetachpending
    ) SELECT string_agg(
        concat_ws(':', relid, since, coalesce(pg_relation_filenode(relid), 0)), ' ' ORDER BY relid
    ) FROM tree) END"""
# xmax: of a row that a transaction has altered in vain, cmin is that one's
_NEW = """
SELECT c.oid::bigint, c.relkind = 'p', EXISTS (
           SELECT FROM pg_attribute own JOIN pg_attribute system USING (attrelid)
           WHERE attrelid = c.oid AND own.attnum > 0 AND own.attinhcount > 0
           AND system.attname = 'tableoid' AND system.attnum < 0
           AND own.xmin = system.xmin AND own.cmin = system.cmin
           AND own.xmax = '0' AND system.xmax = '0'),
       coalesce(pg_relation_filenode(c.oid) = c.oid, false)
FROM pg_class c WHERE c.oid = ANY(%s::oid[])
"""
_ARE_EMPTY = "SELECT bool_and(pg_relation_size(oid) = 0) FROM unnest(%s::oid[]) AS asked(oid)"
_WRITERS = "SELECT DISTINCT xmin::text::bigint FROM pg_class WHERE oid = ANY(%s::oid[])"
_LOCK_SECONDS = 0.5


def moved_rows(
    connection: Connection, before: TableShape, after: TableShape, *, was_truncated: bool = True
) -> str:
    """Say what became of a table's partitions that changed its rows without a message on the slot.

    Args:
        connection: A session on the source.
        before: What is known of the table.
        after: A later look at it.
        was_truncated: Whether what may have been a truncation of the whole table is taken for one.

    Returns:
        What is to be said; empty where its rows are what the stream says, as far as can be told.
    """
    found = compare_partitions(before.partitions, after.partitions)
    if found.gone:
        return _said(connection, found.gone, "was detached or dropped")
    if found.returned:
        return _said(connection, found.returned, "was detached and attached again")
    if found.moved and not (was_truncated and truncated_by(connection, before, after) is not None):
        return _said(connection, found.moved, "was truncated or rewritten")
    if found.new and not _are_harmless(connection, found.new):
        return _said(connection, found.new, "was attached, and may have had rows")
    return ""


def truncated_by(connection: Connection, before: TableShape, after: TableShape) -> int | None:
    """Give the transaction that may have truncated a whole partitioned table; None for none."""
    found = compare_partitions(before.partitions, after.partitions)
    if not found.are_all_moved:
        return None
    writers = connection.execute(_WRITERS, (list(found.moved),)).fetchall()
    return int(writers[0][0]) if len(writers) == 1 else None


def _are_harmless(connection: Connection, new: Collection[int]) -> bool:
    """Whether every row below new partitions is on the stream."""
    kinds = connection.execute(_NEW, (list(new),)).fetchall()
    leaves = [row for row in kinds if not row[1]]
    is_attached = any(not is_made for _, is_parted, is_made, _ in kinds if is_parted)
    doubtful = [oid for oid, _, is_made, _ in leaves if is_attached or not is_made]
    if len(kinds) < len(new) or not all(is_first for *_, is_first in leaves):
        return False
    if not doubtful:
        return True
    try:
        with bounded_locks(connection, _LOCK_SECONDS):
            (are_empty,) = connection.execute(_ARE_EMPTY, (doubtful,)).fetchone() or (False,)
    except SourceBusyError:
        return False
    return bool(are_empty)


def _said(connection: Connection, oids: Collection[int], what: str) -> str:
    if len(oids) > 1:
        return f"{len(oids)} of its partitions: each {what}"
    names = [*names_of(connection, oids).values()]
    return f"its partition {str(names[0])!r} {what}" if names else f"a partition of it {what}"
