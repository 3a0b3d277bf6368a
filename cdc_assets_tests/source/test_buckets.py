"""Both ends find every key in the same bucket, whatever its type."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cdc_assets.changes.buckets import Bucket, key_may_be_shown, orders_keys
from cdc_assets.changes.shape import TableShape
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.identifiers import TableName, quote
from cdc_assets.pgoutput.types import intervals_as_text
from cdc_assets.pgoutput.values import decode_text
from cdc_assets.source import buckets as source
from cdc_assets.source.catalog import SourceTable, read_catalog
from cdc_assets.source.connection import Connection, connect
from cdc_assets.source.texts import text_of
from cdc_assets.warehouse import buckets as warehouse
from cdc_assets.warehouse.mirrors import column_type
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.random_values import typed_value, values
from cdc_assets_tests.values import KINDS, TYPES_SQL

COLUMNS = {f"c{at}": kind for at, kind in enumerate(KINDS)}
JSON = pa.json_(pa.string())
NAMES = ("0", "1", "2", "3", "4")


@dataclass
class BothEnds:
    """A table of a source and its rows in a warehouse.

    Attributes:
        table: With the key that is to be tried.
    """

    connection: Connection
    mirror: duckdb.DuckDBPyConnection
    table: SourceTable

    @property
    def shape(self) -> TableShape:
        return self.table.shape

    def with_key(self, *columns: str) -> BothEnds:
        shape = replace(self.shape, key=columns)
        return BothEnds(self.connection, self.mirror, replace(self.table, shape=shape))

    def plan(self, names: Sequence[str] = NAMES) -> tuple[Bucket, ...]:
        return source.plan_buckets(self.connection, self.table, names)

    def numbers(self, plan: Sequence[Bucket]) -> dict[int, int]:
        """Give each row's bucket by its id, once both ends say that it is in this one alone."""
        found = []
        for end in (source, warehouse):
            listed = ", ".join(
                f"({end.in_bucket(self.shape, bucket, 'source')})" for bucket in plan
            )
            number = end.numbered(self.shape, plan, "source")
            sql = f"SELECT id, {number}, {listed} FROM {self.table.name.sql} AS source ORDER BY id"
            session: Any = self.connection if end is source else self.mirror
            found.append(session.execute(sql).fetchall())
        assert found[0] == found[1]
        for _, number, *within in found[0]:
            assert [at for at, inside in enumerate(within) if inside] == [number]
        return {row[0]: row[1] for row in found[0]}

    def in_order(self) -> list[int]:
        """Give the ids in the order that the warehouse's own comparisons make of the keys."""
        listed = ", ".join(
            quote(one.name) + ("::VARCHAR" if one.type.arrow == JSON else "")
            for one in self.shape.key_columns
        )
        sql = f"SELECT id FROM {self.table.name.sql} ORDER BY {listed}"
        return [row[0] for row in self.mirror.execute(sql).fetchall()]


def both_ends(connection: Connection, table: str = "t") -> BothEnds:
    """Copy a table, as a copy would, into a DuckDB in memory."""
    name = TableName("public", table)
    found = read_catalog(connection, "none", [name]).tables[name]
    in_keys = [replace(one, type=intervals_as_text(one.type)) for one in found.shape.columns]
    shape = replace(found.shape, columns=tuple(in_keys))  # any of them may be one
    found = replace(found, shape=shape)
    listed = ", ".join(text_of(column, quote(column.name)) for column in shape.columns)
    rows = connection.execute(f"SELECT {listed} FROM {name.sql}").fetchall()
    columns = []
    for column, texts in zip(shape.columns, zip(*rows, strict=True) if rows else (), strict=False):
        encoded = [None if text is None else text.encode() for text in texts]
        columns.append(decode_text(pa.array(encoded, pa.binary()), column.type.arrow))
    mirror = duckdb.connect()
    kinds = ", ".join(
        f"{quote(column.name)} {column_type(column.type.arrow)}" for column in shape.columns
    )
    mirror.execute(f"CREATE SCHEMA public; CREATE TABLE {name.sql} ({kinds})")
    if columns:
        rows_of_mirror = pa.table(columns, list(shape.names))  # noqa: F841 - DuckDB finds it
        mirror.execute(f"INSERT INTO {name.sql} SELECT * FROM rows_of_mirror")
    return BothEnds(connection, mirror, found)


