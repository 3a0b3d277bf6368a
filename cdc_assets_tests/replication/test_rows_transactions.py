"""What a transaction did counts when it commits, whatever its parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets_tests.conftest import SERVER_SETTINGS, MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.slices import cut_small
from cdc_assets_tests.syncs import converge, mirror_rows, sync_all


def test_rolled_back_savepoints_leave_nothing(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    database.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    config = pipeline("public.t")
    converge(database, config)
    database.execute(
        "BEGIN; INSERT INTO t VALUES (3, 'c'); SAVEPOINT one; UPDATE t SET a = 'lost';"
        " SAVEPOINT two; DELETE FROM t; ROLLBACK TO two; INSERT INTO t VALUES (4, 'lost');"
        " ROLLBACK TO one; UPDATE t SET id = 9 WHERE id = 1; SAVEPOINT three;"
        " INSERT INTO t VALUES (1, 'kept'); RELEASE three; COMMIT"
    )
    database.execute("BEGIN; DELETE FROM t; ROLLBACK")
    finished = converge(database, config)
    assert finished.counts.inserted == 2
    assert finished.counts.deleted == 0


def test_two_thousand_subtransactions(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    database.execute("CREATE TABLE u (id int PRIMARY KEY)")
    config = pipeline("public.t", "public.u")
    converge(database, config)
    database.execute(
        """
        DO $$ BEGIN
          FOR i IN 1..2000 LOOP
            BEGIN
              INSERT INTO t VALUES (i, 0);
              UPDATE t SET a = a + 1 WHERE id = i - 1;
              IF i % 3 = 0 THEN INSERT INTO u VALUES (i); END IF;
              IF i % 5 = 0 THEN RAISE EXCEPTION 'undone'; END IF;
            EXCEPTION WHEN raise_exception THEN NULL;
            END;
          END LOOP;
        END $$
        """
    )
    finished = converge(database, config)
    assert finished.counts.inserted == 1600 + 533


def test_concurrent_transactions_apply_in_the_order_of_their_commits(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_small(monkeypatch)
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    database.execute("INSERT INTO t SELECT g, 'start' FROM generate_series(1, 4) g")
    config = pipeline("public.t")
    converge(database, config)
    with database.connect() as first, database.connect() as second:
        first.execute("BEGIN")
        first.execute("INSERT INTO t VALUES (10, 'first')")
        first.execute("UPDATE t SET a = 'first' WHERE id IN (1, 2)")
        second.execute("BEGIN")
        second.execute("UPDATE t SET a = 'second' WHERE id = 3")
        second.execute("INSERT INTO t VALUES (11, 'second')")
        second.execute("COMMIT")
        sync_all(config)  # while the first one is still open
        assert len(mirror_rows(config, "public.t")) == 5
        first.execute("UPDATE t SET a = 'first' WHERE id IN (3, 11)")
        first.execute("COMMIT")
    converge(database, config)


def test_several_tables_in_one_transaction(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut_small(monkeypatch)
    tables = [f"t{number}" for number in range(5)]
    for table in tables:
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, a text)")
    config = pipeline(*(f"public.{table}" for table in tables))
    converge(database, config)
    for round_number in range(3):
        statements = [
            f"INSERT INTO {table} SELECT g, '{table}' FROM generate_series({low}, {low + 9}) g;"
            f"UPDATE {table} SET id = id + 1000, a = a || '+' WHERE id % 7 = {round_number};"
            f"DELETE FROM {table} WHERE id % 11 = {round_number}"
            for table in tables
            for low in (round_number * 100,)
        ]
        database.execute(";".join(statements))
    converge(database, config)


def test_large_values_and_many_rows_in_one_transaction(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    config = pipeline("public.t")
    converge(database, config)
    database.execute(
        "INSERT INTO t SELECT g, repeat(md5(g::text), 30000) FROM generate_series(1, 40) g;"
        "INSERT INTO t SELECT g, md5(g::text) FROM generate_series(100, 20000) g;"
        "UPDATE t SET id = -id WHERE id < 20; DELETE FROM t WHERE id % 3 = 0"
    )
    converge(database, config)


@pytest.fixture(scope="module")
def two_phase_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    settings = {**SERVER_SETTINGS, "max_prepared_transactions": "4"}
    server = EmbeddedPostgres(tmp_path_factory.mktemp("two_phase"), settings=settings)
    try:
        yield server.start()
    finally:
        server.remove()


def test_a_prepared_transaction_counts_when_it_commits_and_once(
    two_phase_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    database = ScratchDatabase(two_phase_postgres, "prepared")
    database.create()
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'a')")
    config = make_pipeline(database, tmp_path, "public.t")
    converge(database, config)
    database.execute(
        "BEGIN; INSERT INTO t VALUES (2, 'kept'); UPDATE t SET id = 5 WHERE id = 1;"
        " PREPARE TRANSACTION 'kept'"
    )
    database.execute("BEGIN; INSERT INTO t VALUES (3, 'lost'); PREPARE TRANSACTION 'lost'")
    database.execute("INSERT INTO t VALUES (4, 'other')")
    finished = converge(database, config)
    assert finished.counts.inserted == 1
    database.execute("COMMIT PREPARED 'kept'")
    database.execute("ROLLBACK PREPARED 'lost'")
    finished = converge(database, config)
    assert (finished.counts.inserted, finished.counts.updated) == (1, 1)
    assert converge(database, config).counts.total == 0
    database.drop()


def test_a_first_copy_beside_a_prepared_transaction_does_not_lose_it(
    two_phase_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    database = ScratchDatabase(two_phase_postgres, "prepared_copy")
    database.create()
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'a')")
    config = make_pipeline(database, tmp_path, "public.t")
    database.execute("BEGIN; INSERT INTO t VALUES (2, 'b'); PREPARE TRANSACTION 'open'")
    sync_all(config)
    assert mirror_rows(config, "public.t", "id") == [(1,)]
    database.execute("COMMIT PREPARED 'open'")
    converge(database, config)
    database.drop()
