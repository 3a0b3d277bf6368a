"""A batch supposes rows in the mirror, or none: where that is not so the table stops."""

from __future__ import annotations

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets.replication import copying
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

KEYS = {
    "one integer": "id int PRIMARY KEY, part text",
    "with text": "id int, part text, PRIMARY KEY (id, part)",
}


@pytest.fixture(params=KEYS)
def config(
    request: pytest.FixtureRequest, database: ScratchDatabase, pipeline: MakePipeline
) -> PipelineConfig:
    """Two tables of three rows that are copied already."""
    for table in ("t", "u"):
        database.execute(f"CREATE TABLE {table} ({KEYS[request.param]}, v int)")
        database.execute(f"INSERT INTO {table} SELECT n, 'p', n FROM generate_series(1, 3) AS n")
    config = pipeline("public.t", "public.u")
    converge(database, config)
    return config


def write_mirror(config: PipelineConfig, sql: str) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(sql)


def expect_stopped(database: ScratchDatabase, config: PipelineConfig) -> None:
    """Expect that `t` alone fails, its mirror as before; that a new copy brings it back."""
    before = mirror_rows(config, "public.t")
    database.execute("UPDATE u SET v = 7 WHERE id = 2")
    expect_different(config)
    assert mirror_rows(config, "public.t") == before
    assert (2, 7) in mirror_rows(config, "public.u", "id, v")

    forget_tables(config, [TableName.parse("public.t")])
    converge(database, config)


def expect_different(config: PipelineConfig) -> None:
    errors = errors_of(sync_once(config))
    assert set(errors) == {"public.t"}
    assert isinstance(errors["public.t"], TableError)
    assert "differs from the source" in str(errors["public.t"])
    assert "backfill public.t" in str(errors["public.t"].hint)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE t SET v = 8 WHERE id = 2",
        "UPDATE t SET id = 9 WHERE id = 2",
        "DELETE FROM t WHERE id = 2",
        "DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, 'p', 8)",
        "UPDATE t SET id = id + 10; UPDATE t SET id = id - 10",
    ],
    ids=["update", "move", "delete", "replace", "there and back"],
)
def test_a_change_of_a_row_that_the_mirror_lost_stops_the_table(
    database: ScratchDatabase, config: PipelineConfig, change: str
) -> None:
    write_mirror(config, "DELETE FROM public.t WHERE id = 2")
    database.execute("INSERT INTO t VALUES (4, 'p', 4)")
    database.execute(change)
    expect_stopped(database, config)


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO t VALUES (4, 'p', 4)",
        "INSERT INTO t VALUES (4, 'p', 4); DELETE FROM t WHERE id = 4",
        "UPDATE t SET id = 4 WHERE id = 3",
    ],
    ids=["insert", "insert and delete", "move"],
)
def test_a_new_row_that_the_mirror_has_already_stops_the_table(
    database: ScratchDatabase, config: PipelineConfig, change: str
) -> None:
    write_mirror(
        config, "INSERT INTO public.t SELECT * REPLACE (4 AS id) FROM public.t WHERE id = 3"
    )
    database.execute("UPDATE t SET v = 8 WHERE id = 1")
    database.execute(change)
    expect_stopped(database, config)


def test_a_table_found_different_stays_stopped_until_it_is_copied_anew(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    write_mirror(config, "DELETE FROM public.t WHERE id = 2")
    before = mirror_rows(config, "public.t")
    database.execute("UPDATE t SET v = 8 WHERE id = 2")
    expect_different(config)
    database.execute("UPDATE t SET v = 9 WHERE id = 1")
    expect_different(config)
    assert mirror_rows(config, "public.t") == before

    database.execute("DELETE FROM t WHERE id = 2")
    expect_stopped(database, config)
    database.execute("UPDATE t SET v = v + 1; INSERT INTO t VALUES (2, 'p', 20)")
    converge(database, config)


def test_a_row_that_the_mirror_has_twice_stops_the_table(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    write_mirror(config, "INSERT INTO public.t FROM public.t WHERE id = 3")
    database.execute("UPDATE t SET v = 8 WHERE id = 3")
    expect_stopped(database, config)


def test_changes_that_suppose_what_the_mirror_has_pass(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("UPDATE t SET v = 8 WHERE id = 1; DELETE FROM t WHERE id = 2")
    database.execute("INSERT INTO t VALUES (2, 'p', 5), (4, 'p', 4), (5, 'p', 5)")
    database.execute("DELETE FROM t WHERE id = 5; UPDATE t SET id = id + 10")
    database.execute("UPDATE t SET id = id - 11")
    converge(database, config)
    database.execute("TRUNCATE t; INSERT INTO t VALUES (1, 'p', 1); UPDATE t SET v = 2")
    converge(database, config)


def test_a_truncation_forgives_what_the_mirror_lost(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    write_mirror(config, "DELETE FROM public.t WHERE id = 2")
    database.execute("UPDATE t SET v = 8; TRUNCATE t; INSERT INTO t VALUES (2, 'p', 1)")
    converge(database, config)


def test_a_row_that_lacks_and_one_that_is_too_many_do_not_make_up_for_each_other(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    write_mirror(config, "UPDATE public.t SET id = id + 1")
    database.execute("UPDATE t SET v = 8 WHERE id = 1; INSERT INTO t VALUES (4, 'p', 4)")

    expect_stopped(database, config)


def test_a_key_that_the_source_refuses_by_now_is_copied(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its domain got a check after the change was made, and nobody asks the source about it."""
    monkeypatch.setattr(copying, "CHUNK_ROWS", 2)
    database.execute("CREATE DOMAIN code AS int; CREATE TABLE t (id code PRIMARY KEY, v int)")
    database.execute("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)")
    database.execute("INSERT INTO t SELECT n, n FROM generate_series(1, 6) AS n")

    def refuse() -> None:
        database.execute("UPDATE t SET v = 0 WHERE id = 1; UPDATE t SET id = 9 WHERE id = 6")
        database.execute("DELETE FROM t WHERE id = 9")
        database.execute("ALTER DOMAIN code ADD CHECK (VALUE < 9)")

    config = pipeline("public.t", "public.u")
    with at_step("chunk_committed", 1, refuse):
        converge(database, config)
