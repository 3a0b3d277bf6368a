"""The SQL files for operators, run as they are, and a pipeline under the role that they make."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cdc_assets.config import COMPONENT_TYPE, PipelineConfig, load_config
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets_tests.conftest import OLDER_BIN_DIR, SERVER_SETTINGS
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import PROJECT
from cdc_assets_tests.syncs import converge

TABLES = ("customers", "products", "orders", "order_items")


@pytest.fixture(scope="module", params=["newest", "older"])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ScratchDatabase]:
    """A database of the name that the files speak of, on a server of its own."""
    bin_dir = OLDER_BIN_DIR if request.param == "older" else None
    server = EmbeddedPostgres(
        tmp_path_factory.mktemp("postgres"), settings=SERVER_SETTINGS, bin_dir=bin_dir
    )
    try:
        server.start()
        scratch = ScratchDatabase(server, "shop")
        scratch.create()
        for table in TABLES:
            scratch.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, what text)")
            scratch.execute(f"INSERT INTO {table} SELECT n, 'old' FROM generate_series(1, 9) n")
        yield scratch
    finally:
        server.remove()


def run_file(database: ScratchDatabase, name: str) -> str:
    """Run a file as an operator would; gives what psql prints."""
    done = subprocess.run(
        [
            *(str(OLDER_BIN_DIR / "psql"), database.dsn, "--no-psqlrc"),
            *("--set=ON_ERROR_STOP=1", f"--file={PROJECT / 'sql' / name}"),
        ],
        env={**os.environ, "PGCONNECT_TIMEOUT": "10"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pipeline_of(database: ScratchDatabase, directory: Path) -> PipelineConfig:
    dsn = f"postgresql://shop_cdc:change%20me@127.0.0.1:{database.server.port}/shop"
    attributes = {
        "name": "shop",
        "source": {"dsn": dsn, "slot": "shop_cdc", "publication": "shop_cdc"},
        "warehouse": {"duckdb": {"path": str(directory / "shop.duckdb")}},
        "tables": [{"source": f"public.{table}"} for table in TABLES],
    }
    path = directory / "defs.yaml"
    path.write_text(yaml.safe_dump({"type": COMPONENT_TYPE, "attributes": attributes}))
    return load_config(path)


def test_a_pipeline_runs_with_what_the_files_make(shop: ScratchDatabase, tmp_path: Path) -> None:
    run_file(shop, "role.sql")
    run_file(shop, "publication.sql")
    config = pipeline_of(shop, tmp_path)

    converge(shop, config)
    shop.execute("UPDATE orders SET what = 'new'; DELETE FROM products WHERE id > 5")
    shop.execute("REVOKE SELECT ON ALL TABLES IN SCHEMA public FROM shop_cdc")
    shop.execute("INSERT INTO customers VALUES (10, 'new')")
    converge(shop, config)

    seen = run_file(shop, "monitoring.sql")
    assert "shop_cdc" in seen
    assert "(0 rows)" in seen
