"""A predicate that a user wrote, in the source's SQL."""

from __future__ import annotations

import psycopg

from cdc_assets.errors import ConfigError
from cdc_assets.source.catalog import SourceTable
from cdc_assets.source.connection import Connection
from cdc_assets.source.snapshot import relation_of


def check_predicate(connection: Connection, table: SourceTable, predicate: str) -> None:
    """Have the source parse a predicate over a table's row, without running it.

    Raises:
        ConfigError: It does not parse, or is none.
    """
    relation = relation_of(table)
    sql = f"EXPLAIN SELECT FROM {relation} AS source WHERE ({predicate}\n)"
    try:
        connection.execute(sql.replace("%", "%%"), (), prepare=True)  # one statement at the most
    except psycopg.errors.ProgrammingError as error:
        said = (error.diag.message_primary or "").split("\n")[0]
        raise ConfigError(
            f"the predicate for table {str(table.name)!r} is none that Postgres takes: {said}",
            hint="write what would stand behind WHERE, for example \"updated_at > '2026-01-01'\"",
        ) from error
