"""Dagster loads pipelines whatever their transforms are like, and shows what these make."""

from __future__ import annotations

import dagster as dg
import pytest

from cdc_assets.config import load_config
from cdc_assets.shaping import functions as loading
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
from cdc_assets_tests.shaping import functions

T = "shop/public/t"


def code_version(transform: object) -> str | None:
    table = {"source": "public.t", "transform": transform}
    return specs(definitions(attributes(tables=[table])))[T].code_version


def test_the_code_version_follows_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = f"{functions.MODULE}:add_margin"
    before = code_version(reference)
    assert before == code_version(reference)
    named = {"function": reference, "lineage": {"margin": ["total", "cost"]}}
    assert code_version(named) == code_version({"function": reference})
    assert code_version({**named, "columns": {"margin": "double"}}) != code_version(named)
    loading.load.cache_clear()
    monkeypatch.setattr(functions, "add_margin", functions.as_it_is)
    assert code_version(reference) != before
    loading.load.cache_clear()


def test_definitions_load_without_the_function() -> None:
    assert code_version("frobnicate.functions:add") is not None


def test_a_run_shows_what_a_column_is_made_of(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, total numeric(12,2), cost numeric(12,2));"
        " INSERT INTO t VALUES (1, 3, 1)"
    )
    transform = {
        "function": f"{functions.MODULE}:add_margin",
        "lineage": {"margin": ["total", "cost"]},
    }
    tables = [{"source": "public.t", "transform": transform}]
    config = load_config(rewrite(pipeline("public.t"), tables=tables))
    with dg.DagsterInstance.ephemeral() as instance:
        reported = materialized(run_sync(definitions(config), instance))[T]
    found = reported["dagster/column_lineage"].deps_by_column
    assert {dep.column_name for dep in found["margin"]} == {"total", "cost"}
    assert [dep.column_name for dep in found["total"]] == ["total"]
    columns = {one.name: one for one in reported["dagster/column_schema"].columns}
    assert columns["margin"].type == "DECIMAL(13,2)"
    assert columns["margin"].description == f"made by {transform['function']} of total, cost"
