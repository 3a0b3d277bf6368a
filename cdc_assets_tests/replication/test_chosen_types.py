"""A column's type in the warehouse is chosen in the config: exact, or the table stops."""

from __future__ import annotations

from contextlib import closing
from typing import LiteralString, cast

import psycopg
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import ConfigError, SchemaChangeError, ValueConversionError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.checking import find_problems
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.round_trips import PLAIN, texts_of
from cdc_assets_tests.syncs import errors_of, mirror_rows, query, sync_all, sync_once
from cdc_assets_tests.values import KINDS, TYPES_SQL

TABLE = TableName("public", "t")
# the column's type, what is chosen, the mirror's type, values, and how DuckDB shows them
CHOSEN = [
    ("numeric", "decimal(18,6)", "DECIMAL(18,6)", {"1.5": "1.500000", "-0.1000000": "-0.100000"}),
    ("numeric(5,2)", "decimal(10,4)", "DECIMAL(10,4)", {"1.5": "1.5000", "-999.99": "-999.9900"}),
    ("integer", "bigint", "BIGINT", {"-2147483648": "-2147483648"}),
    ("bigint", "smallint", "SMALLINT", {"-32768": "-32768"}),
    ("bigint", "numeric(20,0)", "DECIMAL(20,0)", {"9223372036854775807": "9223372036854775807"}),
    ("jsonb", "text", "VARCHAR", {'{"a":1e400}': f'{{"a": 1{"0" * 400}}}'}),
    ("interval", "text", "VARCHAR", {"infinity": "infinity", "1 mon": "1 mon"}),
    ("timestamp", "varchar", "VARCHAR", {"294276-01-01 00:00:00": "294276-01-01 00:00:00"}),
    ("bytea", "text", "VARCHAR", {"\\x00ff": "\\x00ff"}),
    ("boolean", "text", "VARCHAR", {"true": "t"}),
    ("char(3)", "text", "VARCHAR", {"a": "a  "}),
    ("real", "text", "VARCHAR", {"-0": "-0", "0.1": "0.1"}),
    ("integer[]", "text", "VARCHAR", {"[0:1]={1,2}": "[0:1]={1,2}", "{{1},{2}}": "{{1},{2}}"}),
    (
        "text[]",
        "varchar[][]",
        "VARCHAR[][]",
        {
            '{{a,NULL},{"x,y","{\\"}"}}': "[[a, NULL], ['x,y', '{\"}']]",
            "{}": "[]",
            '{{"NULL",""}}': "[['NULL', '']]",
        },
    ),
    (
        "int[]",
        "integer[][][]",
        "INTEGER[][][]",
        {"{{{1},{2}},{{3},{NULL}}}": "[[[1], [2]], [[3], [NULL]]]"},
    ),
    ("int[]", "bigint[]", "BIGINT[]", {"{1,NULL}": "[1, NULL]"}),
    ("numeric[]", "decimal(9,3)[]", "DECIMAL(9,3)[]", {"{1.50000,-2}": "[1.500, -2.000]"}),
    ("inet[]", "varchar[]", "VARCHAR[]", {"{10.0.0.1,NULL}": "[10.0.0.1, NULL]"}),
    (
        "interval[]",
        "interval[][]",
        "INTERVAL[][]",
        {"{{1 mon},{30 days}}": "[[1 month], [30 days]]"},
    ),
]
UNFIT = [
    ("numeric", "decimal(18,6)", "1.1234567", "numeric(18,6)"),
    ("numeric", "decimal(4,1)", "1000", "numeric(4,1)"),
    ("numeric", "decimal(18,6)", "NaN", "numeric(18,6)"),
    ("bigint", "integer", "2147483648", "int32"),
    ("text[]", "varchar[][]", "{canary}", "2 dimensions"),
    ("text[]", "varchar[][]", "{{{canary}}}", "2 dimensions"),
    ("text[]", "varchar[][]", "[0:0][1:1]={{canary}}", "starts at 1"),
    ("numeric[]", "decimal(9,3)[]", "{1,0.0001}", "numeric(9,3)"),
]


