"""The example project, installed into an environment of its own with the wheel of this tree."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from cdc_assets.config import load_config
from cdc_assets.source.setup import setup
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import PROJECT
from cdc_assets_tests.wheels import build_wheel

EXAMPLE = PROJECT / "examples" / "analytics"
DG = "from dagster_dg_cli.cli import main; main()"
SOURCE = (
    "CREATE TABLE customers (id int PRIMARY KEY, country text);"
    "CREATE TABLE orders (id int PRIMARY KEY, customer_id int, amount numeric(10, 2));"
    "CREATE SCHEMA crm; CREATE TABLE crm.contacts (id int PRIMARY KEY, name text);"
    "INSERT INTO customers VALUES (1, 'de'), (2, 'pt');"
    "INSERT INTO orders VALUES (1, 1, 10), (2, 1, 5.5), (3, 2, 7);"
    "INSERT INTO crm.contacts VALUES (1, 'x')"
)


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
    shutil.copytree(EXAMPLE, root)
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
    database.execute(SOURCE)
    yield Installed(root, bin_dir, database)


def test_the_example_runs_in_an_environment_of_its_own(installed: Installed) -> None:
    where = installed.run("python", "-c", "import cdc_assets; print(cdc_assets.__file__)")
    assert where.startswith(str(installed.root.parent / "venv"))
    assert "All definitions loaded" in installed.dg("check", "defs")
    for name in ("shop", "crm"):
        installed.run("cdc-assets", "setup", "--pipeline", name)
    installed.run("cdc-assets", "sync", "--pipeline", "crm")

    installed.dg("launch", "--job", "shop_sync")

    installed.dg("launch", "--assets", "revenue,best_customers,corrections,deleted_orders")
    assert (installed.root / "data/revenue.csv").read_text() == "country,amount\nde,15.5\npt,7.0\n"
    with duckdb.connect(installed.root / "data/reports.duckdb", read_only=True) as reports:
        assert reports.sql("SELECT id, orders FROM best_customers").fetchall() == [(1, 2), (2, 1)]
        assert reports.sql("SELECT * FROM deleted_orders").fetchall() == []
    with duckdb.connect(installed.root / "data/contacts.duckdb", read_only=True) as crm:
        assert crm.sql("SELECT id, name FROM crm.contacts").fetchall() == [(1, "x")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the example, with an empty `data` folder."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "analytics"))


@pytest.fixture
def loaded(
    database: ScratchDatabase, root: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dg.Definitions]:
    """The example's definitions in this process."""
    for name in ("SHOP_SOURCE_DSN", "CRM_SOURCE_DSN"):
        monkeypatch.setenv(name, database.dsn)
    monkeypatch.setenv("CRM_SCHEDULE_START", "stopped")
    monkeypatch.syspath_prepend(str(root / "src"))
    database.execute(SOURCE)
    setup(load_config(root / "src/analytics/defs/shop/defs.yaml"))
    yield importlib.import_module("analytics.definitions").defs()
    for name in [name for name in sys.modules if name.partition(".")[0] == "analytics"]:
        del sys.modules[name]


def test_a_sync_that_changed_a_mirror_starts_the_reports_and_no_other_does(
    database: ScratchDatabase, loaded: dg.Definitions, root: Path
) -> None:
    cursor = None

    def requested() -> set[str]:
        """Look as Dagster's daemon looks, once, and make what it would start."""
        nonlocal cursor
        look = dg.evaluate_automation_conditions(
            loaded, instance, asset_selection=dg.AssetSelection.assets(*reports), cursor=cursor
        )
        cursor = look.cursor
        wanted = [key for key in reports if look.get_num_requested(key)]
        if wanted:
            job = loaded.resolve_implicit_job_def_def_for_assets(wanted)
            assert job is not None
            assert job.execute_in_process(instance=instance, asset_selection=wanted).success
        return {key.to_user_string() for key in wanted}

    def sync() -> None:
        done = loaded.resolve_job_def("shop_sync").execute_in_process(instance=instance)
        assert done.success

    of_mirrors, of_changes = {"revenue", "best_customers"}, {"corrections", "deleted_orders"}
    reports = [dg.AssetKey(name) for name in sorted(of_mirrors | of_changes)]
    with dg.instance_for_test() as instance:
        assert requested() == set()
        sync()
        assert requested() == of_mirrors | of_changes
        sync()  # nothing was written since
        assert requested() == set()
        database.execute(
            "UPDATE orders SET amount = 8 WHERE id = 3; DELETE FROM orders WHERE id = 1"
        )
        assert requested() == set()
        sync()
        assert requested() == of_mirrors | of_changes
        assert requested() == set()
        database.execute("UPDATE customers SET country = 'es'")
        sync()
        assert requested() == of_mirrors
        assert requested() == set()
        database.execute("DELETE FROM orders WHERE id = 2")
        sync()
        assert requested() == of_mirrors | of_changes
    header, *corrected = (root / "data/corrections.csv").read_text().splitlines()
    assert header == "id,by,committed_at"
    assert [line.rpartition(",")[0] for line in corrected] == ["3,1.0"]
    with duckdb.connect(root / "data/reports.duckdb", read_only=True) as found:
        deleted = found.sql("SELECT id FROM deleted_orders ORDER BY lsn, seq").fetchall()
    assert deleted == [(1,), (2,)]
