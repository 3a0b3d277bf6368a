"""Rows enter and leave a mirror as the config's condition begins and ceases to be true of them."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.identifiers import TableName
from cdc_assets.progress import TableCompared
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.steps import Step, observers
from cdc_assets_tests.command_line import rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_all, sync_once

pytestmark = pytest.mark.usefixtures("small")

T = TableName("public", "t")
WHERE = "status <> 'draft'"


@pytest.fixture
def made(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, status text, n int, body text);"
        " ALTER TABLE t ALTER body SET STORAGE EXTERNAL;"
        " ALTER TABLE t ALTER status SET STORAGE EXTERNAL;"
        " INSERT INTO t SELECT i, CASE WHEN i % 3 = 0 THEN 'draft' WHEN i % 3 = 1 THEN 'paid' END,"
        " i, repeat(md5(i::text), 90) FROM generate_series(1, 150) i;"
        " CREATE TABLE plain (id int PRIMARY KEY)"
    )
    return pipeline("public.t", "public.plain")


@pytest.fixture
def config(made: PipelineConfig) -> PipelineConfig:
    return filtered(made, WHERE)


def filtered(config: PipelineConfig, where: str, **more: Any) -> PipelineConfig:
    tables = [{"source": "public.t", "where": where, **more}, {"source": "public.plain"}]
    return load_config(rewrite(config, tables=tables))


def churn(database: ScratchDatabase) -> None:
    """Make rows enter, leave and stay, most without carrying the value in `body`."""
    database.execute(
        "UPDATE t SET status = CASE status WHEN 'draft' THEN 'paid' ELSE 'draft' END"
        " WHERE id % 4 = 0;"
        "UPDATE t SET n = n + 1 WHERE id % 5 = 0;"
        "UPDATE t SET body = repeat('b', 4000 + n % 7), status = 'draft' WHERE id % 7 = 0;"
        "UPDATE t SET status = 'sent' WHERE id % 14 = 0;"
        "UPDATE t SET id = id + 1000 WHERE id % 11 = 0 AND id < 1000;"
        "UPDATE t SET id = id + 2000, status = 'sent' WHERE id % 13 = 0 AND id < 1000;"
        "DELETE FROM t WHERE id % 17 = 0;"
        "INSERT INTO t SELECT max(id) + 1, 'draft', 1, 'x' FROM t;"
        "INSERT INTO t SELECT max(id) + 1, 'paid', 1, repeat('y', 5000) FROM t;"
        "UPDATE t SET status = 'paid' WHERE id = (SELECT max(id) - 1 FROM t)"
    )


def test_rows_enter_and_leave(database: ScratchDatabase, config: PipelineConfig) -> None:
    converge(database, config)
    assert {status for (status,) in mirror_rows(config, "public.t", "status")} == {"paid"}
    for _ in range(3):
        churn(database)
        converge(database, config)
        churn(database)
    converge(database, config)
    database.execute("TRUNCATE t; INSERT INTO t VALUES (1, 'draft', 1, 'a'), (2, 'paid', 1, 'b')")
    converge(database, config)


def test_many_states_of_one_row_in_one_window(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    """What a change did not carry is what the row had last, kept or not."""
    converge(database, config)
    database.execute("UPDATE t SET status = 'draft', body = repeat('new', 2000) WHERE id = 1")
    database.execute("UPDATE t SET status = 'paid' WHERE id = 1")
    database.execute("UPDATE t SET status = 'draft' WHERE id = 4")
    database.execute("UPDATE t SET status = 'paid' WHERE id = 4")
    database.execute("UPDATE t SET status = 'paid' WHERE id = 3")
    database.execute("UPDATE t SET n = 0 WHERE id = 3")
    database.execute("UPDATE t SET id = 3000 WHERE id = 3")
    converge(database, config)


def test_a_value_that_tells_and_is_not_carried(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("UPDATE t SET status = repeat('long', 1000) WHERE id % 2 = 0")
    converge(database, config)
    database.execute("UPDATE t SET n = n + 1")
    converge(database, config)
    database.execute("UPDATE t SET id = id + 500, n = 7 WHERE id % 2 = 0")
    change = "UPDATE t SET n = n + 1 WHERE id % 4 = 0"
    with at_step("chunk_committed", 1, lambda: database.execute(change)):
        list(backfill(config, T, buckets=["02"]))
    converge(database, config)


def test_a_bucket_settles_whatever_tells_elsewhere(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    """Of rows of other buckets a copy need not know whether they are kept."""
    database.execute("UPDATE t SET status = repeat('long', 1000) WHERE id > 140")
    converge(database, config)

    def write(_step: Step) -> None:
        database.execute("UPDATE t SET n = n + 1 WHERE id > 140")

    observers.append(write)
    try:
        list(backfill(config, T, buckets=["00"]))
    finally:
        observers.remove(write)
    converge(database, config)


def test_copies_of_filtered_tables(database: ScratchDatabase, config: PipelineConfig) -> None:
    with at_step("chunk_committed", 1, lambda: churn(database)):
        converge(database, config)
    churn(database)
    with at_step("chunk_committed", 1, lambda: churn(database)):
        list(backfill(config, T))
    compared = [event for event in reconcile(config) if isinstance(event, TableCompared)]
    assert [table.equal for table in compared] == [True, True]
    converge(database, config)
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("DELETE FROM public.t WHERE id = 1; UPDATE public.t SET n = -1")
    (table, _) = [event for event in reconcile(config) if isinstance(event, TableCompared)]
    assert not table.equal
    list(backfill(config, T))
    assert_equal_to_source(database, config)


def test_with_the_whole_old_row(database: ScratchDatabase, config: PipelineConfig) -> None:
    database.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    converge(database, config)
    for _ in range(3):
        churn(database)
        converge(database, config)


def test_a_mirror_that_somebody_wrote_is_still_found(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    """Of a row that may not have been kept only an insert tells whether the mirror is right."""
    converge(database, config)
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("INSERT INTO public.t VALUES (900, 'paid', 1, 'a', 1, NULL)")
    database.execute("INSERT INTO t VALUES (900, 'paid', 1, 'b')")
    assert "differs from the source" in errors_of(sync_once(config))["public.t"].message


def test_renamed_and_masked_columns_can_be_asked(
    database: ScratchDatabase, made: PipelineConfig
) -> None:
    columns = {"rename": {"status": "state"}, "exclude": ["body"]}
    config = filtered(made, "state <> 'draft'", columns=columns, mask={"status": "sha256"})
    sync_all(config)
    churn(database)
    sync_all(config)
    kept = database.execute("SELECT id FROM t WHERE status <> 'draft' ORDER BY id")
    assert mirror_rows(config, "public.t", "id") == [tuple(row) for row in kept]


def test_another_condition_stops_the_table(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    other = filtered(config, "n > 20")
    assert "shaped otherwise" in errors_of(sync_once(other))["public.t"].message
    list(backfill(other, T))
    assert_equal_to_source(database, other)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("statsu = 'x'", "column 'statsu' is not there, did you mean 'status'?"),
        ("status =", "does not parse"),
        ("random() < 0.5", "something else each time"),
        ("current_date > DATE '2026-01-01'", "current_date gives something else each time"),
        ("n", "neither true nor false"),
        ("body = 'x'", "column 'body' is left out"),
    ],
)
def test_what_is_no_condition(made: PipelineConfig, where: str, said: str) -> None:
    config = filtered(made, where, columns={"exclude": ["body"]})
    assert said in run_command(config, "check").err
    assert set(errors_of(sync_once(config))) == {"public.t"}


def test_a_condition_that_can_not_be_computed(
    database: ScratchDatabase, made: PipelineConfig
) -> None:
    config = filtered(made, "status::int > 0")
    error = errors_of(sync_once(config))["public.t"]
    assert "can't be computed for a row" in error.message
    assert "draft" not in error.message + error.hint
    database.execute("UPDATE t SET status = n::text")
    converge(database, config)
    database.execute("UPDATE t SET status = 'canary' WHERE id = 4")
    error = errors_of(sync_once(config))["public.t"]
    assert "canary" not in error.message + error.hint


@pytest.mark.parametrize("seed", range(2))
def test_random_transactions_beside_copies_and_kills(
    database: ScratchDatabase, pipeline: MakePipeline, seed: int
) -> None:
    create_ledger(database)
    config = load_config(
        rewrite(
            pipeline(*TABLES),
            tables=[
                {"source": TABLES[0], "where": "balance > 10"},
                {"source": TABLES[1], "where": 'length("Body") > 10'},
                {"source": TABLES[2], "where": "line % 2 = 0"},
            ],
        )
    )
    writer = Writer(database, seed)
    for step in ("chunk_committed", "before_commit", "window_committed"):
        writer.commit(15)
        kill_at(config, step, 2)  # type: ignore[arg-type]
        writer.commit(15)
        with at_step("window_committed", 1, lambda: writer.commit(3)):
            sync_all(config)
        for table in config.table_names:
            with at_step("chunk_committed", 1, lambda: writer.commit(3)):
                list(backfill(config, table))
    converge(database, config)