def chosen(config: PipelineConfig, types: dict[str, str], **more: object) -> PipelineConfig:
    tables = [{"source": "public.t", "columns": {"types": types}, **more}]
    others = [{"source": str(name)} for name in config.table_names if name != TABLE]
    return load_config(rewrite(config, tables=[*tables, *others]))


def execute(database: ScratchDatabase, sql: str, parameters: list[object]) -> None:
    with closing(database.connect()) as connection:
        connection.execute(cast("LiteralString", sql), parameters)


def insert(database: ScratchDatabase, first: int) -> None:
    for at, (kind, *_, values) in enumerate(CHOSEN):
        for number, text in enumerate([*values, None]):
            execute(
                database,
                f"INSERT INTO t (id, c{at}) VALUES (%s, %s::text::{kind})",
                [first + 100 * at + number, text],
            )


def test_values_are_what_they_are_by_copy_and_by_stream(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    listed = ", ".join(f"c{at} {kind}" for at, (kind, *_) in enumerate(CHOSEN))
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, {listed})")
    database.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    insert(database, 0)
    types = {f"c{at}": name for at, (_, name, *_) in enumerate(CHOSEN)}
    config = chosen(pipeline("public.t"), types, keep=["mirror", "changes", "history"])
    sync_all(config)
    insert(database, 10_000)
    sync_all(config)
    database.execute("UPDATE t SET id = id + 10000 WHERE id >= 10000")
    database.execute("INSERT INTO t SELECT * FROM t AS o WHERE false")
    sync_all(config)
    for at, (_, name, kind, values) in enumerate(CHOSEN):
        found = query(
            config, f"SELECT id, typeof(c{at}), c{at}::VARCHAR FROM public.t"
            f" WHERE id % 10000 // 100 = {at} ORDER BY id"
        )  # fmt: skip
        texts = [*values.values(), None]
        expected = [
            (first + 100 * at + number, kind, text)
            for first in (0, 20_000)
            for number, text in enumerate(texts)
        ]
        assert found == expected, name
    assert all(one.equal for one in reconcile(config) if hasattr(one, "equal"))
    current = "FROM public.t__history WHERE _cdc_valid_to_lsn IS NULL"
    columns = ", ".join(["id", *types])
    history = query(config, f"SELECT {columns} {current} ORDER BY id")
    assert history == query(config, f"SELECT {columns} FROM public.t ORDER BY id")


@pytest.mark.parametrize(("kind", "name", "bad", "wanted"), UNFIT)
def test_what_does_not_fit_stops_the_table_alone(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    kind: str,
    name: str,
    bad: str,
    wanted: str,
) -> None:
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, v {kind})")
    database.execute("CREATE TABLE o (id int PRIMARY KEY)")
    config = chosen(pipeline("public.t", "public.o"), {"v": name})
    sync_all(config)
    execute(database, f"INSERT INTO t VALUES (1, %s::text::{kind})", [bad])
    database.execute("INSERT INTO o VALUES (1)")
    error = errors_of(sync_once(config))["public.t"]
    assert isinstance(error, ValueConversionError)
    assert wanted in error.message
    assert "{v: text}" in error.hint
    assert "canary" not in str(error)
    assert mirror_rows(config, "public.o", "id") == [(1,)]
    # the way out that the hint names
    other = chosen(config, {"v": "text"})
    assert isinstance(errors_of(sync_once(other))["public.t"], SchemaChangeError)
    list(backfill(other, TABLE))
    sync_all(other)
    expected = database.execute("SELECT v::text FROM t")
    assert mirror_rows(other, "public.t", "v") == [tuple(row) for row in expected]
    error = errors_of(sync_once(config))["public.t"]
    assert isinstance(error, SchemaChangeError)


