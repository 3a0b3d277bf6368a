"""Rows are found by their key: composite keys of many types, and every replica identity."""

from __future__ import annotations

from contextlib import closing
from typing import LiteralString, cast

import psycopg
import pytest

from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.slices import SIZES, cut_small
from cdc_assets_tests.syncs import converge, mirror_rows

# types of the key, and keys in ascending order, each written as SQL
KEYS = {
    "uuid and int": (
        ("uuid", "int"),
        [(f"00000000-0000-0000-0000-00000000000{at // 2}", str(at - 2)) for at in range(6)],
    ),
    "text with quotes": (
        ("text", "text"),
        [("", ""), ("", "'"), ('"', "NULL"), ("\\", "a,b"), ("a\nb", "%s"), ("\u00e9", "\u65e5")],
    ),
    "enum and bool": (
        ("mood", "bool"),
        [(mood, truth) for mood in ("sad", "it's", "NULL") for truth in ("f", "t")],
    ),
    "numeric": (
        ("numeric", "numeric(10,2)"),
        [
            ("-Infinity", "1"),
            ("-1.50", "1"),
            ("0", "0"),
            ("1.0", "0.01"),
            ("1e40", "1"),
            ("NaN", "2"),
        ],
    ),
    "timestamptz and date": (
        ("timestamptz", "date"),
        [
            ("-infinity", "-infinity"),
            ("0044-03-15 12:00+00 BC", "infinity"),
            ("2024-01-01 00:00:00.000001+00", "0044-03-15 BC"),
            ("2024-01-01 00:00:00.000002+00", "5874897-12-31"),
            ("infinity", "-infinity"),
            ("infinity", "infinity"),
        ],
    ),
    "char and varchar": (
        ("char(4)", "varchar(4)"),
        [("", ""), ("", " "), ("a", ""), ("a", "a "), ("ab", "a"), ("b", "")],
    ),
    "bytea and time": (
        ("bytea", "time"),
        [
            ("\\x", "00:00"),
            ("\\x", "24:00"),
            ("\\x00", "0:00:00.000001"),
            ("\\x27", "1:00"),
            ("\\x5c", "0:00"),
            ("\\xff", "2:00"),
        ],
    ),
    "double and real": (
        ("float8", "float4"),
        [
            ("-Infinity", "0"),
            ("-1e-300", "1"),
            ("-0", "1"),
            ("0.1", "0.1"),
            ("Infinity", "3.4e38"),
            ("NaN", "NaN"),
        ],
    ),
    "jsonb and inet": (
        ("jsonb", "inet"),
        [
            ("null", "::1"),
            ('""', "10.0.0.1"),
            ('"a"', "10.0.0.0/8"),
            ("1", "::1"),
            ("[1, null]", "::1"),
            ("{}", "::2"),
        ],
    ),
    "array and range": (
        ("text[]", "int4range"),
        [
            ("{}", "empty"),
            ('{""}', "[1,2)"),
            ("{NULL}", "(,)"),
            ('{"NULL"}', "[1,)"),
            ("{a,NULL}", "(,1)"),
            ("{b}", "[5,9)"),
        ],
    ),
    "domain and interval": (
        ("code", "interval"),
        [
            ("a", "1 mon"),
            ("a", "-1 day"),
            ("b", "infinity"),
            ("b", "0"),
            ("c", "1:00"),
            ("d", "-infinity"),
        ],
    ),
}
TYPES = "CREATE TYPE mood AS ENUM ('sad', 'it''s', 'NULL'); CREATE DOMAIN code AS varchar(3)"


class KeyedTable:
    """A table with a composite key of two types, declared in the other order."""

    def __init__(self, connection: psycopg.Connection, case: str) -> None:
        self._connection, self.name = connection, f'public."{case}"'
        self._types, self._keys = KEYS[case]
        first, second = self._types
        self._execute(
            f"CREATE TABLE {self.name}"
            f" (note text, b {second}, a {first}, n int, PRIMARY KEY (a, b))"
        )
        self._execute(f"ALTER TABLE {self.name} ALTER note SET STORAGE EXTERNAL")

    def insert(self, *places: int) -> None:
        a, b = self._typed
        for at in places:
            values = f"{a}, {b}, repeat('x', 3000), {at}"
            sql = f"INSERT INTO {self.name} (a, b, note, n) VALUES ({values})"
            self._execute(sql, *self._keys[at])

    def shift(self) -> None:
        """Move every row one key up, from the top, in one transaction."""
        a, b = self._typed
        with self._connection.transaction():
            for at in reversed(range(5)):
                new, old = self._keys[at + 1], self._keys[at]
                self._execute(
                    f"UPDATE {self.name} SET a = {a}, b = {b} WHERE (a, b) = ({a}, {b})", *new, *old
                )

    def update(self, *places: int) -> None:
        a, b = self._typed
        for at in places:
            sql = f"UPDATE {self.name} SET n = n + 10 WHERE (a, b) = ({a}, {b})"
            self._execute(sql, *self._keys[at])

    def delete(self, *places: int) -> None:
        a, b = self._typed
        for at in places:
            sql = f"DELETE FROM {self.name} WHERE (a, b) = ({a}, {b})"
            self._execute(sql, *self._keys[at])

    @property
    def _typed(self) -> tuple[str, str]:
        return f"%s::text::{self._types[0]}", f"%s::text::{self._types[1]}"

    def _execute(self, sql: str, *parameters: str) -> None:
        self._connection.execute(cast("LiteralString", sql), parameters or None)


