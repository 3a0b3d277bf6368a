"""A table without a mirror is the asset of its change table, and nothing else."""

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

CHANGES, SLOT = "shop/public/events__changes", "shop/slot"
ALONE = {"source": "public.events", "keep": ["changes"]}


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def shop(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(
        "CREATE TABLE events (kind text); ALTER TABLE events REPLICA IDENTITY FULL;"
        "INSERT INTO events SELECT 'a' FROM generate_series(1, 10)"
    )
    return load_config(rewrite(pipeline("public.events"), tables=[ALONE]))


def test_it_has_no_other_asset_and_no_check() -> None:
    defs = definitions(attributes(tables=[ALONE, {"source": "public.orders"}]))
    known = specs(defs)

    assert CHANGES in known
    assert not [key for key in known if key.startswith("shop/public/events")][1:]
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    assert "shop/public/orders__snapshot" in keys
    assert "shop/public/events__snapshot" not in keys
    checked = {
        key.asset_key.to_user_string() for key in defs.resolve_asset_graph().asset_check_keys
    }
    assert checked == {"shop/public/orders", SLOT}


def test_keeping_changes_alone_is_another_code_version() -> None:
    beside = specs(definitions(attributes(tables=[{**ALONE, "keep": ["mirror", "changes"]}])))[
        CHANGES
    ]
    alone = specs(definitions(attributes(tables=[ALONE])))[CHANGES]
    same = {"source": "public.events", "append_only": True}
    assert alone.code_version != beside.code_version
    assert specs(definitions(attributes(tables=[same])))[CHANGES].code_version == alone.code_version


def test_it_is_told_of_with_its_rows(
    database: ScratchDatabase, shop: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(shop)
    first = materialized(run_sync(defs, instance))
    assert first[CHANGES]["cdc/copied"] == 10
    database.execute("UPDATE events SET kind = 'b'; INSERT INTO events VALUES ('b')")

    reported = materialized(run_sync(defs, instance, only=[CHANGES]))

    assert CHANGES in reported
    assert reported[CHANGES]["dagster/row_count"] == 21
    assert reported[CHANGES]["dagster/table_name"] == "public.events__changes"
    assert reported[CHANGES]["cdc/updated"] == 10
    columns = [column.name for column in reported[CHANGES]["dagster/column_schema"].columns]
    assert columns[:2] == ["kind", "_cdc_op"]
