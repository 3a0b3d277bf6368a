"""The job that syncs a pipeline, and the schedules that start jobs."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from cdc_assets.config import PipelineConfig, ScheduleConfig
from cdc_assets.orchestration.instance import warn_at_tick
from cdc_assets.orchestration.under_way import Job, look


def job_and_schedule(
    config: PipelineConfig,
    keys: Iterable[dg.AssetKey],
    *,
    beside: Collection[dg.AssetKey] = (),
    jobs_beside: Collection[str] = (),
) -> dg.Definitions:
    """Define the job that syncs every table, and its schedule.

    The job runs in the run's own process: starting another for its one step would take longer
    than a quiet sync. The schedule is on unless somebody turns it off: what the config declares
    is what runs.

    Args:
        config: The pipeline.
        keys: What a sync brings on.
        beside: The pipeline's other assets: a tick ends runs of them that are gone.
        jobs_beside: The names of its other jobs, likewise.
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
    watched = Job(config, job.name, keys.union(beside), jobs_beside)
    return dg.Definitions(jobs=[job], schedules=[scheduled(job, config.schedule, watched)])


def scheduled(
    job: UnresolvedAssetJobDefinition | dg.JobDefinition, schedule: ScheduleConfig, watched: Job
) -> dg.ScheduleDefinition:
    """Define the schedule of a job: a tick is skipped while a run of it is under way."""
    starts = schedule.start == "running"

    @dg.schedule(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=schedule.cron,
        execution_timezone=schedule.timezone,
        default_status=dg.DefaultScheduleStatus.RUNNING
        if starts
        else dg.DefaultScheduleStatus.STOPPED,
        description=f"Starts {job.name}, unless a run of it is queued or running.",
    )
    def start(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        return _next_run(context, watched)

    return start


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