def test_every_type_can_be_kept_as_its_text(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(TYPES_SQL)
    listed = ", ".join(f"c{at} {kind.type}" for at, kind in enumerate(KINDS))
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, {listed})")
    config = chosen(pipeline("public.t"), {f"c{at}": "text" for at in range(len(KINDS))})

    def insert_all(first: int) -> None:
        with closing(psycopg.connect(database.dsn, autocommit=True)) as connection:
            connection.execute(PLAIN)
            for at, kind in enumerate(KINDS):
                for number, text in enumerate(kind.texts):
                    sql = f"INSERT INTO t (id, c{at}) VALUES (%s, %s::text::{kind.type})"
                    key = first + 100 * at + number
                    connection.execute(cast("LiteralString", sql), [key, text])

    insert_all(0)
    sync_all(config)
    insert_all(100_000)
    sync_all(config)
    with closing(psycopg.connect(database.dsn, autocommit=True)) as connection:
        connection.execute(PLAIN)
        for at, kind in enumerate(KINDS):
            connection.execute(
                cast("LiteralString", f"CREATE TEMP VIEW v{at} AS SELECT id, c{at} AS value FROM t"
                f" WHERE c{at} IS DISTINCT FROM NULL")
            )  # fmt: skip
            expected = texts_of(connection, f"v{at}")
            got = query(config, f"SELECT id, c{at} FROM public.t WHERE c{at} IS NOT NULL")
            assert dict(got) == expected, kind.type
            assert len(expected) == 2 * len(kind.texts)


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ({"nope": "text"}, "'nope'"),
        ({"n": "double"}, "which can't be kept as 'double precision'"),
        ({"a": "integer"}, "which can't be kept as 'integer'"),
        ({"a": "varchar[]"}, "which can't be kept as 'text[]'"),
        ({"l": "integer"}, "which can't be kept as 'integer'"),
        ({"id": "bigint"}, "its key's column 'id' can't be kept as 'bigint'"),
    ],
)
def test_check_finds_what_can_not_be(
    database: ScratchDatabase, pipeline: MakePipeline, types: dict[str, str], said: str
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, n numeric, a text, l int[])")
    config = chosen(pipeline("public.t"), types)
    (problem,) = [one for one in find_problems(config) if said in one.message]
    assert problem.hint


def test_the_config_refuses_what_is_no_type(
    pipeline: MakePipeline, database: ScratchDatabase
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    config = pipeline("public.t")
    for types, said in (({"a": "frob"}, "'frob' is no type"), ({"a": "decimal(99,1)"}, "digits")):
        with pytest.raises(ConfigError, match="types") as raised:
            chosen(config, types)
        assert said in raised.value.message


def test_check_proposes_a_decimal(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a numeric, b numeric, c numeric, d numeric, e numeric)"
    )
    database.execute(
        "INSERT INTO t VALUES (1, 123.4500, 'NaN', NULL, 0.001, 7), (2, -9999, 1, NULL, 0, 8)"
    )
    notes: list[str] = []
    assert find_problems(chosen(pipeline("public.t"), {"e": "decimal(9,0)"}), notes.append) == []
    proposed = {name: note for note in notes for name in "abcde" if f"column {name!r}" in note}
    assert set(proposed) == {"a", "d"}
    assert "need decimal(6,2)" in proposed["a"]
    assert "need decimal(4,3)" in proposed["d"]


def test_a_key_may_be_text(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute("CREATE TABLE t (id bigint, d date, n int, PRIMARY KEY (id, d))")
    row = "SELECT n, date '2024-01-01' + n, n FROM generate_series(1, 30) AS n"
    database.execute(f"INSERT INTO t {row}")
    config = chosen(pipeline("public.t"), {"id": "text", "d": "text"})
    sync_all(config)
    database.execute("UPDATE t SET id = -id WHERE n % 3 = 0; DELETE FROM t WHERE n % 5 = 0")
    database.execute("UPDATE t SET n = 100 + n WHERE n % 2 = 0")
    sync_all(config)
    list(backfill(config, TABLE, buckets=["00", "03"]))
    expected = database.execute("SELECT id::text, d::text, n FROM t")
    assert mirror_rows(config, "public.t", "id, d, n") == sorted(map(tuple, expected))
    assert all(one.equal for one in reconcile(config) if hasattr(one, "equal"))
