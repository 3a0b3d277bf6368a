"""The slot's health is judged before it is lost, from the source and from what runs leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.operations.health import CHECK_NAMES, HealthCheck, check_health
from cdc_assets_tests.conftest import make_pipeline
from cdc_assets_tests.database import ScratchDatabase


@pytest.fixture(params=["database", "older_database"])
def source(request: pytest.FixtureRequest) -> ScratchDatabase:
    """A database on the newest server, and one on the oldest."""
    scratch: ScratchDatabase = request.getfixturevalue(request.param)
    scratch.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    scratch.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
    return scratch


@pytest.fixture
def config(source: ScratchDatabase, tmp_path: Path) -> PipelineConfig:
    return make_pipeline(source, tmp_path, "public.a", "public.b")


def checks(config: PipelineConfig) -> dict[str, HealthCheck]:
    return {check.name: check for check in check_health(config)}


def unwell(config: PipelineConfig) -> dict[str, str]:
    """Give what did not pass, as 'severity: message'."""
    found = checks(config).values()
    assert all(check.hint for check in found if not check.passed and check.known), found
    return {check.name: f"{check.severity}: {check.message}" for check in found if not check.passed}


def test_a_pipeline_is_well_before_its_first_sync(config: PipelineConfig) -> None:
    assert tuple(checks(config)) == CHECK_NAMES
    assert unwell(config) == {}
