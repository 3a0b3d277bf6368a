"""DuckDB in memory, which computes columns from columns."""

from __future__ import annotations

from functools import cache

import duckdb
import pyarrow as pa

# What is not masked yet must not get into a file, whatever the memory
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": 1,
    "memory_limit": "256MB",
    "temp_directory": "",
}


@cache
def _database() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config=_CONFIG)
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def session() -> duckdb.DuckDBPyConnection:
    """Give a connection; times with a time zone are shown in UTC."""
    return _database().cursor()


def compute(expression: str, columns: pa.Table) -> pa.Array:
    """Compute an SQL expression for every row, in their order.

    Args:
        expression: Over the columns by their names.
        columns: n rows, with one column at least.

    Raises:
        duckdb.Error: It does not fit the columns, or one of the rows.
    """
    _cdc_batch = columns  # DuckDB looks for it here
    found: pa.Table = (
        session().sql(f"SELECT {expression} AS found FROM _cdc_batch").to_arrow_table()
    )
    return found["found"].combine_chunks()
