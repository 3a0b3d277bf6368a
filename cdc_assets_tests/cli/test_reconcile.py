"""`reconcile` and `adopt` as they are typed: what they print, and the code they end with."""

from __future__ import annotations

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets_tests.command_line import assert_readable, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, total int)")
    database.execute("CREATE TABLE notes (id text PRIMARY KEY, note text)")
    database.execute("INSERT INTO orders SELECT i, i FROM generate_series(1, 80) i")
    database.execute("INSERT INTO notes SELECT 'k' || i, 'n' || i FROM generate_series(1, 5) i")
    config = pipeline("public.orders", "public.notes", schema_changes="stop")
    assert run_command(config, "sync").code == 0
    return config


def test_equal_tables_are_told_as_such(config: PipelineConfig) -> None:
    done = run_command(config, "reconcile", "--json")

    assert done.code == 0, done.err
    assert set(done.json) == {"tables"}
    orders, notes = done.json["tables"]
    assert set(orders) == {
        *("table", "at_lsn", "source_rows", "warehouse_rows", "missing", "extra", "different"),
        *("equal", "buckets"),
    }
    assert (orders["table"], notes["table"]) == ("public.orders", "public.notes")
    assert (orders["source_rows"], orders["warehouse_rows"], orders["equal"]) == (80, 80, True)
    assert sum(bucket["source_rows"] for bucket in orders["buckets"]) == 80


def test_what_differs_is_counted_named_and_can_be_repaired(config: PipelineConfig) -> None:
    _write(config, "UPDATE public.orders SET total = 0 WHERE id = 7")
    _write(config, "DELETE FROM public.orders WHERE id = 80")
    _write(config, "UPDATE public.notes SET note = 'x' WHERE id = 'k3'")

    done = run_command(config, "reconcile")

    assert done.code == 1
    lines = [line.split() for line in done.out.splitlines()]
    (orders,) = [line for line in lines if line[:1] == ["public.orders"] and "DIFFERENT" in line]
    assert orders[2:] == ["80", "79", "1", "0", "1", "DIFFERENT"]
    assert "public.orders differs in 'total'" in done.out
    assert "public.orders differs at keys 7, 80" in done.out
    assert "k3" not in done.out + done.err  # a key of text can be personal
    hints = [line for line in done.out.splitlines() if line.startswith("hint: ")]
    assert [hint.split(" --bucket")[0] for hint in hints] == [
        "hint: put it right: cdc-assets backfill public.orders",
        "hint: put it right: cdc-assets backfill public.notes",
    ]
    repaired = run_command(config, "reconcile", "--repair")
    assert "repaired" in repaired.out
    assert run_command(config, "reconcile").code == 0


def test_a_table_that_can_not_be_compared_is_told_beside_the_others(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("ALTER TABLE orders ADD COLUMN note text; INSERT INTO orders VALUES (81, 1)")
    assert run_command(config, "sync").code == 1

    done = run_command(config, "reconcile")
    as_json = run_command(config, "reconcile", "--json").json

    assert done.code == 1
    assert "NOT COMPARED" in done.out
    assert "table 'public.orders' can't be compared: " in done.out
    orders, notes = as_json["tables"]
    assert (orders["equal"], notes["equal"]) == (False, True)
    assert "can't be compared" in orders["not_compared"]
    assert "hint: copy it anew: cdc-assets backfill public.orders" in done.out.splitlines()


def test_a_sample_of_one_table(config: PipelineConfig) -> None:
    done = run_command(config, "reconcile", "public.orders", "--sample", "0.5", "--json")

    assert done.code == 0, done.err
    (orders,) = done.json["tables"]
    assert 0 < orders["source_rows"] <= 80


def test_a_table_that_something_else_copied_is_adopted_or_refused(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE things (id int PRIMARY KEY); INSERT INTO things VALUES (1), (2)")
    config = pipeline("public.things")
    create = "CREATE SCHEMA public; CREATE TABLE public.things AS SELECT unnest([1, 2])::INT AS id"
    _write(config, create)
    _write(config, "DELETE FROM public.things WHERE id = 1")

    refused = run_command(config, "adopt", "public.things", "--at-lsn", _present(database))
    _write(config, "INSERT INTO public.things (id) VALUES (1)")
    present = _present(database)
    adopted = run_command(config, "adopt", "public.things", "--at-lsn", present, "--json")

    assert refused.code == 1
    assert "was not adopted: it differs from the source" in refused.err
    assert adopted.code == 0, adopted.err
    assert [table["equal"] for table in adopted.json["tables"]] == [True]
    assert run_command(config, "sync").code == 0


@pytest.mark.parametrize("share", ["0", "1.5", "nan", "half"])
def test_a_share_that_is_none_is_refused(config: PipelineConfig, share: str) -> None:
    done = run_command(config, "reconcile", "--sample", share)

    assert_readable(done, says="expected a share above 0, up to 1", hint="--help", code=2)


def test_an_unknown_table_is_refused(config: PipelineConfig) -> None:
    done = run_command(config, "reconcile", "public.order")

    assert_readable(done, says="not in pipeline", hint="'public.orders'", code=2)


def _present(database: ScratchDatabase) -> str:
    ((lsn,),) = database.execute("SELECT pg_current_wal_insert_lsn()::text")
    return str(lsn)


def _write(config: PipelineConfig, sql: str) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(sql)