@pytest.fixture(scope="module")
def wide(postgres: EmbeddedPostgres) -> Iterator[ScratchDatabase]:
    database = ScratchDatabase(postgres, "buckets")
    database.create()
    try:
        database.execute(TYPES_SQL)
        listed = ", ".join(f"{name} {kind.type}" for name, kind in COLUMNS.items())
        database.execute(f"CREATE TABLE t (id int PRIMARY KEY, {listed})")
        yield database
    finally:
        database.drop()


ROWS = st.lists(
    st.fixed_dictionaries({name: values(kind, nullable=False) for name, kind in COLUMNS.items()}),
    min_size=6,
    max_size=14,
)


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # to make a row of all types smaller takes minutes
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
)
@given(rows=ROWS, seed=st.integers(0, 1000))
def test_every_key_of_every_type_is_in_one_bucket_the_same_on_both_ends(
    wide: ScratchDatabase, rows: list[dict[str, str]], seed: int
) -> None:
    fill(wide, rows)
    pick = random.Random(seed)
    composite = [pick.sample(list(COLUMNS), pick.choice((2, 3))) for _ in range(25)]
    with closing(connect(wide.dsn)) as connection:
        ends = both_ends(connection)
        for columns in [*([name] for name in COLUMNS), *composite]:
            ends_of_key = ends.with_key(*columns)
            plan = ends_of_key.plan()
            assert [bucket.name for bucket in plan] == list(NAMES)
            numbers = ends_of_key.numbers(plan)
            if not orders_keys(ends_of_key.shape):
                assert set(numbers.values()) <= {0}
                continue
            ordered = [numbers[row] for row in ends_of_key.in_order()]
            assert ordered == sorted(ordered)


def fill(database: ScratchDatabase, rows: list[dict[str, str]]) -> None:
    with closing(database.connect()) as connection:
        connection.execute("TRUNCATE t")
        for number, row in enumerate(rows):
            typed = [typed_value(COLUMNS[name].type, text) for name, text in row.items()]
            expressions = ", ".join(["%s", *(expression for expression, _ in typed)])
            names = ", ".join(["id", *row])
            connection.execute(
                f"INSERT INTO t ({names}) VALUES ({expressions})",
                [number, *(text for _, text in typed)],
            )


WORDS = [
    *["a", "A", "b", "B", "z", "Z", "ä", "Ä", "å", "é", "e", "f", "_x", "-x", "x-y", "x"],
    "",
    " x",
]


def plan_of(
    database: ScratchDatabase, *key: str, names: Sequence[str] = NAMES, table: str = "t"
) -> tuple[tuple[Bucket, ...], list[int]]:
    """Plan a table's buckets, and give how many rows each has, by both ends."""
    with closing(connect(database.dsn)) as connection:
        ends = both_ends(connection, table)
        ends = ends.with_key(*key) if key else ends
        plan = ends.plan(names)
        assert [bucket.name for bucket in plan] == list(names)
        numbers = list(ends.numbers(plan).values())
        return plan, [numbers.count(at) for at in range(len(names))]


