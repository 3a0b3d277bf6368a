"""Runs of the job against a real server: what is materialized, and what each result says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from cdc_assets import steps
from cdc_assets.config import load_config
from cdc_assets.lsn import LSN
from cdc_assets.orchestration import execution, told
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import (
    definitions,
    materialized,
    observed,
    run_sync,
    sources_told,
    specs,
    values,
)
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source

CUSTOMERS, ORDERS, SLOT = "shop/public/customers", "shop/public/orders", "shop/slot"
SOURCE = "shop/source/public/orders"

SCHEMA = """
CREATE TABLE customers (id bigint PRIMARY KEY, email text NOT NULL, joined timestamptz);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, total numeric(12, 2));
INSERT INTO customers SELECT i, 'c' || i, now() FROM generate_series(1, 30) i;
INSERT INTO orders SELECT i, i % 30 + 1, i * 1.25 FROM generate_series(1, 100) i
"""
CHANGES = """
INSERT INTO orders SELECT i, 1, 9.99 FROM generate_series(101, 107) i;
UPDATE orders SET total = total + 1 WHERE id <= 3;
DELETE FROM orders WHERE id IN (50, 51)
"""

HOLD_A_SECOND = """
import sys, time, duckdb
held = duckdb.connect(sys.argv[1])
print("held", flush=True)
time.sleep(1)
"""


@pytest.fixture(autouse=True)
def _within_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hour ends during a test: what is told then is not expected."""
    monkeypatch.setattr(told, "QUIET_TOLD_SECONDS", 1e12)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def shop(database: ScratchDatabase) -> ScratchDatabase:
    database.execute(SCHEMA)
    return database


