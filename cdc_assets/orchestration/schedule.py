"""The job that syncs a pipeline, and the schedule that starts it."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from cdc_assets.config import PipelineConfig

# Not NOT_STARTED: a run that was created and never queued would hold the schedule for ever.
_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def job_and_schedule(config: PipelineConfig, keys: Iterable[dg.AssetKey]) -> dg.Definitions:
    """Define the job that syncs every table, and its schedule.

    The job runs in the run's own process: starting another for its one step would take longer
    than a quiet sync. The schedule is on unless somebody turns it off: what the config declares
    is what runs.
    """
    job = dg.define_asset_job(
        f"{config.name}_sync",
        selection=dg.AssetSelection.assets(*keys),
        executor_def=dg.in_process_executor,
        description=f"Brings every mirror of {config.name} to the source's present.",
    )

    if config.schedule is None:
        return dg.Definitions(jobs=[job])
    starts = config.schedule.start == "running"

    @dg.schedule(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=config.schedule.cron,
        execution_timezone=config.schedule.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING
        if starts
        else dg.DefaultScheduleStatus.STOPPED,
        description=f"Starts {job.name}, unless a run of it is queued or running.",
    )
    def start_sync(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return _next_run(context.instance, job.name)

    return dg.Definitions(jobs=[job], schedules=[start_sync])


def _next_run(instance: dg.DagsterInstance, job_name: str) -> dg.RunRequest | dg.SkipReason:
    # A run reads all there is, so a second one in the queue would find nothing.
    filters = dg.RunsFilter(job_name=job_name, statuses=_UNDER_WAY)
    for record in instance.get_run_records(filters, limit=1):
        run = record.dagster_run
        return dg.SkipReason(f"run {run.run_id} of {job_name} is {run.status.value.lower()}")
    return dg.RunRequest()
