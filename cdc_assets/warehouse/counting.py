"""How many rows tables have: one question for a hundred of them, not one for each."""

from __future__ import annotations

from collections.abc import Collection

import duckdb

from cdc_assets.changes.rows import DELETED_COLUMN
from cdc_assets.identifiers import TableName
from cdc_assets.warehouse.values import RowCounts

# Planned together so many take 0.15 ms each; alone a table takes 1 ms, in a thousand 0.3 ms
_AT_ONCE = 100

_TABLES = f"""
SELECT schema_name, table_name, (schema_name, table_name) IN (
    SELECT (schema_name, table_name) FROM duckdb_columns()
    WHERE database_name = current_database() AND column_name = '{DELETED_COLUMN}'
)
FROM duckdb_tables() WHERE database_name = current_database()
"""


def count_rows(
    connection: duckdb.DuckDBPyConnection, catalog: str, tables: Collection[TableName]
) -> dict[TableName, RowCounts]:
    """Count the rows of those that are there, and no views.

    Args:
        connection: To the file.
        catalog: Its name in SQL.
        tables: Which.
    """
    keeps_deleted = {
        TableName(schema, name).folded: bool(keeps)
        for schema, name, keeps in connection.execute(_TABLES).fetchall()
    }
    there = [table for table in tables if table.folded in keeps_deleted]
    counts = dict[TableName, RowCounts]()
    for start in range(0, len(there), _AT_ONCE):
        asked = there[start : start + _AT_ONCE]
        parts = (
            f"SELECT {place}, {_counts(keeps=keeps_deleted[table.folded])}"
            f" FROM {catalog}.{table.sql}"
            for place, table in enumerate(asked)
        )
        for place, live, deleted in connection.execute(" UNION ALL ".join(parts)).fetchall():
            counts[asked[place]] = RowCounts(live, deleted)
    return counts


def _counts(*, keeps: bool) -> str:
    if not keeps:
        return "count(*), NULL"
    return (
        f"count(*) FILTER (WHERE {DELETED_COLUMN} IS NOT TRUE),"
        f" count(*) FILTER (WHERE {DELETED_COLUMN})"
    )
