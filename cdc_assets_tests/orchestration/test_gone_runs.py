"""Runs that only seem to be under way: their process was killed with whoever would have noticed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from dagster._core.storage.tags import GRPC_INFO_TAG

from cdc_assets.config import PipelineConfig
from cdc_assets.orchestration import under_way
from cdc_assets.source.connection import connect
from cdc_assets.source.lock import lock_pipeline
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import definitions, materialized, run_sync
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.waiting import wait_for, wait_until_unlocked

# Runs the job in a process of its own that stops in the middle of a run.
RUN_AND_HOLD = """
import sys, time
from pathlib import Path
import dagster as dg
from cdc_assets import steps
from cdc_assets.config import load_config
from cdc_assets_tests.dagster_pipelines import definitions, run_sync

def hold(step):
    Path(sys.argv[2]).write_text(step)
    time.sleep(600)

steps.observers.append(hold)
run_sync(definitions(load_config(Path(sys.argv[1]))), dg.DagsterInstance.get())
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "dagster_home"  # without a dagster.yaml: what Dagster does by default
    home.mkdir()
    with dg.instance_for_test(temp_dir=str(home)) as instance:
        yield instance


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, total int)")
    database.execute("INSERT INTO orders SELECT i, i FROM generate_series(1, 20) i")
    return pipeline("public.orders")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are looked at without their having to be quiet for minutes."""
    monkeypatch.setattr(under_way, "LOOKED_AT_SECONDS", 0.0)
    monkeypatch.setattr(under_way, "ONE_WITNESS_SECONDS", 0.0)


@contextmanager
def running(
    config: PipelineConfig, instance: dg.DagsterInstance, directory: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A run in the middle of its work."""
    path, held = directory / config.name / "defs.yaml", directory / "held"
    command = [sys.executable, "-c", RUN_AND_HOLD, path, held]
    home = {"DAGSTER_HOME": instance.root_directory}
    with subprocess.Popen(command, env={**os.environ, **home}) as process:
        try:
            wait_for(lambda: held.exists() or process.poll() is not None, "a run in its middle")
            assert process.poll() is None
            yield process
        finally:
            process.kill()


@pytest.mark.usefixtures("soon")
def test_a_tick_ends_a_run_that_was_killed_and_starts_another(
    database: ScratchDatabase,
    config: PipelineConfig,
    instance: dg.DagsterInstance,
    tmp_path: Path,
) -> None:
    with running(config, instance, tmp_path) as process:
        (run,) = instance.get_runs()
        process.send_signal(signal.SIGKILL)
    wait_until_unlocked(database)
    assert instance.get_runs()[0].status is dg.DagsterRunStatus.STARTED

    ticked = _tick(config, instance)

    (request,) = ticked.run_requests or ()
    assert request.tags["cdc/after_gone_run"] == run.run_id
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert "nobody holds the pipeline's lock on the source" in _last_words(instance, run)
    assert set(materialized(run_sync(definitions(config), instance))) >= {"shop/slot"}
    assert_equal_to_source(database, config)


