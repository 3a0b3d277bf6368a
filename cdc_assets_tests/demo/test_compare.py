from __future__ import annotations

import duckdb
import pytest

from cdc_assets.demo.compare import compare
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source

# Postgres type, its literal, DuckDB type, the same value there, another value there
VALUES = [
    ("int8", "-9223372036854775808", "BIGINT", "-9223372036854775808", "0"),
    ("float8", "'-0'", "DOUBLE", "'-0.0'", "0.0"),
    ("float8", "'NaN'", "DOUBLE", "'NaN'", "'Infinity'"),
    ("float8", "1e22", "DOUBLE", "1e22", "1.0000000000000002e22"),
    ("float4", "3.4028235e38", "FLOAT", "3.4028235e38", "3.4028233e38"),
    ("float4", "1.1", "FLOAT", "1.1", "1.1000001"),
    ("numeric(12,2)", "1.50", "DECIMAL(12,2)", "1.5", "1.51"),
    ("numeric", "1.500", "VARCHAR", "'1.500'", "'1.5'"),
    ("bool", "true", "BOOLEAN", "true", "false"),
    ("text", "E'a\\n\\t\\\\N'", "VARCHAR", "E'a\\n\\t\\\\N'", "NULL"),
    ("text", "''", "VARCHAR", "''", "NULL"),
    ("char(4)", "'ab'", "VARCHAR", "'ab  '", "'ab'"),
    ("date", "'0044-03-15 BC'", "DATE", "'0044-03-15 (BC)'", "'0044-03-15'"),
    ("date", "'infinity'", "DATE", "'infinity'", "NULL"),
    ("time", "'24:00:00'", "TIME", "'24:00:00'", "'00:00:00'"),
    ("timestamp", "'0044-03-15 12:00:00.5 BC'", "TIMESTAMP", "'0044-03-15 (BC) 12:00:00.5'",
     "'0044-03-15 12:00:00.5'"),
    ("timestamptz", "'2020-02-03 04:05:06.000007+02'", "TIMESTAMPTZ",
     "'2020-02-03 02:05:06.000007+00'", "'2020-02-03 02:05:06+00'"),
    ("timestamptz", "'-infinity'", "TIMESTAMPTZ", "'-infinity'", "NULL"),
    ("interval", "'1 day 02:03:04.5'", "VARCHAR", "'1 day 02:03:04.5'", "'1 day'"),
    ("interval", "'-1 year 2 mons +3 days -00:00:00.5'", "INTERVAL",
     "to_months(-10) + to_days(3) - to_microseconds(500000)", "to_months(-10)"),
    ("interval", "'1 mon'", "INTERVAL", "INTERVAL 1 month", "INTERVAL 30 days"),
    ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "UUID",
     "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12'"),
    ("json", "'{\"a\": 1, \"a\":2}'", "JSON", "'{\"a\": 1, \"a\":2}'", "'{\"a\":2}'"),
    ("bytea", r"'\x00ff'", "BLOB", r"'\x00\xff'", r"'\x00'"),
    ("text[]", r"""'{a,NULL,"NULL","q\"\\ {,}",""}'""", "VARCHAR[]",
     r"""['a', NULL, 'NULL', 'q"\ {,}', '']""", "['a']"),
    ("int4[]", "'{}'", "INTEGER[]", "[]", "NULL"),
    ("float8[]", "'{1.5,-0}'", "DOUBLE[]", "[1.5, '-0.0'::DOUBLE]", "[1.5, 0.0]"),
    ("timestamptz[]", "'{2020-01-01 00:00:00+00}'", "TIMESTAMPTZ[]", "['2020-01-01 00:00:00+00']",
     "['2020-01-01 00:00:01+00']"),
    ("bytea[]", r"""'{"\\x00ff",NULL}'""", "BLOB[]", r"['\x00\xff', NULL]", "[NULL]"),
    ("bool[]", "'{t,f}'", "BOOLEAN[]", "[true, false]", "[true, true]"),
]  # fmt: skip


def write_mirror(path, kind: str, rows: str) -> None:
    with duckdb.connect(str(path)) as warehouse:
        warehouse.execute("SET TimeZone = 'UTC'; CREATE SCHEMA IF NOT EXISTS public")
        warehouse.execute(
            f"CREATE OR REPLACE TABLE public.t (id INTEGER, v {kind}, _cdc_lsn UBIGINT)"
        )
        warehouse.execute(f"INSERT INTO public.t VALUES {rows}")


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline):
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    return pipeline("public.t", create=False)


def test_each_type_is_compared_by_value(database: ScratchDatabase, config):
    for source_type, literal, kind, same, other in VALUES:
        database.execute(
            f"DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v {source_type});"
            f"INSERT INTO t VALUES (1, {literal})"
        )
        write_mirror(config.warehouse_path, kind, f"(1, {same}, 0)")
        assert_equal_to_source(database, config)
        write_mirror(config.warehouse_path, kind, f"(1, {other}, 0)")
        assert compare(config)[0].keys == ((1,),), (source_type, literal, other)


def test_missing_extra_changed_and_double_rows_are_differences(database, config):
    database.execute(
        "ALTER TABLE t ADD v text; INSERT INTO t SELECT i, i FROM generate_series(1,5) i"
    )
    rows = "(1,'1',0), (2,'2',0), (2,'2',0), (3,NULL,0), (5,'5',0), (6,'6',0)"
    write_mirror(config.warehouse_path, "VARCHAR", rows)
    (comparison,) = compare(config)
    assert comparison.keys == ((2,), (3,), (4,), (6,))
    assert (comparison.source_rows, comparison.warehouse_rows) == (5, 6)
    assert not comparison.equal


def test_a_table_without_a_key_is_compared_as_a_multiset(database, config):
    database.execute(
        "DROP TABLE t; CREATE TABLE t (id int, v text); INSERT INTO t VALUES (1,'a'),(1,'a')"
    )
    write_mirror(config.warehouse_path, "VARCHAR", "(1,'a',0),(1,'a',0)")
    assert_equal_to_source(database, config)
    write_mirror(config.warehouse_path, "VARCHAR", "(1,'a',0)")
    assert compare(config)[0].keys == ((1, "a"),)


def test_a_missing_mirror_or_column_is_a_problem(database, config):
    duckdb.connect(str(config.warehouse_path)).close()
    assert "no mirror" in compare(config)[0].problem
    database.execute("ALTER TABLE t ADD v text, ADD w text")
    write_mirror(config.warehouse_path, "VARCHAR", "(1,'a',0)")
    assert "'w'" in compare(config)[0].problem
