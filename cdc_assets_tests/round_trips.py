"""Every value of every type through the first copy and the stream, read back by Postgres itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString, cast

import duckdb
import psycopg

from cdc_assets.errors import CdcError
from cdc_assets_tests.conftest import make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import errors_of, sync_once
from cdc_assets_tests.values import Kind, Text

COPIED, INSERTED, UPDATED = 0, 1000, 2000  # where each way's ids start
WAYS = {"first copy": COPIED, "insert": INSERTED, "update": UPDATED}
PLAIN = (
    "SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC';"
    " SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C';"
    " SET xmloption = 'content'; SET search_path = public"
)


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """One type's table after both syncs.

    Attributes:
        kind: The type.
        column_type: The mirror column's type.
        expected: Postgres' text of each value, by id.
        got: The mirror's value of each id, read by Postgres and printed as the same type.
        error: Why the table was left behind.
    """

    kind: Kind
    column_type: str
    expected: dict[int, Text]
    got: dict[int, Text]
    error: CdcError | None

    def expected_from(self, first: int) -> dict[int, Text]:
        """Give what one way sent."""
        return _range(self.expected, first)

    def got_from(self, first: int) -> dict[int, Text]:
        """Give what came of it."""
        return _range(self.got, first)


def _range(texts: dict[int, Text], first: int) -> dict[int, Text]:
    return {at: text for at, text in texts.items() if first <= at < first + INSERTED}


def round_trips(
    database: ScratchDatabase, directory: Path, kinds: Sequence[Kind]
) -> dict[str, RoundTrip]:
    """Send every value by every way, a table per type; gives the outcome by type."""
    with closing(psycopg.connect(database.dsn, autocommit=True, client_encoding="utf8")) as source:
        source.execute(PLAIN)
        for at, kind in enumerate(kinds):
            _execute(
                source, f"CREATE TABLE t{at} (id int PRIMARY KEY, value {kind.type}, other int)"
            )
            _insert(source, at, kind, COPIED)
            _execute(source, f"INSERT INTO t{at} SELECT id + {UPDATED}, NULL, 1 FROM t{at}")
        tables = [f"public.t{at}" for at in range(len(kinds))]
        config = make_pipeline(database, directory, *tables)
        sync_once(config)
        for at, kind in enumerate(kinds):
            _insert(source, at, kind, INSERTED)
            _execute(
                source,
                f"UPDATE t{at} AS t SET value = copied.value FROM t{at} AS copied"
                f" WHERE t.id = copied.id + {UPDATED}",
            )
        errors = errors_of(sync_once(config))
        with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
            warehouse.execute("SET TimeZone = 'UTC'")
            return {
                kind.type: _round_trip(source, warehouse, at, kind, errors.get(f"public.t{at}"))
                for at, kind in enumerate(kinds)
            }


def _execute(source: psycopg.Connection, sql: str, parameters: Sequence[object] = ()) -> None:
    source.execute(cast("LiteralString", sql), parameters or None)


def _insert(source: psycopg.Connection, at: int, kind: Kind, first: int) -> None:
    texts: list[Text] = [None, *kind.texts]
    for number, text in enumerate(texts):
        _execute(
            source,
            f"INSERT INTO t{at} VALUES (%s, %s::text::{kind.type}, 1)",
            [first + number, text],
        )


def _round_trip(
    source: psycopg.Connection,
    warehouse: duckdb.DuckDBPyConnection,
    at: int,
    kind: Kind,
    error: CdcError | None,
) -> RoundTrip:
    expected = texts_of(source, f"t{at}")
    ((column_type,),) = warehouse.execute(
        "SELECT data_type FROM duckdb_columns() WHERE table_name = ? AND column_name = 'value'",
        [f"t{at}"],
    ).fetchall() or [("",)]
    got = _read_back(source, warehouse, at, kind, column_type) if column_type else {}
    return RoundTrip(kind, column_type, expected, got, error)


def texts_of(source: psycopg.Connection, table: str) -> dict[int, Text]:
    # the output function's own text; a cast would strip the padding of char(n), for one
    result = source.execute(cast("LiteralString", f"SELECT id, value FROM {table}")).pgresult
    assert result is not None
    found = {}
    for row in range(result.ntuples):
        number, value = result.get_value(row, 0), result.get_value(row, 1)
        found[int(number or b"")] = None if value is None else value.decode()
    return found


def _read_back(
    source: psycopg.Connection,
    warehouse: duckdb.DuckDBPyConnection,
    at: int,
    kind: Kind,
    column_type: str,
) -> dict[int, Text]:
    """Let Postgres read the mirror's values; those that the mirror keeps as text stay as it is."""
    shown = f"SELECT id, {_shown(column_type)} FROM public.t{at}"
    rows = warehouse.execute(shown).fetchall()
    if column_type in ("VARCHAR", "JSON"):
        return dict(rows)
    is_list = column_type.endswith("[]")
    _execute(source, f"CREATE TEMP TABLE back{at} (id int, value {kind.type})")
    for number, value in rows:
        cast_to = f"%s::text[]::{kind.type}" if is_list else f"%s::text::{kind.type}"
        _execute(source, f"INSERT INTO back{at} VALUES (%s, {cast_to})", [number, value])
    return texts_of(source, f"back{at}")


def _shown(column_type: str) -> str:
    match column_type:
        case "BLOB":
            return "'\\x' || lower(hex(value))"
        case "BLOB[]":
            return "[CASE WHEN v IS NOT NULL THEN '\\x' || lower(hex(v)) END FOR v IN value]"
        case _ if column_type.endswith("[]"):
            return "[replace(v::VARCHAR, '(BC)', 'BC') FOR v IN value]"
        case "DATE" | "TIMESTAMP":
            return "replace(value::VARCHAR, '(BC)', 'BC')"
        case "TIMESTAMP WITH TIME ZONE":  # whose own text before DuckDB 2.0 is wrong past 290000
            text = "CASE WHEN isfinite(value) THEN make_timestamp(epoch_us(value))::VARCHAR ELSE "
            return f"replace({text} value::VARCHAR END, '(BC)', 'BC')"
        case _:
            return "value::VARCHAR"
