"""`backfill` as it is typed: what it refuses, what it says, and that the table is right then."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets_tests.command_line import assert_readable, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, total int)")
    database.execute("CREATE TABLE notes (id int PRIMARY KEY, note text)")
    database.execute("INSERT INTO orders SELECT i, i FROM generate_series(1, 80) i")
    database.execute("INSERT INTO notes SELECT i, 'n' || i FROM generate_series(1, 5) i")
    config = pipeline("public.orders", "public.notes", schema_changes="stop")
    assert run_command(config, "sync").code == 0
    return config


@pytest.mark.parametrize(
    ("options", "says", "hint"),
    [
        ((), "expected tables to backfill, or --all-tables", "--help"),
        (("public.orders", "--all-tables"), "expected tables to backfill", "--help"),
        (("public.orders", "--where", "id = 1", "--bucket", "1"), "without --bucket", "--help"),
        (("--all-tables", "--where", "id = 1"), "--where goes with one table", "--help"),
        (("public.orders", "--where", ""), "expected a predicate behind --where", "--help"),
        (("public.order",), "table 'public.order' is not in pipeline", "'public.orders'"),
        (("public.orders", "--bucket", "8"), "'public.orders' has no bucket '8'", "00 to 07"),
    ],
)
def test_what_can_not_be_meant_is_refused_before_anything_is_read(
    config: PipelineConfig, options: Sequence[str], says: str, hint: str
) -> None:
    assert_readable(run_command(config, "backfill", *options), says=says, hint=hint, code=2)


def test_a_table_is_put_right_as_a_whole(database: ScratchDatabase, config: PipelineConfig) -> None:
    _write(config, "DELETE FROM public.orders WHERE id = 7; UPDATE public.orders SET total = 0")

    done = run_command(config, "backfill", "public.orders", "--json")

    assert done.code == 0, done.err
    (table,) = done.json["tables"]
    (whole,) = table["buckets"]
    assert (table["table"], table["error"]) == ("public.orders", None)
    assert (whole["bucket"], whole["rows_read"], whole["rows_inserted"]) == ("", 80, 1)
    assert (whole["rows_changed"], whole["rows_removed"]) == (79, 0)
    assert [line for line in done.err.splitlines() if line.startswith("backfilled public.orders: ")]
    assert_equal_to_source(database, config)


def test_buckets_are_put_right_and_others_left_as_they_are(config: PipelineConfig) -> None:
    _write(config, "UPDATE public.orders SET total = 0 WHERE id IN (1, 80)")

    done = run_command(config, "backfill", "public.orders", "--bucket", "0", "--bucket", "01")

    assert done.code == 0, done.err
    header, *rows = done.out.splitlines()
    assert header.split()[:6] == ["table", "bucket", "read", "inserted", "changed", "removed"]
    told = [row.split() for row in rows]
    assert [(row[0], row[1]) for row in told] == [("public.orders", "00"), ("public.orders", "01")]
    assert sum(int(row[4]) for row in told) == 1
    assert _rows(config, "SELECT id FROM public.orders WHERE total = 0") == [(80,)]


def test_rows_of_a_predicate_are_put_right(config: PipelineConfig) -> None:
    _write(config, "UPDATE public.orders SET total = 0 WHERE id IN (1, 80)")

    done = run_command(config, "backfill", "public.orders", "--where", "id < 10")

    assert done.code == 0, done.err
    assert _rows(config, "SELECT id FROM public.orders WHERE total = 0") == [(80,)]


def test_a_predicate_that_does_not_parse_is_refused(config: PipelineConfig) -> None:
    done = run_command(config, "backfill", "public.orders", "--where", "no_such_column = 1")

    assert done.code in (1, 2)
    assert "Traceback" not in done.err
    assert "no_such_column" in done.err


@pytest.mark.parametrize("where", ["1 / (id - 7) > 0", "id = 'canary'"])
def test_a_predicate_that_can_not_be_computed_is_named_and_no_value_is(
    config: PipelineConfig, where: str
) -> None:
    done = run_command(config, "backfill", "public.orders", "--where", where)

    assert done.code in (1, 2)
    assert "the predicate " in done.err
    assert "write " in done.err
    assert "canary" not in done.err
    assert run_command(config, "backfill", "public.orders").code == 0


def test_all_tables_are_backfilled_whatever_becomes_of_one(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    _write(config, "DELETE FROM public.notes")
    database.execute("DROP TABLE orders")

    done = run_command(config, "backfill", "--all-tables", "--json")

    assert done.code == 1
    orders, notes = done.json["tables"]
    assert "'public.orders'" in orders["error"]
    assert orders["hint"]
    assert (notes["error"], notes["buckets"][0]["rows_inserted"]) == (None, 5)
    assert [line for line in done.err.splitlines() if line.startswith("public.orders was not back")]


def test_a_table_that_failed_goes_on_after_its_backfill(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("ALTER TABLE orders ADD COLUMN note text; INSERT INTO orders VALUES (81, 1)")
    assert run_command(config, "sync").code == 1

    done = run_command(config, "backfill", "public.orders", "--bucket", "00")

    assert done.code == 0, done.err
    says = "public.orders was copied as a whole: it had no mirror that could go on"
    assert done.out.splitlines()[-1] == says
    assert "as a whole" not in run_command(config, "backfill", "public.orders").out
    assert run_command(config, "sync").code == 0
    assert_equal_to_source(database, config)


def _write(config: PipelineConfig, sql: str) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(sql)


def _rows(config: PipelineConfig, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        return warehouse.execute(sql).fetchall()
