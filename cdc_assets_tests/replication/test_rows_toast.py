"""A TOASTed value that an update did not touch does not come with it, and is not lost."""

from __future__ import annotations

import pytest

from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.slices import SIZES, cut_small
from cdc_assets_tests.syncs import converge

LONG = "repeat('{}', 3000)"

# Each is a window on rows 1, 2, 3 with two TOASTed columns; `;` between statements, `|` between
# transactions
WINDOWS = {
    "update": "UPDATE t SET n = 1",
    "update twice": "UPDATE t SET n = 1 | UPDATE t SET n = 2",
    "update twice in one transaction": "UPDATE t SET n = 1; UPDATE t SET n = 2",
    "one of two values": "UPDATE t SET a = {p}, n = 1",
    "one value, then the other": "UPDATE t SET a = {p} | UPDATE t SET b = {q} | UPDATE t SET n = 3",
    "short in between": "UPDATE t SET a = 'short' | UPDATE t SET n = 1 | UPDATE t SET a = {p}",
    "null in between": "UPDATE t SET a = NULL | UPDATE t SET n = 1",
    "after an insert": "INSERT INTO t VALUES (4, 0, {p}, {q}); UPDATE t SET n = 1 WHERE id = 4",
    "after delete and insert": "DELETE FROM t WHERE id = 1; INSERT INTO t VALUES (1, 5, {p}, {q})"
    " | UPDATE t SET n = 6 WHERE id = 1",
    "after an insert and a change of key": "INSERT INTO t VALUES (4, 0, {p}, {q})"
    " | UPDATE t SET id = 5 WHERE id = 4 | UPDATE t SET n = 7 WHERE id = 5",
    "change of key": "UPDATE t SET id = id + 10",
    "change of key, then update": "UPDATE t SET id = id + 10 | UPDATE t SET n = 1",
    "update, then change of key": "UPDATE t SET a = {p} WHERE id = 1 | UPDATE t SET id = id + 10",
    "chain of keys": "UPDATE t SET id = 4 WHERE id = 1 | UPDATE t SET id = 5 WHERE id = 4"
    " | UPDATE t SET id = 6, a = {p} WHERE id = 5 | UPDATE t SET id = 7 WHERE id = 6",
    "away and back": "UPDATE t SET id = 9 WHERE id = 1 | UPDATE t SET id = 1 WHERE id = 9",
    "swap": "UPDATE t SET id = 9 WHERE id = 1; UPDATE t SET id = 1 WHERE id = 2;"
    " UPDATE t SET id = 2 WHERE id = 9",
    "rotation, twice": "UPDATE t SET id = id + 10; UPDATE t SET id = (id - 10) % 3 + 1"
    " | UPDATE t SET id = id + 10; UPDATE t SET id = (id - 10) % 3 + 1",
    "shift into a key that was left": "UPDATE t SET id = 4 WHERE id = 3;"
    " UPDATE t SET id = 3 WHERE id = 2; UPDATE t SET id = 2 WHERE id = 1;"
    " INSERT INTO t VALUES (1, 8, {p}, {q}) | UPDATE t SET n = 9",
    "key of a deleted row": "DELETE FROM t WHERE id = 2 | UPDATE t SET id = 2 WHERE id = 1"
    " | UPDATE t SET n = 4",
    "moved and deleted": "UPDATE t SET id = 9 WHERE id = 1 | DELETE FROM t WHERE id = 9",
    "moved onto, then moved away": "DELETE FROM t WHERE id = 2; UPDATE t SET id = 2 WHERE id = 1"
    " | UPDATE t SET id = 5 WHERE id = 2; INSERT INTO t VALUES (2, 1, {q}, {p})",
    "after a truncation": "TRUNCATE t; INSERT INTO t VALUES (1, 0, {p}, {q})"
    " | UPDATE t SET n = 1; UPDATE t SET id = 2",
}
SCHEMAS = {f"w{number}": window for number, window in enumerate(WINDOWS.values())}


def create(database: ScratchDatabase, identity: str) -> None:
    """Make a table `t` with three rows per window, each in a schema of its own."""
    a, b = LONG.format("a' || i || '"), LONG.format("b' || i || '")
    for schema in SCHEMAS:
        database.execute(
            f"CREATE SCHEMA {schema}; SET search_path = {schema};"
            "CREATE TABLE t (id int PRIMARY KEY, n int, a text, b text);"
            "ALTER TABLE t ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;"
            f"ALTER TABLE t REPLICA IDENTITY {identity};"
            f"INSERT INTO t SELECT i, 0, {a}, {b} FROM generate_series(1, 3) AS i"
        )


