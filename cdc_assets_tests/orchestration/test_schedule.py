from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from dagster._core.remote_origin import (
    GrpcServerCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)

from cdc_assets_tests.dagster_pipelines import attributes, definitions

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
OVER = [
    dg.DagsterRunStatus.SUCCESS,
    dg.DagsterRunStatus.FAILURE,
    dg.DagsterRunStatus.CANCELED,
    dg.DagsterRunStatus.NOT_STARTED,
]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:  # a schedule can't refer to one in memory
        yield instance


def test_the_schedule_is_the_configs_and_on() -> None:
    defs = definitions(attributes("public.orders", schedule="*/5 * * * *"))
    schedule = defs.resolve_schedule_def("shop_sync_schedule")

    assert schedule.cron_schedule == "*/5 * * * *"
    assert schedule.job_name == "shop_sync"
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING


def test_a_tick_starts_a_run_of_everything(instance: dg.DagsterInstance) -> None:
    (request,) = _tick(instance).run_requests or ()

    assert request.asset_selection is None


@pytest.mark.parametrize("status", UNDER_WAY, ids=lambda status: str(status.value))
def test_a_tick_is_skipped_while_a_run_is_under_way(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    run = _run("shop_sync", status)
    instance.add_run(run)

    ticked = _tick(instance)

    assert not ticked.run_requests
    assert ticked.skip_message == f"run {run.run_id} of shop_sync is {status.value.lower()}"


@pytest.mark.parametrize("status", OVER, ids=lambda status: str(status.value))
def test_a_run_that_is_over_or_never_queued_holds_nothing_up(
    instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    instance.add_run(_run("shop_sync", status))

    assert _tick(instance).run_requests


def test_another_pipelines_run_holds_nothing_up(instance: dg.DagsterInstance) -> None:
    instance.add_run(_run("other_sync", dg.DagsterRunStatus.STARTED))

    assert _tick(instance).run_requests


def _run(job: str, status: dg.DagsterRunStatus) -> dg.DagsterRun:
    location = GrpcServerCodeLocationOrigin(host="localhost", port=1)
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), job)
    return dg.DagsterRun(job_name=job, status=status, remote_job_origin=origin)


def _tick(instance: dg.DagsterInstance) -> ScheduleExecutionData:
    schedule = definitions(attributes("public.orders")).resolve_schedule_def("shop_sync_schedule")
    return schedule.evaluate_tick(dg.build_schedule_context(instance=instance))
