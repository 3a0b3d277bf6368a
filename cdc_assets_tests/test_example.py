"""The example project, installed into an environment of its own with the wheel of this tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import PROJECT
from cdc_assets_tests.wheels import build_wheel

DG = "from dagster_dg_cli.cli import main; main()"


class Installed:
    """The project, and programs of its environment."""

    def __init__(self, root: Path, bin_dir: Path, database: ScratchDatabase) -> None:
        self.root = root
        self._bin = bin_dir
        env = {key: value for key, value in os.environ.items() if not key.startswith("DAGSTER")}
        env.pop("PYTHONPATH", None)
        env.pop("VIRTUAL_ENV", None)
        home = root / ".dagster"
        home.mkdir()
        self._env = {**env, "DAGSTER_HOME": str(home), "COLUMNS": "300"}
        (root / ".env").write_text(
            f"SHOP_SOURCE_DSN='{database.dsn}'\nCRM_SOURCE_DSN='{database.dsn}'\n"
            "CRM_SCHEDULE_START=stopped\n"
        )

    def dg(self, *arguments: str) -> str:
        """Run `dg` of the environment."""
        return self.run("python", "-c", DG, *arguments)

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of the environment; gives what it printed."""
        done = subprocess.run(
            [self._bin / program, *arguments],
            cwd=self.root,
            env=self._env,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def installed(
    database: ScratchDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    directory = tmp_path_factory.mktemp("example")
    root = directory / "analytics"
    shutil.copytree(PROJECT / "examples" / "analytics", root)
    wheel = build_wheel(directory)
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", directory / "venv"], check=True, timeout=60
    )
    bin_dir = directory / "venv" / "bin"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--python", bin_dir / "python"),
            *("install", "--quiet", "--no-deps", wheel, "-e", root),
        ],
        # or pip finds the tree's own package there, and the wheel installed already
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        check=True,
        timeout=240,
    )
    # Dependencies are those of the tests; the package itself is the wheel, which comes first
    own = next((directory / "venv" / "lib").glob("*/site-packages"))
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    database.execute(
        "CREATE TABLE customers (id int PRIMARY KEY, country text);"
        "CREATE TABLE orders (id int PRIMARY KEY, customer_id int, amount numeric(10, 2));"
        "CREATE SCHEMA crm; CREATE TABLE crm.contacts (id int PRIMARY KEY, name text);"
        "INSERT INTO customers VALUES (1, 'de'), (2, 'pt');"
        "INSERT INTO orders VALUES (1, 1, 10), (2, 1, 5.5), (3, 2, 7);"
        "INSERT INTO crm.contacts VALUES (1, 'x')"
    )
    yield Installed(root, bin_dir, database)


def test_the_example_runs_in_an_environment_of_its_own(installed: Installed) -> None:
    where = installed.run("python", "-c", "import cdc_assets; print(cdc_assets.__file__)")
    assert where.startswith(str(installed.root.parent / "venv"))
    assert "All definitions loaded" in installed.dg("check", "defs")
    for name in ("shop", "crm"):
        installed.run("cdc-assets", "setup", "--pipeline", name)
    installed.run("cdc-assets", "sync", "--pipeline", "crm")

    installed.dg("launch", "--job", "shop_sync")

    installed.dg("launch", "--assets", "revenue,best_customers")
    assert (installed.root / "data/revenue.csv").read_text() == "country,amount\nde,15.5\npt,7.0\n"
    with duckdb.connect(installed.root / "data/reports.duckdb", read_only=True) as reports:
        assert reports.sql("SELECT id, orders FROM best_customers").fetchall() == [(1, 2), (2, 1)]
    with duckdb.connect(installed.root / "data/contacts.duckdb", read_only=True) as crm:
        assert crm.sql("SELECT id, name FROM crm.contacts").fetchall() == [(1, "x")]
