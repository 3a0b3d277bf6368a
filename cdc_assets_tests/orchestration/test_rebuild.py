"""The job that makes mirrors and histories anew from their changes, as Dagster sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import attributes, definitions, materialized, run_sync
from cdc_assets_tests.database import ScratchDatabase


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(
        "CREATE TABLE orders (id int PRIMARY KEY, total int); CREATE TABLE items (id int PRIMARY"
        " KEY); INSERT INTO orders SELECT n, n FROM generate_series(1, 30) n"
    )
    tables = [
        {"source": "public.orders", "keep": ["mirror", "changes", "history"]},
        {"source": "public.items"},
    ]
    return load_config(rewrite(pipeline("public.orders", "public.items"), tables=tables))


def run_rebuild(
    defs: dg.Definitions, instance: dg.DagsterInstance, **asked: Any
) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("shop_rebuild").execute_in_process(
        instance=instance,
        run_config={"ops": {"shop_rebuild_tables": {"config": asked}}},
        raise_on_error=False,
    )


def execute(config: PipelineConfig, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        return warehouse.execute(sql).fetchall()


def test_the_job_is_there_where_changes_are_kept_and_queues_with_syncs() -> None:
    assert "shop_rebuild" not in _jobs(definitions(attributes("public.orders")))
    tables = [{"source": "public.orders", "keep": ["mirror", "changes"]}]
    defs = definitions(attributes(tables=tables))

    dg.Definitions.validate_loadable(defs)
    assert "shop_rebuild" in _jobs(defs)
    op = defs.resolve_job_def("shop_rebuild").graph.node_named("shop_rebuild_tables").definition
    assert op.pool == "cdc_shop"


def _jobs(defs: dg.Definitions) -> set[str]:
    return {job.name for job in defs.resolve_all_job_defs()}


def test_a_rebuild_materializes_what_it_has_made(
    database: ScratchDatabase, config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)
    run_sync(defs, instance)
    database.execute("UPDATE orders SET total = -1 WHERE id < 9")
    run_sync(defs, instance)
    there = execute(config, "FROM public.orders ORDER BY ALL")
    execute(config, "DROP TABLE public.orders; DELETE FROM public.orders__history")

    result = run_rebuild(defs, instance, tables=["public.orders"])

    assert result.success
    told = materialized(result)
    assert set(told) == {"shop/public/orders", "shop/public/orders__history"}
    mirror, history = told["shop/public/orders"], told["shop/public/orders__history"]
    assert "public.orders was rebuilt as of" in mirror["cdc/rebuilt"]
    assert mirror["cdc/rebuilt_from"] == dg.AssetKey(["shop", "public", "orders__changes"])
    assert (mirror["dagster/row_count"], history["dagster/row_count"]) == (30, 38)
    assert mirror["cdc/changes_applied"] == 8
    assert mirror["dagster/table_name"] == "public.orders"
    assert {"dagster/column_schema", "cdc/confirmed_lsn_int"} <= mirror.keys()
    assert execute(config, "FROM public.orders ORDER BY ALL") == there


def test_what_is_left_beside_is_no_asset_and_a_table_that_can_not_be_stops_no_other(
    config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)
    run_sync(defs, instance)

    beside = run_rebuild(defs, instance, tables=["public.orders"], into="public.then")
    both = run_rebuild(defs, instance, tables=["public.items", "public.orders"])
    mistyped = run_rebuild(defs, instance, tables=["public.orders"], to_lsn="7")
    none = run_rebuild(defs, instance, tables=[])

    assert (beside.success, materialized(beside)) == (True, {})
    assert execute(config, "SELECT count(*) FROM public.then") == [(30,)]
    assert not both.success
    told = instance.all_logs(both.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    keys = {str(one.asset_materialization and one.asset_materialization.label) for one in told}
    assert keys == {"shop public orders", "shop public orders__history"}
    for failed, said in (
        (both, "table 'public.items' can't be rebuilt: its changes are not kept"),
        (mistyped, "expected an LSN like 16/B374D848, got '7'"),
        (none, "expected tables"),
    ):
        (step,) = failed.get_step_failure_events()
        assert step.step_failure_data.user_failure_data is not None
        assert said in str(step.step_failure_data.user_failure_data.description)
