"""Keeps a run's journal while the run goes on."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal, Self

from cdc_assets import waits
from cdc_assets.changes.shape import TableShape
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import SlotInUseError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.progress import (
    ChunkCopied,
    SyncEvent,
    SyncFinished,
    TableFailed,
    WindowApplied,
)
from cdc_assets.replication.journal import (
    Activity,
    Failure,
    Journal,
    Run,
    RunState,
    SlotRecord,
    TableRecord,
    digest,
    is_alive_here,
    now,
    read_journal,
    write_journal,
)
from cdc_assets.replication.session import Session

WRITE_SECONDS = 1.0


class Recorder:
    """Writes down what one run does; a failure to write is a note on the run and nothing else.

    Nothing is written before the run has the pipeline's lock: the journal is of one run at a time.

    Args:
        config: The pipeline.
        tables: The tables that the run was asked for; None for all.
    """

    def __init__(self, config: PipelineConfig, tables: Collection[TableName] | None) -> None:
        self._config = config
        self._before: Journal | None = None
        self._run = Run(
            state="running",
            started_at=now(),
            heard_at=now(),
            pid=os.getpid(),
            host=socket.gethostname(),
            tables=tuple(sorted(map(str, tables or ()))),
        )
        self._is_locked = False
        self._session: Session | None = None
        self._slot: SlotRecord | None = None
        self._tables: dict[str, TableRecord] = {}
        self._digests: dict[TableName, tuple[TableShape, str]] = {}
        self._target: tuple[LSN, datetime] | None = None
        self._written_at = 0.0
        self._trouble = ""
        self._lock = threading.RLock()  # a wait is said from whichever thread waits

    @contextmanager
    def keeping(self) -> Iterator[Self]:
        """Inside the block a run goes on; its end is written down, however it ends."""
        with waits.listening(self._waits, self._goes_on_after_all):
            try:
                yield self
            except Exception as error:
                self._end("failed", error)
                raise
            except BaseException:  # Ctrl-C, a cancelled run in Dagster, nobody who listens on
                self._end("stopped")
                raise

    def locked(self, backend_pid: int) -> None:
        """The run has the pipeline's lock, and opens the warehouse."""
        if not self._is_locked:
            self._takes_over(read_journal(self._config))
        self._is_locked = True
        self._set(backend_pid=backend_pid)
        self._does("opening")

    def _takes_over(self, before: Journal | None) -> None:
        self._before = before
        if before is not None:
            self._slot, self._tables = before.slot, dict(before.tables)

    def opened(self, session: Session) -> None:
        """Both ends are open and fit together."""
        self._session = session
        self._write()

    def copies(self, table: TableName, rows_expected: int | None) -> None:
        """A table's copy begins, or goes on."""
        self._does("copying", table=str(table), chunk=1, rows_expected=rows_expected)

    def aims(self, target: LSN, at: datetime | None) -> None:
        """The run is to come to `target`, where the source's WAL ended at the time `at`, if it did.

        What was committed before is at or before the target then.
        """
        self._target = None if at is None else (target, at)

    def applies(self, start: LSN, target: LSN) -> None:
        """The stream is applied from here to there."""
        total = max(0, target - start)
        self._does(
            "applying",
            start_lsn=start,
            target_lsn=target,
            total_bytes=total,
            remaining_bytes=total,
        )

    def told(self, event: SyncEvent) -> SyncEvent:
        """Write down an event, and give it back for whoever shows the run."""
        match event:
            case ChunkCopied():
                self._chunk(event)
            case WindowApplied():
                self._window(event)
            case TableFailed():
                failed = {*self._run.failed_tables, str(event.table)}
                self._set(failed_tables=tuple(sorted(failed)))
            case SyncFinished():
                return self._finished(event)
        if time.monotonic() - self._written_at >= WRITE_SECONDS:
            self._write()
        return event

    def _chunk(self, chunk: ChunkCopied) -> None:
        activity = self._run.activity
        rows = chunk.rows + (activity.rows_copied if activity else 0)
        self._set(rows_copied=self._run.rows_copied + chunk.rows)
        self._goes_on(chunk=chunk.chunk + 1, rows_copied=rows, rate=self._rate(rows))

    def _window(self, window: WindowApplied) -> None:
        self._set(windows=self._run.windows + 1, changes=self._run.changes + window.changes)
        left, activity = window.remaining_bytes, self._run.activity
        done = max(0, ((activity and activity.total_bytes) or left) - left)
        self._goes_on(start_lsn=window.end_lsn, remaining_bytes=left, rate=self._rate(done))

    def _rate(self, done: int) -> float | None:
        activity = self._run.activity
        seconds = (now() - activity.since).total_seconds() if activity else 0
        return round(done / seconds, 1) if seconds > 0 else None

    def _finished(self, event: SyncFinished) -> SyncFinished:
        """Write down the end, while the run still has the lock: whoever looks sees one or both."""
        self._keep_tables()
        for result in event.tables:
            record = self._tables.get(str(result.table))
            if record is not None and result.phase == "streaming":
                self._tables[str(result.table)] = record.model_copy(
                    update={"rows": result.row_count, **self._completed(result.confirmed_lsn)}
                )
        self._keep_slot(event)
        self._set(failed_tables=tuple(str(table.table) for table in event.failed))
        self._set(notes=event.notes)
        self._end("ok")
        return replace(event, notes=(*event.notes, self._trouble)) if self._trouble else event

    def _completed(self, lsn: LSN) -> dict[str, datetime]:
        if self._target is None or lsn < self._target[0]:
            return {}
        return {"complete_at": self._target[1]}

    def _keep_slot(self, event: SyncFinished) -> None:
        before = self._slot.stalled_since if self._slot else None
        # A run that was to stop early proves nothing
        stalls = bool(before) if self._target is None else event.confirmed_lsn < self._target[0]
        held_by = [
            name
            for name, table in self._tables.items()
            if stalls and table.lsn is not None and table.lsn <= event.confirmed_lsn
        ]
        self._slot = SlotRecord(
            confirmed_lsn=event.confirmed_lsn,
            end_lsn=LSN(event.confirmed_lsn + event.lag_bytes),
            read_at=now(),
            stalled_since=(before or self._run.started_at) if stalls else None,
            held_by=tuple(held_by),
        )

    def _keep_tables(self) -> None:
        """Take over where the tables are from the session, which has what is durable."""
        session = self._session
        if session is None:
            return
        self._tables = {
            str(table): self._record(session, table) for table in session.config.table_names
        }

    def _record(self, session: Session, table: TableName) -> TableRecord:
        checkpoint, before = session.checkpoints.get(table), self._tables.get(str(table))
        error = session.failed.get(table)
        if checkpoint is None:
            return TableRecord(phase="missing", error=Failure.of(error) if error else None)
        failure = Failure.of(error) if error else before.error if before else None
        return TableRecord(
            phase=checkpoint.phase,
            lsn=checkpoint.lsn,
            rows=before.rows if before else None,
            complete_at=before.complete_at if before else None,
            oid=checkpoint.shape.oid,
            shape=self._digest(table, checkpoint.shape),
            error=failure if error or checkpoint.error else None,
        )

    def _digest(self, table: TableName, shape: TableShape) -> str:
        known = self._digests.get(table)
        if known is None or known[0] is not shape:
            known = self._digests[table] = (shape, digest(shape))
        return known[1]

    def _waits(self, what: str) -> None:
        self._goes_on(waits_for=what, waits_since=now())
        self._write()

    def _goes_on_after_all(self) -> None:
        self._goes_on()
        self._write()

    def _does(self, what: Literal["opening", "copying", "applying"], **more: Any) -> None:
        self._set(activity=Activity(what=what, since=now(), **more))
        self._write()

    def _goes_on(self, **changed: Any) -> None:
        if self._run.activity is not None:
            quiet = {"waits_for": "", "waits_since": None}
            self._set(activity=self._run.activity.model_copy(update={**quiet, **changed}))

    def _set(self, **changed: Any) -> None:
        with self._lock:
            self._run = self._run.model_copy(update=changed)

    def _end(self, state: RunState, error: BaseException | None = None) -> None:
        if state == "stopped" and self._run.state != "running":
            return  # whoever listened has heard the end, and did not listen on
        if not self._is_locked:
            before = read_journal(self._config)
            if not _may_tell(before, error):
                return
            self._takes_over(before)
        failure = None if error is None else Failure.of(error)
        self._set(state=state, ended_at=now(), activity=None, error=failure)
        self._write()

    def _write(self) -> None:
        with self._lock:
            self._write_now()

    def _write_now(self) -> None:
        if self._trouble:
            return
        self._written_at = time.monotonic()
        self._keep_tables()
        self._set(heard_at=now())
        self._trouble = write_journal(
            self._config,
            Journal(
                pipeline=self._config.name,
                run=self._run,
                last=self._before.ended if self._before else None,
                slot=self._slot,
                tables=self._tables,
            ),
        )


def _may_tell(before: Journal | None, error: BaseException | None) -> bool:
    """Whether a run that did not get the lock may say why: not while another one writes."""
    if error is None or isinstance(error, SlotInUseError):
        return False
    return before is None or before.run.state != "running" or is_alive_here(before.run) is False
