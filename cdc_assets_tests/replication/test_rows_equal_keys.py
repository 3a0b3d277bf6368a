"""Keys that are equal for Postgres and not the same, and orders that only Postgres knows.

On the older server: the embedded one is built without ICU.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets_tests.conftest import make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.slices import SIZES, cut_small
from cdc_assets_tests.syncs import converge

COLLATION = (
    "CREATE COLLATION same (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
)
# type of the key, two forms of one key, and others
KEYS = {
    "numeric": ("numeric", "1.0", "1.00", "-2"),
    "interval": ("interval", "1 mon", "30 days", "-00:00:01"),
    "jsonb": ("jsonb", "[1.0]", "[1.00]", "{}"),
    "double": ("float8", "-0", "0", "NaN"),
    "double array": ("float8[]", "{-0,NULL}", "{0,NULL}", "{NaN}"),
    "any case": ("citext", "Ab", "aB", "zz"),
    "any letters": ("text COLLATE same", "Ab", "aB", "\u00e9"),
    "address": ("inet", "10.0.0.1/32", "10.0.0.1", "::1"),
}


@pytest.mark.parametrize("size", SIZES)
def test_a_key_that_changes_to_an_equal_one_keeps_its_row(
    older_database: ScratchDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: str,
) -> None:
    database = older_database
    if size == "in slices":
        cut_small(monkeypatch)
    database.execute(f"CREATE EXTENSION citext; {COLLATION}")
    windows = {}
    for name, (kind, one, same, other) in KEYS.items():
        table = f'"{name}"'
        database.execute(f"CREATE TABLE {table} (id {kind} PRIMARY KEY, n int, a text)")
        database.execute(f"ALTER TABLE {table} ALTER a SET STORAGE EXTERNAL")
        database.execute(
            f"INSERT INTO {table} VALUES ('{one}', 0, repeat('x', 3000)), ('{other}', 0, '')"
        )
        windows[table] = (one, same)
    config = make_pipeline(database, tmp_path, *(f"public.{name}" for name in KEYS))
    converge(database, config)
    for table, (one, same) in windows.items():
        database.execute(f"UPDATE {table} SET id = '{same}' WHERE id = '{one}'")
        database.execute(f"UPDATE {table} SET n = n + 1")
    converge(database, config)
    for table, (one, same) in windows.items():
        database.execute(f"DELETE FROM {table} WHERE id = '{one}'")
        database.execute(f"INSERT INTO {table} VALUES ('{one}', 5, repeat('y', 3000))")
        database.execute(f"UPDATE {table} SET id = '{same}'  WHERE id = '{one}'")
        database.execute(f"UPDATE {table} SET id = '{one}', n = 6 WHERE id = '{same}'")
        database.execute(f"UPDATE {table} SET id = '{same}' WHERE id = '{one}'")
    converge(database, config)
    for table, (_, same) in windows.items():
        database.execute(f"DELETE FROM {table} WHERE id = '{same}'")
    converge(database, config)


def test_chunks_follow_the_order_of_the_keys_collation(
    older_database: ScratchDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = older_database
    cut_small(monkeypatch, chunk_rows=2)
    database.execute(COLLATION)
    kinds = {"t0": 'text COLLATE "C"', "t1": 'text COLLATE "en-x-icu"', "t2": "text COLLATE same"}
    words = [
        "a",
        "B",
        "c",
        "D",
        "\u00e9",
        "e",
        "F",
        "_",
        "1",
        "10",
        "2",
        "\u00df",
        "ss\u0301",
        "Z",
        "-a",
    ]
    for table, kind in kinds.items():
        database.execute(f"CREATE TABLE {table} (id {kind}, n int, PRIMARY KEY (id, n))")
        for word in words:
            database.execute(f"INSERT INTO {table} VALUES (%s, 1), (%s, 2)", [word, word])
    config = make_pipeline(database, tmp_path, *(f"public.{table}" for table in kinds))
    for table in kinds:  # seen by the copy, and given by the slot all the same
        database.execute(
            f"UPDATE {table} SET n = 3 WHERE n = 2; DELETE FROM {table} WHERE id = 'B'"
        )
    converge(database, config)
    for table in kinds:
        database.execute(f"UPDATE {table} SET id = upper(id) WHERE n = 3")
    converge(database, config)
    forget_tables(config, [TableName.parse(f"public.{table}") for table in kinds])
    converge(database, config)
