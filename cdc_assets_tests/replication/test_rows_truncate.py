"""TRUNCATE takes away what came before it in the stream, and nothing else."""

from __future__ import annotations

import pytest

from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.slices import SIZES, cut_small
from cdc_assets_tests.syncs import converge, sync_once

# `|` between transactions; the tables a, b (refers to a) and c have rows 1 to 20
WINDOWS = {
    "one table": "TRUNCATE c",
    "two tables at once": "TRUNCATE a, b",
    "a table and what refers to it": "TRUNCATE a CASCADE",
    "with new numbers": "TRUNCATE c RESTART IDENTITY",
    "rows before and after": "INSERT INTO c VALUES (50, 'before'); UPDATE c SET v = 'old';"
    " TRUNCATE c; INSERT INTO c VALUES (1, 'after'), (51, 'after')",
    "twice in one transaction": "TRUNCATE c; INSERT INTO c VALUES (1, 'lost'); TRUNCATE c;"
    " INSERT INTO c VALUES (2, 'kept')",
    "twice in one window": "TRUNCATE c | INSERT INTO c VALUES (1, 'lost') | TRUNCATE c, b"
    " | INSERT INTO c VALUES (3, 'kept')",
    "many rows before and after": "INSERT INTO c SELECT g, 'b' FROM generate_series(100, 400) g;"
    " TRUNCATE c; INSERT INTO c SELECT g, 'a' FROM generate_series(90, 300) g",
    "rolled back": "SAVEPOINT s; TRUNCATE a CASCADE; ROLLBACK TO s; INSERT INTO c VALUES (60, 'k')",
    "an empty table": "DELETE FROM c | TRUNCATE c | TRUNCATE c",
    "other tables go on": "INSERT INTO c VALUES (70, 'x'); TRUNCATE a CASCADE;"
    " UPDATE c SET v = v || '!'; INSERT INTO a VALUES (5, 'x'); INSERT INTO b VALUES (6, 5)",
}


@pytest.mark.parametrize("size", SIZES)
def test_truncations_apply_in_order(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    size: str,
) -> None:
    if size == "in slices":
        cut_small(monkeypatch, chunk_rows=7)
    for number in range(len(WINDOWS)):
        database.execute(
            f"CREATE SCHEMA w{number}; SET search_path = w{number};"
            "CREATE TABLE a (id int PRIMARY KEY, v text);"
            "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);"
            "CREATE TABLE c (id serial PRIMARY KEY, v text);"
            "INSERT INTO a SELECT g, 'a' FROM generate_series(1, 20) g;"
            "INSERT INTO b SELECT g, g FROM generate_series(1, 20) g;"
            "INSERT INTO c SELECT g, 'c' FROM generate_series(1, 20) g"
        )
    tables = [f"w{number}.{name}" for number in range(len(WINDOWS)) for name in "abc"]
    config = pipeline(*tables)
    converge(database, config)
    for number, window in enumerate(WINDOWS.values()):
        for transaction in window.split(" | "):
            database.execute(f"BEGIN; SET LOCAL search_path = w{number}; {transaction}; COMMIT")
    finished = converge(database, config)
    counts = {str(result.table): result.counts for result in finished.tables}
    assert counts["w0.c"].truncated == 1
    assert (counts["w1.a"].truncated, counts["w1.b"].truncated) == (1, 1)
    assert counts["w8.a"].truncated == 0


def test_a_truncation_that_the_first_copy_has_seen_takes_nothing_away(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_small(monkeypatch)
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    config = pipeline("public.t")
    database.execute(
        "INSERT INTO t SELECT generate_series(1, 9); TRUNCATE t; INSERT INTO t VALUES (1)"
    )
    database.execute("TRUNCATE t; INSERT INTO t SELECT generate_series(5, 15)")
    converge(database, config)


def test_truncating_a_table_of_another_pipeline_touches_nothing(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
    database.execute("INSERT INTO t VALUES (1); INSERT INTO u VALUES (1)")
    config = pipeline("public.t")
    database.execute(f"ALTER PUBLICATION {config.source.publication} ADD TABLE u")
    converge(database, config)
    database.execute("TRUNCATE u; TRUNCATE u, t; INSERT INTO t VALUES (2)")
    converge(database, config)
    database.execute("TRUNCATE u")
    assert sync_once(config).counts.total == 0