@pytest.mark.usefixtures("soon")
def test_a_run_that_holds_the_lock_is_waited_for_and_named(
    config: PipelineConfig, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    with running(config, instance, tmp_path):
        ticked = _tick(config, instance)

    assert not ticked.run_requests
    assert ticked.skip_message is not None
    assert "is started: pid " in ticked.skip_message
    assert "'cdc-assets shop' on the source since" in ticked.skip_message


@pytest.mark.usefixtures("soon")
def test_a_sync_on_the_command_line_keeps_a_gone_run_from_being_followed(
    config: PipelineConfig, database: ScratchDatabase, instance: dg.DagsterInstance
) -> None:
    run = _started(instance)
    with connect(database.dsn) as by_hand:
        lock_pipeline(by_hand, config.source.slot)

        assert f"pid {by_hand.info.backend_pid}" in (_tick(config, instance).skip_message or "")

    wait_until_unlocked(database)
    (request,) = _tick(config, instance).run_requests or ()
    assert request.tags["cdc/after_gone_run"] == run.run_id


def test_a_run_that_said_something_lately_is_not_doubted(
    config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    run = _started(instance)

    assert _tick(config, instance).skip_message == f"run {run.run_id} of shop_sync is started"


def test_a_code_server_that_does_not_know_a_run_is_a_witness(
    config: PipelineConfig,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(under_way, "LOOKED_AT_SECONDS", 0.0)  # with one witness it were 300 s
    with code_server(tmp_path) as address:
        run = _started(instance, tags={GRPC_INFO_TAG: json.dumps(address)})

        (request,) = _tick(config, instance).run_requests or ()

    assert request.tags["cdc/after_gone_run"] == run.run_id
    assert "its code server does not know its process" in _last_words(instance, run)


@pytest.mark.usefixtures("soon")
def test_where_nobody_can_be_asked_a_run_must_be_quiet_for_long(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    config = pipeline("public.orders", dsn_env="NOT_SET_ANYWHERE")
    run = _started(instance)

    reason = _tick(config, instance).skip_message or ""
    monkeypatch.setattr(under_way, "NO_WITNESS_SECONDS", 0.0)
    (request,) = _tick(config, instance).run_requests or ()

    assert "the source can't be asked who holds the pipeline's lock" in reason
    assert request.tags["cdc/after_gone_run"] == run.run_id


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("job", "asset"),
    [
        ("__ASSET_JOB", ["shop", "slot"]),
        ("__ASSET_JOB", ["shop", "public", "orders__snapshot"]),
        ("shop_backfill", None),
    ],
)
def test_a_run_of_the_pipelines_assets_that_is_gone_does_not_keep_the_pool(
    config: PipelineConfig, instance: dg.DagsterInstance, job: str, asset: list[str] | None
) -> None:
    run = _started(instance, job=job, selection={dg.AssetKey(asset)} if asset else None)
    instance.event_log_storage.set_concurrency_slots("cdc_shop", 1)
    instance.event_log_storage.claim_concurrency_slot("cdc_shop", run.run_id, "shop_cdc")

    assert _tick(config, instance).run_requests
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert not instance.event_log_storage.get_concurrency_info("cdc_shop").active_run_ids


@pytest.mark.usefixtures("soon")
def test_another_pipelines_selection_is_left_alone(
    config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    mixed = {dg.AssetKey(["shop", "slot"]), dg.AssetKey(["other", "slot"])}
    run = _started(instance, job="__ASSET_JOB", selection=mixed)

    assert _tick(config, instance).run_requests
    left = instance.get_run_by_id(run.run_id)
    assert left is not None
    assert left.status is dg.DagsterRunStatus.STARTED


@pytest.mark.usefixtures("soon")
def test_a_gone_run_that_dagster_tries_again_is_not_started_twice(
    config: PipelineConfig, tmp_path: Path
) -> None:
    retried = {"run_retries": {"enabled": True, "max_retries": 2}}
    with dg.instance_for_test(overrides=retried, temp_dir=str(tmp_path)) as instance:
        _started(instance)

        ticked = _tick(config, instance)

    assert not ticked.run_requests
    assert "is tried again" in (ticked.skip_message or "")


@contextmanager
def code_server(directory: Path) -> Iterator[dict[str, str]]:
    """A code server, and where it listens."""
    (directory / "empty.py").write_text("import dagster\n\ndefs = dagster.Definitions()\n")
    socket = str(directory / "s")
    command = [sys.executable, "-m", "dagster", "api", "grpc", "-f", "empty.py", "-s", socket]
    with subprocess.Popen(command, cwd=directory) as server:
        try:
            wait_for(lambda: Path(socket).exists(), "a code server")
            yield {"host": "localhost", "socket": socket}
        finally:
            server.kill()  # asked to end in its first second, it sometimes does not


def _started(
    instance: dg.DagsterInstance,
    job: str = "shop_sync",
    selection: set[dg.AssetKey] | None = None,
    tags: dict[str, str] | None = None,
) -> dg.DagsterRun:
    frozen = frozenset(selection) if selection else None
    started = dg.DagsterRun(
        job, status=dg.DagsterRunStatus.STARTED, asset_selection=frozen, tags=tags
    )
    return instance.add_run(started)


def _last_words(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    event = instance.all_logs(run.run_id)[-1].dagster_event
    assert event is not None
    return event.message or ""


def _tick(config: PipelineConfig, instance: dg.DagsterInstance) -> ScheduleExecutionData:
    schedule = definitions(config).resolve_schedule_def("shop_sync_schedule")
    return schedule.evaluate_tick(dg.build_schedule_context(instance=instance))
