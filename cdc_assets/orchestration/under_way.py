"""Which of a pipeline's runs are under way, and which only seem to be.

A run whose process was killed together with the process that started it stays "started" for ever:
Dagster's default launcher has no way to find out, with or without run monitoring. The schedule
would wait for it, and so would every run in the pipeline's pool. So a tick does not trust a run
that has been quiet for a while. It asks whoever may know better:

- where Dagster's own monitoring sees the processes (Kubernetes, ECS, Docker), it is left to that;
- the code server that started the run says whether its process is there;
- the source says who holds the pipeline's lock, which every run takes first and keeps.

A run that is gone is marked as failed, which also makes room in the pool. The fewer of the two can
be asked, the longer the run must have been quiet: a sync writes a line per chunk and window, and
says what it waits for. A mistake costs no data: the lock decides in any case.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass

import dagster as dg
from dagster._core.storage.dagster_run import RunRecord
from dagster._core.storage.tags import GRPC_INFO_TAG, WILL_RETRY_TAG

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError

# Seconds without an event after which a run is looked at, and after which it counts as gone.
LOOKED_AT_SECONDS = 60.0
ONE_WITNESS_SECONDS = 300.0
NO_WITNESS_SECONDS = 3600.0
_ANSWER_SECONDS = 3

# Not NOT_STARTED: a run that was created and never queued would hold the schedule for ever.
_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
_ASSET_JOB = "__ASSET_JOB"  # what Dagster calls a run of selected assets
_NO_ASSET = dg.AssetKey("no asset of ours")
_MOST_LOOKED_AT = 20


@dataclass(frozen=True, slots=True)
class Job:
    """A pipeline's job, as far as its runs can be recognised.

    Attributes:
        keys: The pipeline's assets: runs of a selection of them are ended when they are gone.
        beside: The names of other jobs, likewise.
    """

    config: PipelineConfig
    name: str
    keys: Collection[dg.AssetKey]
    beside: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class UnderWay:
    """What was found.

    Attributes:
        reason: Why no run should start now, or empty.
        ended: Runs that were found gone and marked as failed: their id and why.
    """

    reason: str
    ended: tuple[tuple[str, str], ...]


def look(instance: dg.DagsterInstance, job: Job) -> UnderWay:
    """Find what runs, and mark as failed what only seems to.

    A run of selected assets or checks counts when all of them are the pipeline's: it may hold a
    pool.
    """
    reason, ended = "", []
    for record in _records(instance, job):
        run = record.dagster_run
        is_job = run.job_name == job.name
        life = _look_at(instance, job.config, record)
        if life.gone:
            will_retry = _end(instance, run, f"{life.account}: marked as failed by a tick")
            ended.append((run.run_id, life.account))
            if will_retry and is_job:
                reason = reason or f"run {run.run_id} was gone ({life.account}), and is tried again"
        elif is_job:
            status = run.status.value.lower()
            because = f": {life.account}" if life.account else ""
            reason = reason or f"run {run.run_id} of {job.name} is {status}{because}"
    return UnderWay(reason, tuple(ended))


def _records(instance: dg.DagsterInstance, job: Job) -> list[RunRecord]:
    names = [job.name, *job.beside]
    own = [dg.RunsFilter(job_name=name, statuses=_UNDER_WAY) for name in names]
    selections = dg.RunsFilter(job_name=_ASSET_JOB, statuses=_UNDER_WAY)
    return [
        *(
            record
            for runs in own
            for record in instance.get_run_records(runs, limit=_MOST_LOOKED_AT)
        ),
        *(
            record
            for record in instance.get_run_records(selections, limit=_MOST_LOOKED_AT)
            if _selected(record.dagster_run) <= set(job.keys)
        ),
    ]


def _selected(run: dg.DagsterRun) -> set[dg.AssetKey]:
    """Give the assets that a run was asked for, or for checks of."""
    checked = (key.asset_key for key in run.asset_check_selection or ())
    return {*(run.asset_selection or ()), *checked} or {_NO_ASSET}


@dataclass(frozen=True, slots=True)
class _Life:
    gone: bool = False
    account: str = ""


def _look_at(instance: dg.DagsterInstance, config: PipelineConfig, record: RunRecord) -> _Life:
    run = record.dagster_run
    if run.status is dg.DagsterRunStatus.QUEUED:  # it has no process yet
        return _Life()
    if instance.run_monitoring_enabled and instance.run_launcher.supports_check_run_worker_health:
        return _Life()
    quiet = time.time() - _last_said(instance, record)
    if quiet < LOOKED_AT_SECONDS:
        return _Life()
    process = _has_process(run)
    if process:
        return _Life()
    holder, lock = _ask_source(config)
    if holder:
        return _Life(account=holder)
    witnesses = (process is False) + (lock is False)
    patience = (NO_WITNESS_SECONDS, ONE_WITNESS_SECONDS, LOOKED_AT_SECONDS)[witnesses]
    account = ", ".join(
        [
            f"it has said nothing for {quiet:.0f} s",
            *(["its code server does not know its process"] if process is False else []),
            "nobody holds the pipeline's lock on the source"
            if lock is False
            else "the source can't be asked who holds the pipeline's lock",
        ]
    )
    return _Life(gone=quiet >= patience, account=account)


def _last_said(instance: dg.DagsterInstance, record: RunRecord) -> float:
    last = instance.get_records_for_run(record.dagster_run.run_id, limit=1, ascending=False)
    changed = record.update_timestamp.timestamp()
    return max([changed, *(entry.timestamp for entry in last.records)])


def _has_process(run: dg.DagsterRun) -> bool | None:
    """Ask the code server that started a run; None where none did or it does not answer."""
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.client import DagsterGrpcClient
    from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
    from dagster_shared.serdes import deserialize_value

    if GRPC_INFO_TAG not in run.tags:
        return None
    address = json.loads(run.tags[GRPC_INFO_TAG])
    client = DagsterGrpcClient(
        host=address.get("host"),
        port=address.get("port"),
        socket=address.get("socket"),
        use_ssl=bool(address.get("use_ssl")),
    )
    try:
        answer = client.can_cancel_execution(
            CanCancelExecutionRequest(run_id=run.run_id), timeout=_ANSWER_SECONDS
        )
    except DagsterUserCodeUnreachableError:
        return None
    return deserialize_value(answer, CanCancelExecutionResult).can_cancel


def _ask_source(config: PipelineConfig) -> tuple[str, bool | None]:
    """Ask the source who holds the pipeline's lock.

    Returns:
        Who it is, or empty, and whether it is held: None where the source can't be asked, as in a
        code server that lacks the DSN's variable.
    """
    from psycopg.conninfo import make_conninfo

    from cdc_assets.source.connection import connect, translated
    from cdc_assets.source.lock import lock_holder
    from cdc_assets.source.setup import conninfo_of

    slot = config.source.slot
    try:
        hasty = make_conninfo(
            conninfo_of(config),
            connect_timeout=_ANSWER_SECONDS,
            tcp_user_timeout=1000 * _ANSWER_SECONDS,
        )
        with translated(slot), connect(hasty) as connection:
            connection.execute(f"SET statement_timeout = '{_ANSWER_SECONDS} s'")
            holder = lock_holder(connection, slot)
    except CdcError:
        return "", None
    return (f"{holder} holds the pipeline's lock", True) if holder else ("", False)


def _end(instance: dg.DagsterInstance, run: dg.DagsterRun, why: str) -> bool:
    """Mark a run as failed and free its place in the pool; say whether Dagster tries it again."""
    if run.status is dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceled(run, why)
    else:
        instance.report_run_failed(run, why)
    storage = instance.event_log_storage
    if storage.supports_global_concurrency_limits:
        storage.free_concurrency_slots_for_run(run.run_id)
    after = instance.get_run_by_id(run.run_id)
    return after is not None and after.tags.get(WILL_RETRY_TAG) == "true"
