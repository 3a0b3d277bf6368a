"""What the source calls tables now, by their oids."""

from __future__ import annotations

from collections.abc import Collection

from cdc_assets.identifiers import TableName
from cdc_assets.source.connection import Connection

_NAMES = """
SELECT c.oid::bigint, n.nspname, c.relname FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY(%s::oid[])
AND c.relkind IN ('r', 'p', 'f')
"""


def names_of(connection: Connection, oids: Collection[int]) -> dict[int, TableName]:
    """Give the names of those tables that are there."""
    found = connection.execute(_NAMES, (list(oids),)).fetchall()
    return {oid: TableName(schema, name) for oid, schema, name in found}
