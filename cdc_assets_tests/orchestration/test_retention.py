"""The job that removes old changes, as Dagster sees it."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import duckdb
import pytest

from cdc_assets.config import load_config
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import attributes, definitions, observed, run_sync
from cdc_assets_tests.database import ScratchDatabase

CHANGES = ["mirror", "changes"]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def test_the_job_is_there_where_changes_are_kept_for_a_while() -> None:
    tables = [{"source": "public.orders", "keep": CHANGES, "changes": {"keep_days": 7}}]
    defs = definitions(attributes(tables=tables))
    without = definitions(attributes(tables=[{"source": "public.orders", "keep": CHANGES}]))
    unscheduled = definitions(attributes(tables=tables, schedule=None))
    off = definitions(attributes(tables=tables, schedule={"cron": "@daily", "start": "stopped"}))

    dg.Definitions.validate_loadable(defs)
    op = defs.resolve_job_def("shop_retention").graph.node_named("shop_remove_changes").definition
    assert op.pool == "cdc_shop"
    schedule = defs.resolve_schedule_def("shop_retention_schedule")
    assert schedule.cron_schedule == "0 4 * * *"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    stopped = off.resolve_schedule_def("shop_retention_schedule")
    assert stopped.default_status == dg.DefaultScheduleStatus.STOPPED
    assert "shop_retention" not in {job.name for job in without.resolve_all_job_defs()}
    assert [one.name for one in unscheduled.get_repository_def().schedule_defs] == []


def test_what_was_removed_is_told_of_the_change_table(
    database: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE log (line text)")
    limit = {"keep_days": 30}
    tables = [
        {"source": "public.orders", "keep": CHANGES, "changes": limit},
        {"source": "public.log", "keep": ["changes"], "changes": limit},
    ]
    config = load_config(rewrite(pipeline("public.orders", "public.log"), tables=tables))
    defs = definitions(config)
    run_sync(defs, instance)
    database.execute("INSERT INTO orders SELECT generate_series(1, 20)")
    run_sync(defs, instance)
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(
            "UPDATE public.orders__changes SET _cdc_commit_ts = _cdc_commit_ts - INTERVAL 40 DAY"
        )

    result = defs.resolve_job_def("shop_retention").execute_in_process(instance=instance)

    told = dict(observed(result))
    assert set(told) == {"shop/public/orders__changes", "shop/public/log__changes"}
    orders, log = told["shop/public/orders__changes"], told["shop/public/log__changes"]
    assert (orders["cdc/changes_removed"], log["cdc/changes_removed"]) == (20, 0)
    assert orders["cdc/since_lsn_int"] > 0
