"""Dagster and the warehouse tell alike where rows and columns come from."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import dagster as dg
import duckdb
import pytest
from dagster_shared.serdes import serialize_value

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import (
    attributes,
    definitions,
    materialized,
    observed,
    run_sync,
    specs,
)
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.lineage import windows

ORDERS = "shop/public/orders"
KEPT = (ORDERS, f"{ORDERS}__changes", f"{ORDERS}__history")
EMAIL = "canary@example.com"
TABLES: list[dict[str, Any]] = [
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


def test_rows_are_made_of_the_own_table_and_of_those_that_they_take_columns_of() -> None:
    known = specs(definitions(attributes(tables=TABLES)))

    for key in KEPT:
        assert {dep.asset_key.to_user_string() for dep in known[key].deps} == {
            "shop/source/public/orders",
            "shop/source/public/customers",
        }


def test_every_kept_table_tells_of_which_columns_it_is_made(
    shop: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    reported = materialized(run_sync(definitions(shop), instance))

    for key in KEPT:
        lineage = reported[key]["dagster/column_lineage"].deps_by_column
        told = {
            name: [(dep.asset_key.to_user_string(), dep.column_name) for dep in deps]
            for name, deps in lineage.items()
        }
        assert told == {
            "id": [("shop/source/public/orders", "id")],
            "customer_id": [("shop/source/public/orders", "customer_id")],
            "ordered_at": [("shop/source/public/orders", "placed")],
            "customer_email": [("shop/source/public/customers", "email")],
        }
        page = reported[key]["cdc/lineage"]
        how = "taken where customer\\_id = id, masked by sha256"
        assert f"| `customer_email` | `public.customers.email` | {how} |" in page
        assert '["email"]' in page.partition("```mermaid")[2]
        name = key.removeprefix("shop/").replace("/", ".")
        said = {"customer_email", "email", "ordered_at", "placed", "and 2 more", name}
        assert said <= {text.text for text in drawn(page).iter("{http://www.w3.org/2000/svg}text")}


def drawn(page: str) -> ElementTree.Element:
    """Give the picture that lies in a page."""
    _, _, behind = page.partition("(data:image/svg+xml;base64,")
    return ElementTree.fromstring(base64.b64decode(behind.partition(")")[0]))


def test_no_masked_value_is_on_a_page_or_in_what_tells_of_rows(
    database: ScratchDatabase, shop: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(shop)
    results = [run_sync(defs, instance)]
    database.execute("UPDATE orders SET placed = '2020-01-01'; UPDATE customers SET id = 2")
    results.append(run_sync(defs, instance))

    told = "".join(serialize_value(event) for one in results for event in one.all_events)
    assert "customer_email" in told
    assert EMAIL not in told
    assert EMAIL.encode() not in shop.warehouse_path.read_bytes()


@pytest.mark.parametrize("only", [[KEPT[0]], [KEPT[1]], [KEPT[2]], [*KEPT[1:]]])
def test_any_of_what_is_kept_is_told_of_whatever_was_asked_for(
    database: ScratchDatabase, shop: PipelineConfig, instance: dg.DagsterInstance, only: list[str]
) -> None:
    defs = definitions(shop)
    run_sync(defs, instance)
    database.execute("UPDATE orders SET placed = '2020-01-01'")

    changed = run_sync(defs, instance, only=only)
    quiet = run_sync(defs, instance, only=only)

    assert changed.success
    assert set(KEPT) <= materialized(changed).keys()
    assert set(KEPT) & materialized(quiet).keys() == set()
    assert set(KEPT) <= {key for key, found in observed(quiet) if "cdc/quiet_since" in found}


def test_what_is_kept_besides_from_now_on_is_told_of_though_nothing_changes(
    shop: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    alone = [TABLES[0], {**TABLES[1], "keep": ["mirror"]}]
    run_sync(definitions(load_config(rewrite(shop, tables=alone))), instance)

    reported = materialized(run_sync(definitions(shop), instance))

    assert reported[KEPT[1]]["dagster/row_count"] == 1
    assert reported[KEPT[2]]["dagster/row_count"] == 1


def test_a_backfill_tells_of_all_that_it_has_written(
    shop: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(shop)
    run_sync(defs, instance)
    with duckdb.connect(str(shop.warehouse_path)) as warehouse:
        warehouse.execute("DELETE FROM public.orders")

    filled = defs.resolve_job_def("shop_backfill").execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey([*ORDERS.split("/")[:-1], "orders__snapshot"])],
        partition_key="00",
    )

    reported = materialized(filled)
    assert set(KEPT) <= reported.keys()
    assert all("cdc/lineage" in reported[key] for key in KEPT)


def test_rows_that_a_partner_brings_up_to_date_are_told_of(
    database: ScratchDatabase, shop: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    (enrich,) = TABLES[1]["enrich"]
    orders = {**TABLES[1], "keep": ["mirror"], "enrich": [{**enrich, "keep": "current"}]}
    defs = definitions(load_config(rewrite(shop, tables=[TABLES[0], orders])))
    run_sync(defs, instance)
    database.execute("UPDATE customers SET email = 'other'")

    assert ORDERS in materialized(run_sync(defs, instance))
