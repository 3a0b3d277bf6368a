from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

import cdc_assets
from cdc_assets.demo import runs, service
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets_tests.waiting import wait_for

PROJECT = Path(cdc_assets.__file__).parent.parent
LAUNCH = """mutation { launchRun(executionParams: {runConfigData: {}, selector: {
    repositoryName: "__repository__", repositoryLocationName: "cdc_assets", jobName: "shop_sync"}})
    { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
RUNS = """{ runsOrError { ... on Runs { results {
    runId status tags { key } assetMaterializations { assetKey { path } } } } } }"""
SCHEDULES = """{ schedulesOrError(repositorySelector: {
    repositoryName: "__repository__", repositoryLocationName: "cdc_assets"})
    { ... on Schedules { results { name scheduleState { status } } } } }"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A copy of the project: the warehouse of the live demo is the project's own."""
    shutil.copytree(PROJECT / "cdc_assets", tmp_path / "cdc_assets")
    for name in ("pyproject.toml", "workspace.yaml", "dagster.yaml"):
        shutil.copy(PROJECT / name, tmp_path)
    yield tmp_path
    EmbeddedPostgres(tmp_path / "data" / "demo" / "live" / "postgres").remove()


class LiveDemo:
    """The demo as a program."""

    def __init__(self, project: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.home = project / "data" / "demo" / "live"
        self.running = subprocess.Popen(
            [sys.executable, "-m", "cdc_assets.cli", "demo", "--port", str(self.port)],
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(project)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""

    def wait_until_it_says(self, text: str) -> None:
        assert self.running.stdout is not None
        for line in self.running.stdout:
            self.said += line
            if text in line:
                return
        logs = "".join(log.read_text() for log in (self.home / "dagster").glob("*.log"))
        pytest.fail(f"{text!r} was not said:\n{self.said}\n{logs[-5000:]}")

    def ask(self, query: str) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def runs(self) -> list[dict[str, Any]]:
        """Give the runs, the newest first."""
        results: list[dict[str, Any]] = self.ask(RUNS)["runsOrError"]["results"]
        return results

    def launch(self) -> str:
        launched = self.ask(LAUNCH)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def stop(self) -> str:
        self.running.send_signal(signal.SIGINT)
        said, _ = self.running.communicate(timeout=90)
        assert self.running.returncode == 0, said
        return self.said + said


def dsn_of(home: Path) -> str:
    return (home / "shop.env").read_text().split("'")[1]


def started_by(home: Path) -> list[str]:
    """Give the command lines of programs that have the demo's DAGSTER_HOME."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone meanwhile
            if f"DAGSTER_HOME={home}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text())
    return found


def test_what_ctrl_c_waits_for_is_bounded_to_less_than_five_seconds() -> None:
    assert runs._END_TIMEOUT_SECONDS + service.STOP_TIMEOUT_SECONDS < 5


def test_the_live_demo_syncs_in_dagster_and_stops_at_ctrl_c_in_the_middle_of_a_run(project: Path):
    demo = LiveDemo(project)
    try:
        demo.wait_until_it_says("Ctrl-C stops everything")
        (schedule,) = demo.ask(SCHEDULES)["schedulesOrError"]["results"]
        assert schedule["name"] == "shop_sync_schedule"
        assert schedule["scheduleState"]["status"] == "RUNNING"

        first = demo.runs()[-1]
        assert "dagster/schedule_name" not in {tag["key"] for tag in first["tags"]}
        wait_for(lambda: demo.runs()[-1]["status"] == "SUCCESS", "the first sync")
        keys = {
            tuple(each["assetKey"]["path"]) for each in demo.runs()[-1]["assetMaterializations"]
        }
        assert ("shop", "public", "customers") in keys
        assert ("shop", "slot") in keys

        demo.launch()
        wait_for(lambda: demo.runs()[0]["status"] == "STARTED", "another sync's start")
        said = demo.stop()
        assert "Traceback" not in said
        assert said.endswith("Stopped.\n")
        assert started_by(demo.home / "dagster") == []
        with dg.DagsterInstance.from_config(str(demo.home / "dagster")) as instance:
            assert all(run.is_finished for run in instance.get_runs())
    finally:
        demo.running.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn_of(demo.home))


def test_a_port_that_is_taken_is_said_before_anything_starts(tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run_demo(tmp_path, port)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"port {port} on 127.0.0.1 can't be used" in done.stderr
    assert f"make demo PORT={port + 1}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_package_without_a_clone_is_said_before_anything_starts(
    project: Path, tmp_path: Path
) -> None:
    (project / "workspace.yaml").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "cdc_assets.cli", "demo", "--directory", str(tmp_path / "demo")],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "run the demo in a clone of the project, or with --once" in done.stderr
    assert not done.stdout
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("port", ["0", "65536", "-1", "web"])
def test_what_is_no_port_is_bad_usage(tmp_path: Path, port: str):
    done = run_demo(tmp_path, port)
    assert done.returncode == 2
    assert "expected a port from 1 to 65535" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_make_hands_the_port_on_and_lists_what_there_is():
    def make(*arguments: str) -> str:
        # The tests themselves may run under make, which tells its children so
        own = {key: value for key, value in os.environ.items() if not key.startswith("M")}
        command = ["make", *arguments]
        return subprocess.run(
            command, cwd=PROJECT, env=own, capture_output=True, text=True, check=True
        ).stdout

    dry = ("--always-make", "--dry-run", "demo")
    assert "demo --port 3001\n" in make(*dry, "PORT=3001")
    assert "demo --port 3000\n" in make(*dry)
    targets = (PROJECT / "Makefile").read_text().split(".PHONY: ")[1].split("\n")[0].split()
    assert [line.split()[1] for line in make().splitlines()] == targets


def run_demo(directory: Path, port: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cdc_assets.cli", "demo", f"--port={port}"]
    return subprocess.run(
        [*command, "--directory", directory], capture_output=True, text=True, check=False
    )