@pytest.mark.parametrize(
    "kind",
    ['text COLLATE "en-x-icu"', 'text COLLATE "sv-x-icu"', 'text COLLATE "C"', "citext", "char(3)"],
)
def test_text_is_ordered_by_its_bytes_under_any_collation(
    older_database: ScratchDatabase, kind: str
) -> None:
    older_database.execute(f"CREATE EXTENSION citext; CREATE TABLE t (id serial, k {kind})")
    older_database.execute("INSERT INTO t (k) SELECT unnest(%s::text[])", [WORDS])

    plan, sizes = plan_of(older_database, "k")

    assert [bucket.is_empty for bucket in plan] == [False] * 5
    assert max(sizes) <= 5


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("LATIN1", WORDS),
        ("WIN1251", [chr(at) for at in range(0x401, 0x460, 3) if at not in (0x40D, 0x450, 0x45D)]),
        ("KOI8R", ["\u0401", *map(chr, range(0x410, 0x450, 2)), "\u0451", "A"]),
        ("EUC_JP", ["あ", "亜", "ｱ", "腕", "Ω", "z", "本", "日", "語", "¶"]),
    ],
)
def test_text_is_ordered_alike_whatever_encoding_the_source_has(
    database: ScratchDatabase, encoding: str, words: list[str]
) -> None:
    other = ScratchDatabase(database.server, f"{database.name}_{encoding.lower()}")
    database.execute(
        f"CREATE DATABASE {other.name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'"
    )
    try:
        with closing(connect(other.dsn)) as connection:
            connection.execute("CREATE TABLE public.t (id serial, k text, l varchar(9))")
            connection.execute(
                "INSERT INTO public.t (k, l) SELECT a, b FROM unnest(%s::text[]) a,"
                " unnest(%s::text[]) b",
                [words, words],
            )
        plan_of(other, "k")
        _, sizes = plan_of(other, "l", "k")
    finally:
        other.drop()
    assert max(sizes) - min(sizes) <= 1


def test_a_table_without_rows_is_in_one_bucket(database: ScratchDatabase) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")

    plan, sizes = plan_of(database)

    assert [(bucket.low, bucket.high) for bucket in plan[:1]] == [(None, None)]
    assert all(bucket.is_empty for bucket in plan[1:])
    assert sizes == [0] * 5


@pytest.mark.parametrize(("rows", "sizes"), [(1, [1, 0, 0, 0, 0]), (3, [1, 1, 1, 0, 0])])
def test_fewer_rows_than_buckets_leave_the_last_ones_empty(
    database: ScratchDatabase, rows: int, sizes: list[int]
) -> None:
    database.execute(
        f"CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, {rows})"
    )

    assert plan_of(database)[1] == sizes


def test_equal_leading_columns_are_told_apart_by_the_next(database: ScratchDatabase) -> None:
    database.execute(
        "CREATE TABLE t (id serial, a text, b bigint, PRIMARY KEY (a, b));"
        "INSERT INTO t (a, b) SELECT CASE WHEN n % 10 = 0 THEN 'b' ELSE 'a' END, n * n"
        " FROM generate_series(1, 1000) AS n"
    )

    assert plan_of(database)[1] == [200] * 5


def test_one_bucket_is_the_whole_table(database: ScratchDatabase) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 9)"
    )

    plan, sizes = plan_of(database, names=["00"])

    assert plan == (Bucket("00", None, None),)
    assert sizes == [9]


def test_a_thousand_buckets_are_told_apart(database: ScratchDatabase) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 3000)"
    )

    assert plan_of(database, names=[f"{at:03}" for at in range(1000)])[1] == [3] * 1000


def test_a_key_that_no_mirror_can_hold_is_no_bound(database: ScratchDatabase) -> None:
    """A row filter may leave such rows out."""
    database.execute(
        "CREATE TABLE t (id numeric(9,2)); INSERT INTO t VALUES ('NaN'), (1), (2.5), ('NaN')"
    )
    with closing(connect(database.dsn)) as connection:
        table = read_catalog(connection, "none", [TableName("public", "t")]).tables
        (found,) = table.values()
        found = replace(found, shape=replace(found.shape, key=("id",)))
        plan = source.plan_buckets(connection, found, NAMES)
    assert [bucket.high for bucket in plan[:3]] == [("1.00",), ("2.50",), None]


