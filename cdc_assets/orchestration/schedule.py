"""The job that syncs a pipeline, and the schedule that starts it."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from cdc_assets.config import PipelineConfig
from cdc_assets.orchestration.instance import warn_at_tick
from cdc_assets.orchestration.under_way import Job, look


def job_and_schedule(config: PipelineConfig, keys: Iterable[dg.AssetKey]) -> dg.Definitions:
    """Define the job that syncs every table, and its schedule.

    The job runs in the run's own process: starting another for its one step would take longer
    than a quiet sync. The schedule is on unless somebody turns it off: what the config declares
    is what runs.
    """
    keys = frozenset(keys)
    job = dg.define_asset_job(
        f"{config.name}_sync",
        # The op looks at the slot's health anyway; planned checks are events of each run
        selection=dg.AssetSelection.assets(*keys).without_checks(),
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
        return _next_run(context, Job(config, job.name, keys))

    return dg.Definitions(jobs=[job], schedules=[start_sync])


def _next_run(context: dg.ScheduleEvaluationContext, job: Job) -> dg.RunRequest | dg.SkipReason:
    # A run reads all there is, so a second one in the queue would find nothing.
    warn_at_tick(context)
    found = look(context.instance, job)
    for run_id, why in found.ended:
        context.log.warning(f"run {run_id} is gone, it was marked as failed: {why}")
    if found.reason:
        return dg.SkipReason(found.reason)
    ended = ", ".join(run_id for run_id, _ in found.ended)
    return dg.RunRequest(tags={"cdc/after_gone_run": ended} if ended else {})
