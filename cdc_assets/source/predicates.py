"""A predicate that a user wrote, in the source's SQL."""

from __future__ import annotations

import psycopg

from cdc_assets.errors import ConfigError
from cdc_assets.source.catalog import SourceTable
from cdc_assets.source.connection import Connection
from cdc_assets.source.snapshot import relation_of

_HINT = "write what would stand behind WHERE, for example \"updated_at > '2026-01-01'\""


def check_predicate(connection: Connection, table: SourceTable, predicate: str) -> None:
    """Have the source parse a predicate over a table's row, without running it.

    It has to parse by itself as well as in parentheses: `a) OR (b` would else undo what it is
    joined with, the range of a chunk and the publication's row filter.

    Raises:
        ConfigError: It does not parse, or is none.
    """
    relation = relation_of(table)
    sql = f"EXPLAIN SELECT FROM {relation} AS source WHERE ({predicate}\n) AND\n{predicate}\n"
    try:
        connection.execute(sql.replace("%", "%%"), (), prepare=True)  # one statement at the most
    except psycopg.errors.ProgrammingError as error:
        said = (error.diag.message_primary or "").split("\n")[0]
        raise _refused(table, f"is none that Postgres takes: {said}") from error
    except psycopg.errors.DataError as error:  # its message may quote a value
        why = f"holds a value that Postgres does not take ({error.sqlstate})"
        raise _refused(table, why) from error


def _refused(table: SourceTable, why: str) -> ConfigError:
    return ConfigError(f"the predicate for table {str(table.name)!r} {why}", hint=_HINT)