def test_partitions_are_one_table_and_children_are_tables_of_their_own(
    database: ScratchDatabase,
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY) PARTITION BY HASH (id);"
        "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "INSERT INTO t SELECT generate_series(1, 100);"
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c () INHERITS (p);"
        "INSERT INTO p SELECT generate_series(1, 10);"
        "INSERT INTO c SELECT generate_series(100, 200)"
    )

    assert plan_of(database)[1] == [20] * 5
    with closing(connect(database.dsn)) as connection:
        tables = read_catalog(connection, "none", [TableName("public", "p")]).tables
        plan = source.plan_buckets(connection, tables[TableName("public", "p")], NAMES)
    assert [bucket.high for bucket in plan] == [("2",), ("4",), ("6",), ("8",), None]


@pytest.mark.parametrize("is_partitioned", [False, True])
@pytest.mark.parametrize("analyzed", ["never", "when it was empty", "when it was full", "wrongly"])
def test_a_plan_reads_a_part_of_the_blocks_whatever_the_statistics_say(
    database: ScratchDatabase, monkeypatch: pytest.MonkeyPatch, analyzed: str, is_partitioned: bool
) -> None:
    monkeypatch.setattr(source, "SAMPLE_ROWS", 2_000)
    monkeypatch.setattr(source, "SAMPLE_BLOCKS", 20)
    parts = (
        "CREATE TABLE t (id int) PARTITION BY HASH (id);"
        "CREATE TABLE a PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE b PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
    )
    database.execute(parts if is_partitioned else "CREATE TABLE t (id int)")
    database.execute(
        "ALTER TABLE t ADD PRIMARY KEY (id);"
        + "".join(
            f"ALTER TABLE {table} SET (autovacuum_enabled = off);"
            for table in (("a", "b") if is_partitioned else "t")
        )
    )
    if analyzed == "when it was empty":
        database.execute("VACUUM t")
    database.execute("INSERT INTO t SELECT generate_series(1, 200000)")
    if analyzed == "when it was full":
        database.execute("ANALYZE t")
    if analyzed == "wrongly":  # every row was dead
        database.execute(
            "UPDATE pg_class SET reltuples = 0, relpages = 100 WHERE relname IN ('t', 'a', 'b')"
        )
    read = "SELECT sum(seq_tup_read)::int FROM pg_stat_user_tables WHERE relname IN ('t', 'a', 'b')"
    database.execute("SELECT pg_stat_reset()")

    with closing(connect(database.dsn)) as connection:
        tables = read_catalog(connection, "none", [TableName("public", "t")]).tables
        plan = source.plan_buckets(connection, tables[TableName("public", "t")], NAMES)

    assert [bucket.is_empty for bucket in plan] == [False] * 5
    # 226 rows a block; which blocks are read is up to chance
    assert database.execute(read)[0][0] < 60 * 226


@pytest.mark.parametrize(
    ("kinds", "may"),
    [
        (["int", "uuid", "timestamptz"], True),
        (["numeric", "date", "boolean"], True),
        (["int", "text"], False),
        (["varchar(3)"], False),
        (["mood"], False),
        (["inet"], False),
        (["int[]"], False),
        (["bytea"], False),
    ],
)
def test_a_key_with_text_in_it_is_not_shown(
    database: ScratchDatabase, kinds: list[str], may: bool
) -> None:
    names = [f"k{at}" for at in range(len(kinds))]
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, kinds, strict=True))
    database.execute(
        "CREATE TYPE mood AS ENUM ('a');"
        f"CREATE TABLE t ({columns}, PRIMARY KEY ({', '.join(names)}))"
    )
    with closing(connect(database.dsn)) as connection:
        (table,) = read_catalog(connection, "none", [TableName("public", "t")]).tables.values()
    assert key_may_be_shown(table.shape) is may
