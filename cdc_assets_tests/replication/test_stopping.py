"""A run that is told to stop: it says so, lets go of everything, and what was committed stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cdc_assets.config import PipelineConfig
from cdc_assets.steps import Step
from cdc_assets_tests.command_line import run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_project import DG, copy_project, shop_config
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import PROJECT, config_path, start_sync
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, mirror_rows
from cdc_assets_tests.waiting import wait_for_row, wait_until_unlocked

_STOPPED = "stopped: what was committed stays, the next run goes on from there"
# A command that gets a signal at a step: <config> <step> <signal> <command>
_SIGNALLED = """
import os, sys
from cdc_assets.cli import main
from cdc_assets.steps import observers
from cdc_assets_tests.interrupting import make_small
config, step, number, *command = sys.argv[1:]
make_small()
observers.append(lambda reached: reached == step and os.kill(os.getpid(), int(number)))
sys.exit(main([*command, "--config", config]))
"""
_WAITS_FOR_LOCK = "SELECT pid FROM pg_locks WHERE NOT granted AND relation = 'orders'::regclass"


@pytest.fixture
def ledger(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    create_ledger(database)
    return pipeline(*TABLES)


@pytest.fixture
def locked(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """A pipeline whose first copy waits for a lock that the test holds."""
    database.execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")
    return pipeline("public.orders")


def _signalled(
    config: PipelineConfig, step: Step, number: signal.Signals, *command: str
) -> subprocess.CompletedProcess[str]:
    arguments = [str(config_path(config)), step, str(int(number)), *command]
    return subprocess.run(
        [sys.executable, "-c", _SIGNALLED, *arguments],
        cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("chunk_staged", signal.SIGTERM),
        ("chunk_committed", signal.SIGINT),
        ("before_commit", signal.SIGTERM),
        ("copy_staged", signal.SIGINT),
    ],
)
@pytest.mark.parametrize("bucket", [(), ("--bucket", "03")], ids=["whole", "bucket"])
def test_a_backfill_that_is_stopped_is_done_by_the_next(
    database: ScratchDatabase,
    ledger: PipelineConfig,
    step: Step,
    number: signal.Signals,
    bucket: tuple[str, ...],
) -> None:
    converge(database, ledger)
    Writer(database, seed=5).commit(20)
    command = ("backfill", "public.accounts", *bucket)
    done = _signalled(ledger, step, number, *command)
    assert done.returncode == 128 + number, done.stderr
    assert done.stderr.splitlines()[-1] == _STOPPED
    assert "Traceback" not in done.stderr
    wait_until_unlocked(database)
    assert run_command(ledger, *command).code == 0
    converge(database, ledger)


def test_two_backfills_of_one_bucket_at_once(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    """One goes first, the other after it or beside it; nothing is lost, whoever it is."""
    converge(database, ledger)
    with Writer(database, seed=5).running():
        running = [start_sync(ledger, work="backfill accounts 03") for _ in range(2)]
        said = [process.communicate(timeout=120)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    converge(database, ledger)


@pytest.mark.parametrize(
    ("step", "number"),
    [
        ("chunk_staged", signal.SIGTERM),
        ("window_read", signal.SIGTERM),
        ("before_commit", signal.SIGINT),
    ],
)
def test_a_signal_undoes_what_is_under_way_and_nothing_else(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step, number: signal.Signals
) -> None:
    Writer(database, seed=5).commit(60)
    if step != "chunk_staged":
        converge(database, ledger)
        Writer(database, seed=6).commit(20)
    before = mirror_rows(ledger, TABLES[0]) if step != "chunk_staged" else []

    done = _signalled(ledger, step, number, "sync")

    assert done.returncode == 128 + number, done.stderr
    assert done.stderr.splitlines()[-1] == _STOPPED
    assert "Traceback" not in done.stderr
    wait_until_unlocked(database)
    if step != "chunk_staged":
        assert mirror_rows(ledger, TABLES[0]) == before
    converge(database, ledger)


def test_a_command_that_waits_for_the_source_stops_at_once(
    database: ScratchDatabase, locked: PipelineConfig
) -> None:
    with database.connect() as holder, holder.transaction():
        holder.execute("LOCK TABLE orders")
        command = [sys.executable, "-m", "cdc_assets.cli", "sync", "--config"]
        with subprocess.Popen(
            [*command, str(config_path(locked))], cwd=PROJECT, stderr=subprocess.PIPE, text=True
        ) as run:
            wait_for_row(database, _WAITS_FOR_LOCK, "the copy to wait for the lock")
            run.send_signal(signal.SIGTERM)
            _, said = run.communicate(timeout=10)
    assert run.returncode == 143
    assert said.splitlines()[-1] == _STOPPED
    wait_until_unlocked(database)
    converge(database, locked)


def test_a_run_of_dagster_that_is_terminated_says_so_and_lets_go(
    database: ScratchDatabase, locked: PipelineConfig, tmp_path: Path
) -> None:
    project = copy_project(tmp_path / "dagster")
    document = yaml.safe_load(shop_config(project).read_text())
    document["attributes"] |= yaml.safe_load(config_path(locked).read_text())["attributes"]
    shop_config(project).write_text(yaml.safe_dump(document))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("DAGSTER")}
    environment = {**inherited, "PYTHONPATH": str(project), "DAGSTER_HOME": f"{project}/.dagster"}
    with database.connect() as holder, holder.transaction():
        holder.execute("LOCK TABLE orders")
        with subprocess.Popen(
            [DG, "launch", "--job", "shop_sync"], cwd=project, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as run:  # fmt: skip
            wait_for_row(database, _WAITS_FOR_LOCK, "the copy to wait for the lock")
            run.send_signal(signal.SIGTERM)
            said, _ = run.communicate(timeout=30)
            wait_until_unlocked(database)
    assert _STOPPED in said, said
    converge(database, locked)
