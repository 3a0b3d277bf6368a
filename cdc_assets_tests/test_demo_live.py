from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest

import cdc_assets
from cdc_assets.demo.postgres import EmbeddedPostgres

PROJECT = Path(cdc_assets.__file__).parent.parent
LAUNCH = """mutation { launchRun(executionParams: {runConfigData: {}, selector: {
    repositoryName: "__repository__", repositoryLocationName: "cdc_assets", jobName: "shop_sync"}})
    { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
STATUS = """{ runOrError(runId: "%s") { ... on Run {
    status assetMaterializations { assetKey { path } } } } }"""
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

    def sync(self) -> dict[str, Any]:
        launched = self.ask(LAUNCH)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        deadline = monotonic() + 120
        while monotonic() < deadline:
            run = self.ask(STATUS % launched["run"]["runId"])["runOrError"]
            if run["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
                return run
            threading.Event().wait(0.2)
        return run

    def stop(self) -> str:
        self.running.send_signal(signal.SIGINT)
        said, _ = self.running.communicate(timeout=90)
        assert self.running.returncode == 0, said
        return self.said + said


def dsn_of(home: Path) -> str:
    return (home / "shop.env").read_text().split("'")[1]


def test_the_live_demo_syncs_in_dagster_and_stops_at_ctrl_c(project: Path):
    demo = LiveDemo(project)
    try:
        demo.wait_until_it_says("Ctrl-C stops everything")
        (schedule,) = demo.ask(SCHEDULES)["schedulesOrError"]["results"]
        assert schedule["name"] == "shop_sync_schedule"
        assert schedule["scheduleState"]["status"] == "RUNNING"
        run = demo.sync()
        assert run["status"] == "SUCCESS"
        keys = {tuple(each["assetKey"]["path"]) for each in run["assetMaterializations"]}
        assert ("shop", "public", "customers") in keys
        assert ("shop", "slot") in keys
        said = demo.stop()
        assert "Traceback" not in said
        assert said.endswith("Stopped.\n")
    finally:
        demo.running.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn_of(demo.home))
