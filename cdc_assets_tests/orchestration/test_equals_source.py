"""The check that a mirror equals its source: by its button, by its job and by its schedule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import dagster as dg
import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import attributes, definitions, run_sync, values
from cdc_assets_tests.database import ScratchDatabase

ORDERS = dg.AssetKey(["shop", "public", "orders"])
CUSTOMERS = dg.AssetKey(["shop", "public", "customers"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, total numeric(12, 2))")
    database.execute("CREATE TABLE customers (id bigint PRIMARY KEY, name text)")
    database.execute("INSERT INTO orders SELECT i, i * 1.25 FROM generate_series(1, 90) i")
    database.execute("INSERT INTO customers SELECT i, 'c' || i FROM generate_series(1, 30) i")
    return pipeline("public.orders", "public.customers", schema_changes="stop")


def test_every_mirror_has_the_check_and_it_does_not_block() -> None:
    defs = definitions(attributes("public.orders", "a.b__c", "a__b.c"))

    dg.Definitions.validate_loadable(defs)
    graph = defs.resolve_asset_graph()
    keys = [key for key in graph.asset_check_keys if key.name == "equals_source"]
    checks = [graph.get_check_spec(key) for key in keys]
    assert {spec.asset_key.to_user_string() for spec in checks} == {
        *("shop/public/orders", "shop/a/b__c", "shop/a__b/c")
    }
    assert not any(spec.blocking for spec in checks)


def test_a_schedule_runs_the_check_where_the_config_asks_for_it() -> None:
    without = definitions(attributes("public.orders"))
    when = {"schedule": {"cron": "0 3 * * *", "timezone": "Europe/Berlin"}, "sample": 0.1}
    scheduled = definitions(attributes("public.orders", reconcile=when))

    assert without.resolve_job_def("shop_reconcile")
    assert [one.name for one in without.get_repository_def().schedule_defs] == [
        "shop_sync_schedule"
    ]
    schedule = scheduled.resolve_schedule_def("shop_reconcile_schedule")
    assert schedule.job_name == "shop_reconcile"
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("0 3 * * *", "Europe/Berlin")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING


def test_a_check_has_a_pool_of_its_own_and_a_sync_runs_no_check() -> None:
    defs = definitions(attributes("public.orders"))

    op = defs.resolve_job_def("shop_reconcile").graph.node_named("shop_equals_source").definition
    assert op.pool == "cdc_shop_reconcile"
    assert [node.name for node in defs.resolve_job_def("shop_sync").graph.nodes] == ["shop_cdc"]


def test_equal_mirrors_pass_and_say_what_was_compared(
    config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)
    run_sync(defs, instance)

    result = defs.resolve_job_def("shop_reconcile").execute_in_process(instance=instance)

    told = _evaluations(result)
    assert set(told) == {ORDERS, CUSTOMERS}
    assert all(one.passed for one in told.values())
    orders = values(told[ORDERS].metadata)
    assert orders["cdc/source_rows"] == orders["cdc/warehouse_rows"] == 90
    assert orders["cdc/missing"] == orders["cdc/extra"] == orders["cdc/different"] == 0
    records = [record.data for record in orders["cdc/buckets"].records]
    assert sum(record["source_rows"] for record in records) == 90
    assert "public.orders" in (told[ORDERS].description or "")


def test_the_button_of_one_check_finds_what_differs_and_names_the_way_out(
    config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)
    run_sync(defs, instance)
    _write(config, "UPDATE public.orders SET total = 0 WHERE id = 7")
    _write(config, "DELETE FROM public.orders WHERE id = 8")

    result = _press(defs, instance, checks=[ORDERS])

    assert result.success
    ((key, told),) = _evaluations(result).items()
    assert (key, told.passed, told.severity) == (ORDERS, False, dg.AssetCheckSeverity.ERROR)
    found = values(told.metadata)
    assert (found["cdc/missing"], found["cdc/extra"], found["cdc/different"]) == (1, 0, 1)
    assert found["cdc/columns"] == "total"
    (first, *_) = [record.data for record in found["cdc/buckets"].records]
    assert (first["missing"], first["different"]) == (1, 1)
    assert (
        "hint: put it right: cdc-assets backfill --pipeline shop public.orders --bucket "
        f"{first['bucket']}"
    ) in (told.description or "")


def test_a_run_may_repair_what_it_finds(
    config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)
    run_sync(defs, instance)
    _write(config, "DELETE FROM public.orders WHERE id = 8")
    job = defs.resolve_job_def("shop_reconcile")

    repairs = {"ops": {"shop_equals_source": {"config": {"repair": True}}}}
    first = job.execute_in_process(instance=instance, run_config=repairs)
    second = job.execute_in_process(instance=instance)

    assert not _evaluations(first)[ORDERS].passed
    assert _evaluations(second)[ORDERS].passed


def test_materializing_a_mirror_does_not_read_its_source_table(
    config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)

    job = defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(instance=instance, asset_selection=[ORDERS])

    assert "shop_equals_source" in {node.name for node in job.graph.nodes}
    assert [event.asset_key for event in result.get_asset_materialization_events()].count(ORDERS)
    assert not _evaluations(result)


def test_a_table_that_can_not_be_compared_keeps_no_other_from_it(
    database: ScratchDatabase, config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)
    run_sync(defs, instance)
    database.execute("ALTER TABLE orders ADD COLUMN note text; INSERT INTO orders VALUES (91, 1)")
    assert not run_sync(defs, instance).success

    result = defs.resolve_job_def("shop_reconcile").execute_in_process(instance=instance)

    told = _evaluations(result)
    assert told[CUSTOMERS].passed
    assert (told[ORDERS].passed, told[ORDERS].severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "'public.orders' can't be compared" in (told[ORDERS].description or "")
    way_out = "cdc-assets backfill --pipeline shop public.orders"
    assert way_out in (told[ORDERS].description or "")


def _press(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    *,
    checks: Sequence[dg.AssetKey],
) -> dg.ExecuteInProcessResult:
    """Run what the UI's button does: a selection of checks in the job of all assets."""
    job = defs.resolve_implicit_global_asset_job_def().get_subset(
        asset_selection=set(),
        asset_check_selection={dg.AssetCheckKey(key, "equals_source") for key in checks},
    )
    return job.execute_in_process(instance=instance, raise_on_error=False)


def _evaluations(
    result: dg.ExecuteInProcessResult,
) -> Mapping[dg.AssetKey, dg.AssetCheckEvaluation]:
    told = [
        one for one in result.get_asset_check_evaluations() if one.check_name == "equals_source"
    ]
    return {one.asset_key: one for one in told}


def _write(config: PipelineConfig, sql: str) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(sql)