@pytest.mark.parametrize("size", SIZES)
def test_composite_keys_find_their_rows(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    size: str,
) -> None:
    if size == "in slices":
        cut_small(monkeypatch)  # the copy goes on behind keys, too
    database.execute(TYPES)
    with closing(database.connect()) as connection:
        tables = [KeyedTable(connection, case) for case in KEYS]
        config = pipeline(*(f"public.{case}" for case in KEYS))
        for table in tables:
            table.insert(0, 1, 2, 3, 4)
        converge(database, config)
        assert [len(mirror_rows(config, f"public.{case}", "n")) for case in KEYS] == [5] * len(KEYS)
        for table in tables:
            table.shift()
            table.insert(0)
            table.update(2)
            table.delete(4)
        converge(database, config)
        for table in tables:
            table.update(0, 1, 2, 3, 5)
            table.delete(5)
            table.insert(4, 5)
        converge(database, config)
        for table in tables:
            table.delete(0, 1, 2, 3, 4, 5)
        converge(database, config)
        assert [mirror_rows(config, f"public.{case}", "n") for case in KEYS] == [[]] * len(KEYS)


@pytest.mark.parametrize("identity", ["FULL", "USING INDEX other_key"])
def test_another_identity_than_the_primary_key_finds_the_rows(
    database: ScratchDatabase, pipeline: MakePipeline, identity: str
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, code text NOT NULL, a text, n int)")
    database.execute("CREATE UNIQUE INDEX other_key ON t (code)")
    database.execute("ALTER TABLE t ALTER a SET STORAGE EXTERNAL")
    database.execute(f"ALTER TABLE t REPLICA IDENTITY {identity}")
    database.execute(
        "INSERT INTO t SELECT i, 'c' || i, repeat('x', 3000), i FROM generate_series(1, 9) i"
    )
    config = pipeline("public.t")
    converge(database, config)
    database.execute("UPDATE t SET n = n + 1; UPDATE t SET id = id + 100 WHERE id < 4")
    database.execute("UPDATE t SET code = 'd' || code WHERE id IN (4, 5, 101)")
    database.execute("UPDATE t SET id = id + 200, code = 'e' || code WHERE n > 7")
    database.execute("DELETE FROM t WHERE n IN (3, 4); INSERT INTO t VALUES (3, 'c3', NULL, NULL)")
    converge(database, config)
    # keys of one index change places while the other's stay
    database.execute(
        "UPDATE t SET code = '-' WHERE code = 'c6'; UPDATE t SET code = 'c6' WHERE code = 'c7';"
        " UPDATE t SET code = 'c7' WHERE code = '-'"
    )
    converge(database, config)


def test_identity_full_of_a_table_with_a_unique_index_alone(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (a int NOT NULL, b text NOT NULL, c text, UNIQUE (b, a))")
    database.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    database.execute("INSERT INTO t VALUES (1, 'x', 'c'), (1, 'y', NULL)")
    config = pipeline("public.t")
    converge(database, config)
    database.execute("UPDATE t SET c = 'd'; UPDATE t SET a = 2 WHERE b = 'y'")
    database.execute("DELETE FROM t WHERE b = 'x'; INSERT INTO t VALUES (3, '', '')")
    converge(database, config)


def test_identity_that_becomes_full_or_default_again_goes_on(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    database.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    config = pipeline("public.t")
    converge(database, config)
    for identity in ("FULL", "DEFAULT", "FULL"):
        database.execute(f"ALTER TABLE t REPLICA IDENTITY {identity}")
        database.execute("UPDATE t SET a = a || '+'; UPDATE t SET id = id + 10 WHERE id % 10 = 1")
        database.execute("DELETE FROM t WHERE id % 10 = 2; INSERT INTO t VALUES (2, 'n')")
    converge(database, config)


def test_a_table_of_nothing_but_its_key(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute("CREATE TABLE t (a int, b int, PRIMARY KEY (b, a))")
    database.execute("INSERT INTO t VALUES (1, 1), (2, 1), (1, 2)")
    config = pipeline("public.t")
    converge(database, config)
    database.execute("UPDATE t SET a = 5 WHERE b = 2; DELETE FROM t WHERE a = 2")
    converge(database, config)