def play_windows(database: ScratchDatabase) -> None:
    for schema, window in SCHEMAS.items():
        for transaction in window.format(p=LONG.format("p"), q=LONG.format("q")).split(" | "):
            database.execute(f"SET search_path = {schema}; {transaction}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_untouched_values_stay(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    identity: str,
    size: str,
) -> None:
    if size == "in slices":
        cut_small(monkeypatch)
    create(database, identity)
    config = pipeline(*(f"{schema}.t" for schema in SCHEMAS))
    converge(database, config)
    play_windows(database)
    converge(database, config)


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_untouched_values_that_the_first_copy_has_seen_stay(
    database: ScratchDatabase, pipeline: MakePipeline, identity: str
) -> None:
    create(database, identity)
    config = pipeline(*(f"{schema}.t" for schema in SCHEMAS))
    play_windows(database)
    converge(database, config)


def test_a_toasted_key_finds_its_row(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute("CREATE TABLE t (key text PRIMARY KEY, n int, a text)")
    database.execute("ALTER TABLE t ALTER key SET STORAGE EXTERNAL, ALTER a SET STORAGE EXTERNAL")
    keys = [f"repeat('{letter}', 2500)" for letter in "abcd"]  # an index entry holds 2704 bytes
    for key in keys[:3]:
        database.execute(f"INSERT INTO t VALUES ({key}, 0, repeat('x', 3000))")
    config = pipeline("public.t")
    converge(database, config)
    database.execute("UPDATE t SET n = 1")
    converge(database, config)
    database.execute(f"UPDATE t SET key = {keys[3]} WHERE key = {keys[0]}")
    database.execute(f"UPDATE t SET n = 2 WHERE key = {keys[3]}")
    database.execute(f"DELETE FROM t WHERE key = {keys[1]}")
    converge(database, config)


def test_untouched_values_of_every_kind_stay(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TYPE pair AS (a text, b int)")
    columns = {
        "j": ("jsonb", "to_jsonb(repeat('x', 3000))"),
        "k": ("json", "to_json(repeat('x', 3000))"),
        "y": ("bytea", "convert_to(repeat('x', 3000), 'UTF8')"),
        "s": ("text[]", "array_fill('a,\"b'::text, ARRAY[900])"),
        "i": ("int[]", "array_fill(7, ARRAY[900])"),
        "m": ("numeric", "(repeat('9', 8000))::numeric"),
        "c": ("pair", "ROW(repeat('x', 3000), NULL)::pair"),
        "v": ("varbit", "repeat('10', 9000)::varbit"),
    }
    listed = ", ".join(f"{name} {kind}" for name, (kind, _) in columns.items())
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, n int, {listed})")
    for name in columns:
        if name != "m":
            database.execute(f"ALTER TABLE t ALTER {name} SET STORAGE EXTERNAL")
    config = pipeline("public.t")
    converge(database, config)
    values = ", ".join(value for _, value in columns.values())
    database.execute(f"INSERT INTO t SELECT g, 0, {values} FROM generate_series(1, 3) AS g")
    converge(database, config)
    database.execute("UPDATE t SET n = 1; UPDATE t SET id = 9 WHERE id = 2")
    converge(database, config)


def test_a_partition_whose_old_rows_are_keys_alone(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    """Below a table with a full identity, its old rows are marked as whole all the same."""
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int, a text) PARTITION BY RANGE (id);"
        "CREATE TABLE part PARTITION OF t FOR VALUES FROM (0) TO (1000);"
        "ALTER TABLE t ALTER a SET STORAGE EXTERNAL; ALTER TABLE part ALTER a SET STORAGE EXTERNAL;"
        "ALTER TABLE t REPLICA IDENTITY FULL;"
        f"INSERT INTO t SELECT i, i, {LONG.format('x')} FROM generate_series(1, 3) i"
    )
    config = pipeline("public.t")
    converge(database, config)
    database.execute("UPDATE t SET id = id + 10; UPDATE t SET n = 0 WHERE id = 12")
    converge(database, config)