def test_the_first_run_copies_every_table_and_says_so(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    config = pipeline("public.customers", "public.orders")

    result = run_sync(definitions(config), instance)

    assert result.success
    reported = materialized(result)
    assert set(reported) == {CUSTOMERS, ORDERS, SLOT}
    assert reported[ORDERS]["cdc/copied"] == 100
    assert reported[ORDERS]["dagster/row_count"] == 100
    assert reported[ORDERS]["dagster/table_name"] == "public.orders"
    assert_equal_to_source(shop, config)


def test_a_result_counts_the_changes_of_its_run(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    config = pipeline("public.customers", "public.orders")
    before = materialized(run_sync(definitions(config), instance))[ORDERS]
    shop.execute(CHANGES)
    committed = LSN.parse(shop.execute("SELECT pg_current_wal_flush_lsn()::text")[0][0])

    reported = materialized(run_sync(definitions(config), instance))

    assert set(reported) == {ORDERS, SLOT}
    orders = reported[ORDERS]
    counts = {kind: orders[f"cdc/{kind}"] for kind in ("inserted", "updated", "deleted")}
    assert counts == {"inserted": 7, "updated": 3, "deleted": 2}
    assert orders["cdc/truncated"] == orders["cdc/copied"] == 0
    assert orders["dagster/row_count"] == 105
    assert orders["cdc/start_lsn"] == before["cdc/confirmed_lsn"]
    assert LSN.parse(orders["cdc/confirmed_lsn"]) == orders["cdc/confirmed_lsn_int"] >= committed
    assert orders["cdc/lag_bytes"] >= 0
    assert orders["cdc/first_commit"] == orders["cdc/last_commit"]
    assert reported[SLOT]["cdc/confirmed_lsn_int"] >= committed
    assert_equal_to_source(shop, config)


@pytest.mark.usefixtures("shop")
def test_columns_say_their_types_key_and_origin(
    pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    reported = materialized(run_sync(definitions(pipeline("public.orders")), instance))[ORDERS]

    columns = {column.name: column for column in reported["dagster/column_schema"].columns}
    assert columns["total"].type == "DECIMAL(12,2)"
    assert columns["total"].description == "numeric(12,2) in the source"
    assert columns["id"].constraints.other == ["key"]
    assert not columns["id"].constraints.nullable
    assert "_cdc_lsn" in columns
    origin = reported["dagster/column_lineage"].deps_by_column
    assert origin["total"] == [
        dg.TableColumnDep(dg.AssetKey(["shop", "source", "public", "orders"]), "total")
    ]
    assert "_cdc_lsn" not in origin


@pytest.mark.usefixtures("shop")
def test_a_shaped_column_says_what_it_is_made_of(
    pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    table = {
        "source": "public.orders",
        "columns": {"rename": {"total": "amount"}},
        "mask": {"total": "sha256"},
    }
    config = load_config(rewrite(pipeline("public.orders"), tables=[table]))
    result = run_sync(definitions(config), instance)
    reported = materialized(result)[ORDERS]
    columns = {column.name: column for column in reported["dagster/column_schema"].columns}
    assert columns["amount"].type == "VARCHAR"
    said = "total, numeric(12,2) in the source, masked: sha256"
    assert columns["amount"].description == said
    source = dg.AssetKey(["shop", "source", "public", "orders"])
    origin = reported["dagster/column_lineage"].deps_by_column
    assert origin["amount"] == [dg.TableColumnDep(source, "total")]
    assert "total" not in columns


@pytest.mark.usefixtures("shop")
def test_a_quiet_run_materializes_the_slot_alone(
    pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    defs = definitions(pipeline("public.customers", "public.orders"))
    run_sync(defs, instance)

    quiet = [set(materialized(run_sync(defs, instance))) for _ in range(2)]

    assert quiet == [{SLOT}, {SLOT}]


def test_an_empty_table_is_materialized_once(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    shop.execute("CREATE TABLE empty (id int PRIMARY KEY)")
    defs = definitions(pipeline("public.empty"))

    first = materialized(run_sync(defs, instance))

    assert first["shop/public/empty"]["dagster/row_count"] == 0
    assert set(materialized(run_sync(defs, instance))) == {SLOT}


def test_what_another_program_synced_is_reported_by_the_next_run(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    from cdc_assets import sync

    config = pipeline("public.customers", "public.orders")
    run_sync(definitions(config), instance)
    shop.execute(CHANGES)
    list(sync(config))

    reported = materialized(run_sync(definitions(config), instance))

    assert ORDERS in reported
    assert set(materialized(run_sync(definitions(config), instance))) == {SLOT}


def test_a_subset_goes_on_alone_and_the_rest_follows_later(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    config = pipeline("public.customers", "public.orders")
    defs = definitions(config)
    run_sync(defs, instance)
    shop.execute(f"{CHANGES}; DELETE FROM customers WHERE id > 20")

    alone = materialized(run_sync(defs, instance, only=[ORDERS]))
    rest = materialized(run_sync(defs, instance))

    assert set(alone) == {ORDERS, SLOT}
    assert alone[ORDERS]["cdc/inserted"] == 7
    assert CUSTOMERS in rest
    assert rest[CUSTOMERS]["cdc/deleted"] == 10
    assert_equal_to_source(shop, config)


def test_a_long_run_is_observed_on_its_way(
    shop: ScratchDatabase,
    pipeline: MakePipeline,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execution, "PROGRESS_SECONDS", 0.0)
    defs = definitions(pipeline("public.orders", max_wal_bytes=1_048_576))
    copied = observed(run_sync(defs, instance))
    for _ in range(3):
        shop.execute("UPDATE orders SET total = total + i FROM generate_series(1, 100) i")
        shop.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1100000))")

    result = run_sync(defs, instance)

    assert [found["cdc/copying"].partition(" in ")[0] for key, found in copied if key == SLOT] == [
        "public.orders: chunk 1, 100 rows"
    ]
    assert ORDERS not in {key for key, _ in copied}
    windows = [found for key, found in observed(result) if key == SLOT]
    assert len(windows) >= 2
    lags = [found["cdc/lag_bytes"] for found in windows]
    assert lags == sorted(lags, reverse=True)
    assert sum(found["cdc/window/changes"] for found in windows) <= 300
    assert materialized(result)[SLOT]["cdc/windows"] == len(windows) + 1
    assert materialized(result)[ORDERS]["cdc/updated"] == 300


def test_a_run_of_many_windows_is_not_observed_at_each(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    defs = definitions(pipeline("public.orders", max_wal_bytes=1_048_576))
    run_sync(defs, instance)
    for _ in range(4):
        shop.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1100000))")

    result = run_sync(defs, instance)

    assert materialized(result)[SLOT]["cdc/windows"] > 2
    assert len([key for key, _ in observed(result) if key == SLOT]) == 1


def test_a_run_of_one_window_needs_no_observation(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    defs = definitions(pipeline("public.orders"))
    run_sync(defs, instance)
    shop.execute(CHANGES)

    assert not observed(run_sync(defs, instance))


def test_a_source_table_is_told_of_with_its_mirror(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    defs = definitions(pipeline("public.customers", "public.orders"))
    shop.execute("ANALYZE orders")

    first = sources_told(run_sync(defs, instance))
    shop.execute("DELETE FROM customers WHERE id = 1")
    second = sources_told(run_sync(defs, instance))

    assert set(first) == {SOURCE, "shop/source/public/customers"}
    assert first[SOURCE]["cdc/estimated_rows"] == 100
    assert "cdc/estimated_rows" not in first["shop/source/public/customers"]
    assert first[SOURCE]["cdc/read_to_lsn_int"] > 0
    assert [column.type for column in first[SOURCE]["dagster/column_schema"].columns] == [
        "bigint",
        "bigint",
        "numeric(12,2)",
    ]
    assert set(second) == {"shop/source/public/customers"}


def test_a_mirror_is_up_to_date_with_the_source_after_each_run(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    defs = definitions(pipeline("public.orders"))
    graph = defs.resolve_asset_graph()
    for change in ("SELECT 1", CHANGES):
        shop.execute(change)
        run_sync(defs, instance)

        loading = LoadingContextForTest(instance)
        resolver = CachingStaleStatusResolver(instance, graph, loading)
        for key in (dg.AssetKey(ORDERS.split("/")), dg.AssetKey(SLOT.split("/"))):
            assert resolver.get_status(key) is StaleStatus.FRESH, change


def test_comments_of_the_source_are_shown(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    shop.execute("COMMENT ON TABLE orders IS 'Größe: what was bought'")
    shop.execute("COMMENT ON COLUMN orders.total IS 'with tax'")

    result = run_sync(definitions(pipeline("public.orders")), instance)

    mirror = materialized(result)[ORDERS]
    assert mirror["cdc/comment"] == "Größe: what was bought"
    columns = {column.name: column for column in mirror["dagster/column_schema"].columns}
    assert columns["total"].description == "with tax (numeric(12,2) in the source)"
    assert columns["id"].description == "bigint in the source"
    source = sources_told(result)[SOURCE]
    assert source["cdc/comment"] == "Größe: what was bought"
    columns = {column.name: column for column in source["dagster/column_schema"].columns}
    assert columns["total"].description == "with tax"


def test_a_quiet_table_says_once_an_hour_that_it_is_up_to_date(
    shop: ScratchDatabase,
    pipeline: MakePipeline,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    defs = definitions(pipeline("public.customers", "public.orders"))
    run_sync(defs, instance)
    shop.execute(CHANGES)
    changed = materialized(run_sync(defs, instance))[ORDERS]
    in_the_same_hour = observed(run_sync(defs, instance))
    monkeypatch.setattr(told, "QUIET_TOLD_SECONDS", 1e-6)  # every run is in another one

    told_now = run_sync(defs, instance)

    found = dict(observed(told_now))
    assert not in_the_same_hour
    assert set(found) == {ORDERS, CUSTOMERS}
    assert set(sources_told(told_now)) == {SOURCE, "shop/source/public/customers"}
    assert found[ORDERS]["cdc/quiet_since"] == changed["cdc/last_commit"]
    assert found[ORDERS]["cdc/up_to_date_at"] > changed["cdc/last_commit"]


def test_a_quiet_table_that_was_asked_for_says_that_it_is_up_to_date(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    defs = definitions(pipeline("public.customers", "public.orders"))
    run_sync(defs, instance)
    shop.execute("DELETE FROM customers WHERE id = 1")

    alone = run_sync(defs, instance, only=[ORDERS])

    assert set(materialized(alone)) == {SLOT}
    assert [key for key, _ in observed(alone)] == [ORDERS]


def test_a_mirror_says_where_it_is_and_what_made_it(pipeline: MakePipeline) -> None:
    config = pipeline("public.orders", create=False)
    spec = specs(definitions(config))[ORDERS]

    assert spec.metadata["cdc/warehouse"].path == config.warehouse.duckdb.path
    assert spec.metadata["cdc/version"] == f"cdc-assets {version('cdc-assets')}"


def test_a_failed_table_is_red_and_the_others_are_not(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    config = pipeline("public.customers", "public.orders", schema_changes="stop")
    defs = definitions(config)
    run_sync(defs, instance)
    shop.execute(CHANGES)
    shop.execute("ALTER TABLE orders ALTER total TYPE text; UPDATE orders SET total = 'much'")

    result = run_sync(defs, instance)

    assert not result.success
    # Dagster shows an asset as failed that was planned and not materialized by a failed run.
    assert set(materialized(result)) == {CUSTOMERS, SLOT}
    failure = _failure(result)
    assert failure.description is not None
    assert "table 'public.orders' was left behind" in failure.description
    assert "much" not in failure.description
    assert set(failure.metadata) == {"cdc/error/public.orders"}


def test_a_lost_slot_fails_the_run_with_the_way_out(
    shop: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    config = pipeline("public.orders")
    defs = definitions(config)
    run_sync(defs, instance)
    shop.execute("SELECT pg_drop_replication_slot(%s)", [config.source.slot])

    result = run_sync(defs, instance)

    assert not result.success
    assert not materialized(result)
    failure = _failure(result)
    assert failure.metadata["cdc/error"].value == "SlotNotFoundError"
    assert "\nhint: " in (failure.description or "")


@pytest.mark.usefixtures("shop")
def test_a_missing_variable_is_named_by_the_run_that_needs_it(
    pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    result = run_sync(definitions(pipeline("public.orders", dsn_env="NOT_SET_ANYWHERE")), instance)

    description = _failure(result).description or ""
    assert "environment variable 'NOT_SET_ANYWHERE' for source.dsn is not set" in description


@pytest.mark.usefixtures("shop")
def test_a_run_waits_for_a_warehouse_that_is_in_use(
    pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    config = pipeline("public.orders")
    defs = definitions(config)
    run_sync(defs, instance)
    command = [sys.executable, "-c", HOLD_A_SECOND, str(config.warehouse_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"

        result = run_sync(defs, instance)

    assert result.success
    assert not any(event.event_type_value == "STEP_UP_FOR_RETRY" for event in result.all_events)


def test_what_was_committed_before_a_run_broke_off_is_reported_by_itself(
    shop: ScratchDatabase,
    pipeline: MakePipeline,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = pipeline("public.customers", "public.orders", max_wal_bytes=1_048_576)
    defs = definitions(config)
    run_sync(defs, instance)
    for _ in range(2):
        shop.execute("UPDATE orders SET total = total + i FROM generate_series(1, 100) i")
        shop.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 1100000))")
    others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"

    def cut(step: steps.Step) -> None:
        if step == "window_confirmed":
            steps.observers.clear()
            shop.execute(f"{others} AND datname = current_database()")

    monkeypatch.setattr(steps, "observers", [cut])

    result = run_sync(defs, instance)

    assert result.success
    fetched = instance.fetch_materializations(dg.AssetKey(ORDERS.split("/")), limit=2)
    newest_first = [record.asset_materialization for record in fetched.records]
    reports = [values(report.metadata) for report in reversed(newest_first) if report]
    assert [found["cdc/updated"] for found in reports] == [100, 100]
    assert reports[0]["cdc/confirmed_lsn"] == reports[1]["cdc/start_lsn"]
    assert_equal_to_source(shop, config)


def _failure(result: dg.ExecuteInProcessResult) -> dg.Failure:
    (event,) = [event for event in result.all_events if event.is_step_failure]
    user_failure = event.step_failure_data.user_failure_data
    assert user_failure is not None
    return dg.Failure(user_failure.description, user_failure.metadata)
