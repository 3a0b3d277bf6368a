from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import dagster as dg

from cdc_assets.demo.live import make_storage

ROOT = Path(__file__).parents[2]


def test_programs_that_start_at_once_find_the_storage_made(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "dagster.yaml", tmp_path / "dagster.yaml")
    make_storage(tmp_path)
    ask = [sys.executable, "-m", "dagster", "instance", "info"]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path)}
    both = [subprocess.Popen(ask, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [program.wait(120) for program in both] == [0, 0]
    databases = sorted(tmp_path.rglob("*.db"))
    assert [database.name for database in databases] == ["index.db", "runs.db", "schedules.db"]
    for database in databases:
        with sqlite3.connect(database) as connection:
            assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
        connection.close()


def test_runs_that_a_killed_demo_left_are_ended_before_the_next_one(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "dagster.yaml", tmp_path / "dagster.yaml")
    make_storage(tmp_path)
    left = (
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.CANCELING,
    )
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        for status in left:
            instance.create_run_for_job(dg.GraphDefinition(name="sync").to_job(), status=status)
    make_storage(tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        statuses = [run.status for run in instance.get_runs()]
    assert statuses == [dg.DagsterRunStatus.CANCELED] * len(left)
