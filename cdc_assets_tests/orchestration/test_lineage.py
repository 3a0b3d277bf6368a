"""Dagster and the warehouse tell alike where rows and columns come from."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import definitions, run_sync
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.lineage import windows

ORDERS = "shop/public/orders"
EMAIL = "canary@example.com"
TABLES = [
    {"source": "public.customers", "mask": {"email": "sha256"}},
    {
        "source": "public.orders",
        "keep": ["mirror", "changes", "history"],
        "columns": {"rename": {"placed": "ordered_at"}},
        "enrich": [
            {
                "from": "public.customers",
                "on": {"customer_id": "id"},
                "columns": {"email": "customer_email"},
            }
        ],
    },
]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def shop(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(
        "CREATE TABLE customers (id int PRIMARY KEY, email text);"
        "CREATE TABLE orders (id int PRIMARY KEY, customer_id int, placed date);"
        f"INSERT INTO customers VALUES (1, '{EMAIL}'); INSERT INTO orders VALUES (7, 1, now())"
    )
    config = pipeline("public.customers", "public.orders")
    return load_config(rewrite(config, tables=TABLES))


def test_what_a_run_wrote_has_its_id_in_the_warehouse(
    database: ScratchDatabase, shop: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(shop)
    copied = run_sync(defs, instance)
    database.execute("UPDATE orders SET placed = '2020-01-01'")
    synced = run_sync(defs, instance, only=[ORDERS])
    with duckdb.connect(str(shop.warehouse_path)) as warehouse:
        warehouse.execute("DELETE FROM public.orders")
    compared = defs.resolve_job_def("shop_reconcile").execute_in_process(
        instance=instance,
        run_config={"ops": {"shop_equals_source": {"config": {"repair": True}}}},
        raise_on_error=False,
    )
    with duckdb.connect(str(shop.warehouse_path)) as warehouse:
        warehouse.execute("DELETE FROM public.customers")
    job = defs.resolve_job_def("shop_backfill")
    key = dg.AssetKey(["shop", "public", "customers__snapshot"])
    bucket = "00"
    filled = job.execute_in_process(instance=instance, asset_selection=[key], partition_key=bucket)

    found = {(run, kind) for run, kind, *_ in windows(shop)}
    assert found == {
        (copied.run_id, "sync"),
        (synced.run_id, "sync"),
        (compared.run_id, "reconcile"),
        (filled.run_id, "backfill"),
    }
