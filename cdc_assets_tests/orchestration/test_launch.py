"""A run as `dg` starts it: a process of its own, the project's files, the environment's DSN."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cdc_assets.config import load_config
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_project import copy_project, dg, shop_config
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source


@pytest.fixture
def shop(database: ScratchDatabase) -> ScratchDatabase:
    database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, total numeric(12, 2))")
    database.execute("INSERT INTO orders SELECT i, i * 1.25 FROM generate_series(1, 50) i")
    return database


@pytest.fixture
def project(shop: ScratchDatabase, pipeline: MakePipeline, tmp_path: Path) -> Path:
    """A project whose pipeline replicates the test's database."""
    slot = pipeline("public.orders").source.slot
    project = copy_project(tmp_path / shop.name)
    document = yaml.safe_load(shop_config(project).read_text())
    document["attributes"]["tables"] = [{"source": "public.orders"}]
    document["attributes"]["source"] |= {"slot": slot, "publication": slot}
    shop_config(project).write_text(yaml.safe_dump(document))
    return project


def test_the_job_syncs_into_the_projects_folder(
    shop: ScratchDatabase, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = dg(project, "launch", "--job", "shop_sync", SHOP_SOURCE_DSN=shop.dsn)

    assert launched.returncode == 0, launched.stdout + launched.stderr
    monkeypatch.setenv("SHOP_SOURCE_DSN", shop.dsn)
    config = load_config(shop_config(project))
    assert config.warehouse_path == project / "data" / "warehouse.duckdb"
    assert_equal_to_source(shop, config)


def test_a_bucket_is_backfilled_by_its_partition(
    shop: ScratchDatabase, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asset = 'key:"shop/public/orders__snapshot"'
    launched = dg(
        project, "launch", "--assets", asset, "--partition", "03", SHOP_SOURCE_DSN=shop.dsn
    )

    assert launched.returncode == 0, launched.stdout + launched.stderr
    monkeypatch.setenv("SHOP_SOURCE_DSN", shop.dsn)
    assert_equal_to_source(shop, load_config(shop_config(project)))
