"""A change table is an asset beside its mirror, out of the same op and transactions."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import (
    attributes,
    definitions,
    materialized,
    run_sync,
    specs,
)
from cdc_assets_tests.database import ScratchDatabase

ORDERS, CHANGES, SLOT = "shop/public/orders", "shop/public/orders__changes", "shop/slot"
BOTH = {"source": "public.orders", "keep": ["mirror", "changes"]}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def shop(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(
        "CREATE TABLE orders (id bigint PRIMARY KEY, total numeric(12, 2));"
        "INSERT INTO orders SELECT i, i FROM generate_series(1, 10) i;"
        "CREATE TABLE lines (id bigint PRIMARY KEY)"
    )
    config = pipeline("public.orders", "public.lines")
    return load_config(rewrite(config, tables=[BOTH, {"source": "public.lines"}]))


def test_only_a_table_that_keeps_changes_has_the_asset() -> None:
    known = specs(definitions(attributes(tables=[BOTH, {"source": "public.lines"}])))

    assert CHANGES in known
    assert "shop/public/lines__changes" not in known
    assert [dep.asset_key.to_user_string() for dep in known[CHANGES].deps] == [
        "shop/source/public/orders"
    ]
    assert known[CHANGES].metadata["dagster/table_name"] == "public.orders__changes"


def test_a_mirror_stays_what_it_is_when_its_changes_are_kept_as_well() -> None:
    alone = specs(definitions(attributes("public.orders")))[ORDERS]
    beside = specs(definitions(attributes(tables=[BOTH])))[ORDERS]
    assert alone.code_version == beside.code_version


def test_for_how_long_changes_are_kept_leaves_the_version_of_their_rows() -> None:
    ever = specs(definitions(attributes(tables=[BOTH])))
    limited = specs(definitions(attributes(tables=[{**BOTH, "changes": {"keep_days": 90}}])))
    for key in (ORDERS, CHANGES):
        assert limited[key].code_version == ever[key].code_version


def test_its_key_follows_the_mirrors() -> None:
    known = specs(
        definitions(
            attributes(tables=[BOTH], translation={"key": "lake/{{ table.name }}"}),
        )
    )
    assert {"lake/orders", "lake/orders__changes"} <= known.keys()


def test_both_are_told_of_with_their_own_rows(
    database: ScratchDatabase, shop: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(shop)
    run_sync(defs, instance)
    database.execute("UPDATE orders SET total = 0 WHERE id < 3; DELETE FROM orders WHERE id = 5")

    reported = materialized(run_sync(defs, instance))

    assert set(reported) == {ORDERS, CHANGES, SLOT}
    assert reported[ORDERS]["dagster/row_count"] == 9
    assert reported[CHANGES]["dagster/row_count"] == 13
    assert reported[CHANGES]["cdc/updated"] == 2
    columns = [column.name for column in reported[CHANGES]["dagster/column_schema"].columns]
    assert columns[:3] == ["id", "total", "_cdc_op"]
    assert columns[-1] == "_cdc_before"


@pytest.mark.parametrize("only", [ORDERS, CHANGES])
def test_either_alone_brings_both_on(
    shop: PipelineConfig, instance: dg.DagsterInstance, only: str
) -> None:
    result = run_sync(definitions(shop), instance, only=[only])

    assert result.success
    assert {ORDERS, CHANGES} <= materialized(result).keys()


def test_a_history_is_told_of_with_its_own_rows(
    database: ScratchDatabase, shop: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    tables = [{"source": "public.orders", "keep": ["mirror", "history"]}]
    defs = definitions(load_config(rewrite(shop, tables=tables)))
    run_sync(defs, instance)
    database.execute("UPDATE orders SET total = 0 WHERE id < 3; DELETE FROM orders WHERE id = 5")

    reported = materialized(run_sync(defs, instance, only=[f"{ORDERS}__history"]))

    assert set(reported) == {ORDERS, f"{ORDERS}__history", SLOT}
    assert reported[f"{ORDERS}__history"]["dagster/row_count"] == 12
    assert reported[f"{ORDERS}__history"]["dagster/table_name"] == "public.orders__history"
