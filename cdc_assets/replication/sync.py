"""One bounded run: bring the warehouse to the moment at which the run started.

```
open both ends, lock, cross-check        session.py
copy tables that are not there yet       copying.py     chunk by chunk, each with a fence
drain the slot to the run's start        draining.py    window by window, each one transaction
```

Healthy tables are drained together. A table that an earlier run left behind is tried after them, by
itself: its old checkpoint would make the others read everything again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime

from cdc_assets.changes.shape import TableShape
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError, ReplicationError, TableError, WarehouseMemoryError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.progress import (
    ChangeCounts,
    Column,
    SyncEvent,
    SyncFinished,
    TableFailed,
    TableResult,
)
from cdc_assets.replication.allocator import return_freed_memory
from cdc_assets.replication.alterations import find_altered
from cdc_assets.replication.applying import AppliedTable
from cdc_assets.replication.copying import copy_table
from cdc_assets.replication.draining import Drain, standing_fences
from cdc_assets.replication.opening import open_session
from cdc_assets.replication.publishing import publish_copy
from cdc_assets.replication.recorder import Recorder
from cdc_assets.replication.session import Session
from cdc_assets.source.catalog import row_estimate
from cdc_assets.source.descriptions import Description, read_descriptions
from cdc_assets.source.slot import current_end
from cdc_assets.source.snapshot import SnapshotReader
from cdc_assets.source.standby import lacking_standby, lagging_standby_error
from cdc_assets.warehouse.duckdb import column_type

# To the run's target, and to where the rows stand that were read anew on the way there
_ROUNDS = 2


def sync(
    config: PipelineConfig,
    *,
    tables: Collection[TableName] | None = None,
    until_lsn: LSN | None = None,
) -> Generator[SyncEvent]:
    """Apply everything that committed before this call, or up to `until_lsn` if that is earlier.

    Every event is given out after what it says is durable. A table that fails is left behind at its
    checkpoint and named in the last event; the others go on.

    Args:
        config: The pipeline.
        tables: Its tables to bring on; all by default.
        until_lsn: Windows end at the first commit at or past it. Tables that are being copied go on
            to where their copy agrees with the stream.

    Yields:
        An event per chunk, window and failed table, and `SyncFinished` at the end.

    Raises:
        CdcError: Nothing can be replicated, or both ends can't be used any more; what was given out
            stays durable.
    """
    return_freed_memory()
    with Recorder(config, tables).keeping() as recorder:
        run = _Run(frozenset(tables or config.table_names), until_lsn, recorder)
        with closing(_events(config, run, recorder)) as events:
            for event in events:
                yield recorder.told(event)


def _events(
    config: PipelineConfig, run: _Run, recorder: Recorder
) -> Generator[SyncEvent, None, None]:
    memory_bytes: int | None = None
    while True:
        try:
            with open_session(config, memory_bytes=memory_bytes, locked=recorder.locked) as session:
                recorder.opened(session)
                yield from run.events(session)
        except WarehouseMemoryError as error:
            if error.next_bytes is None:
                raise
            memory_bytes = error.next_bytes
        except MemoryError as error:
            raise ReplicationError(
                "the machine that runs the sync has no memory left for it",
                hint="nothing is lost: give it more, or run less beside it; long values take most, "
                "and a column list of the publication leaves them out",
            ) from error
        else:
            return


class _Run:
    """One run; it goes on in another session where the first one's warehouse lacked memory."""

    _session: Session
    _slot_start: LSN
    _starts: dict[TableName, LSN]
    _target: LSN

    def __init__(
        self, tables: frozenset[TableName], until_lsn: LSN | None, recorder: Recorder
    ) -> None:
        self._tables, self._until_lsn, self._recorder = tables, until_lsn, recorder
        self._started = time.monotonic()
        self._sessions = 0
        self._windows = 0
        self._copied: dict[TableName, int] = {}
        self._applied: dict[TableName, AppliedTable] = {}
        self._notes: list[str] = []

    def events(self, session: Session) -> Iterator[SyncEvent]:
        self._session, self._sessions = session, self._sessions + 1
        if self._sessions == 1:
            self._slot_start = session.slot.confirmed_lsn
            self._starts = {table: point.lsn for table, point in session.checkpoints.items()}
        for table in session.config.table_names:
            if table in self._tables and table in session.failed:
                yield self._fail(table, session.failed[table])
        yield from self._copy()
        now = datetime.now(UTC)
        end = current_end(session.control)
        self._target = min(end, self._until_lsn) if self._until_lsn else end
        self._recorder.aims(self._target, now if self._target == end else None)
        yield from self._refuse_altered(self._alive())
        alive = self._alive()
        left_behind = frozenset(table for table in alive if session.checkpoints[table].error)
        for group in (alive - left_behind, *(frozenset({table}) for table in sorted(left_behind))):
            yield from self._drain(group)
        yield self._finished()

    def _alive(self) -> frozenset[TableName]:
        session = self._session
        return frozenset(
            table
            for table in self._tables
            if table not in session.failed and table in session.checkpoints
        )

    def _copy(self) -> Iterator[SyncEvent]:
        session = self._session
        missing = [
            table
            for table in session.config.table_names
            if table in self._tables - session.failed.keys()
            and (table not in session.checkpoints or session.checkpoints[table].phase == "copying")
        ]
        if not missing:
            return
        slot = session.config.source.slot
        lacking = lacking_standby(session.control, slot, current_end(session.control))
        if lacking:  # else each table would wait by itself
            for table in missing:
                yield self._fail(table, lagging_standby_error(table, lacking))
            return
        with SnapshotReader(conninfo=session.conninfo, slot=slot) as reader:
            for table in missing:
                yield from self._copy_table(reader, table)

    def _copy_table(self, reader: SnapshotReader, table: TableName) -> Iterator[SyncEvent]:
        session = self._session
        self._recorder.copies(
            table, row_estimate(session.control, session.source_table(table).shape.oid)
        )
        try:
            for event in copy_table(session, reader, table):
                self._copied[table] = self._copied.get(table, 0) + event.rows
                yield event
        except TableError as error:
            yield self._fail(table, error)

    def _fail(self, table: TableName, error: CdcError) -> TableFailed:
        self._session.fail(table, error)
        return TableFailed(table, error)

    def _drain(self, group: frozenset[TableName]) -> Iterator[SyncEvent]:
        """Drain to the target, and once more those tables that were read ahead of it.

        Once, whatever is written meanwhile: rows that this second round reads anew stay ahead of
        the others, under their fences, until the next run.
        """
        session, target = self._session, self._target
        for _ in range(_ROUNDS):
            if not group:
                return
            drain = Drain(session, group, target)
            self._recorder.applies(min(session.checkpoints[table].lsn for table in group), target)
            for event in drain.run():
                self._windows += not isinstance(event, TableFailed)
                yield event
            for table, applied in drain.applied.items():
                self._applied.setdefault(table, AppliedTable()).merge(applied)
            if drain.held_by:
                self._note(f"stopped early after a wait for {drain.held_by}")
                return
            group, target = standing_fences(session, drain.tables)
            yield from self._refuse_altered(group)
            group -= session.failed.keys()
        for table in sorted(group):
            self._note(
                f"rows of {str(table)!r} that were read anew are newer than its others: "
                "the next run brings those there"
            )

    def _note(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)

    def _refuse_altered(self, tables: frozenset[TableName]) -> Iterator[TableFailed]:
        """Leave tables behind that were altered before the target, at their checkpoints."""
        for table, error in sorted(find_altered(self._session, tables).items()):
            yield self._fail(table, error)

    def _finished(self) -> SyncFinished:
        session = self._session
        end = current_end(session.control)
        confirmed = session.confirm()
        oids = [point.shape.oid for point in session.checkpoints.values()]
        said = read_descriptions(session.control, oids)
        tables = (self._result(table, end, said) for table in session.config.table_names)
        published, problem = publish_copy(session.config, session.mirrors, session.state)
        if problem:
            self._note(problem)
        return SyncFinished(
            pipeline=session.config.name,
            start_lsn=self._slot_start,
            confirmed_lsn=confirmed,
            target_lsn=self._target,
            lag_bytes=max(0, end - confirmed),
            windows=self._windows,
            seconds=time.monotonic() - self._started,
            tables=tuple(result for result in tables if result is not None),
            notes=tuple(self._notes),
            published=published,
        )

    def _result(
        self, table: TableName, end: LSN, said: Mapping[int, Description]
    ) -> TableResult | None:
        if table not in self._tables:
            return None
        session = self._session
        checkpoint = session.checkpoints.get(table)
        error = session.failed.get(table)
        lsn = checkpoint.lsn if checkpoint else LSN(0)
        applied = self._applied.get(table, AppliedTable())
        description = said.get(checkpoint.shape.oid if checkpoint else 0, Description())
        return TableResult(
            table=table,
            start_lsn=self._starts.get(table, self._slot_start),
            confirmed_lsn=lsn,
            counts=applied.counts + ChangeCounts(copied=self._copied.get(table, 0)),
            lag_bytes=max(0, end - lsn) if checkpoint else 0,
            row_count=session.mirrors.row_count(table) if checkpoint else 0,
            columns=_columns(checkpoint.shape, description) if checkpoint else (),
            warehouse_table=str(table),
            first_commit=_time(applied.first_commit_micros),
            last_commit=_time(applied.last_commit_micros),
            error=error,
            left_out=source.left_out if (source := session.catalog.tables.get(table)) else (),
            comment=description.comment,
            source_rows=description.rows,
        )


def _columns(shape: TableShape, description: Description) -> tuple[Column, ...]:
    return tuple(
        Column(
            name=column.name,
            source_type=column.type.name,
            warehouse_type=column_type(column.type.arrow),
            nullable=column.nullable,
            is_key=column.name in shape.key,
            comment=description.column_comments.get(column.attnum, ""),
        )
        for column in shape.columns
    )


def _time(micros: int | None) -> datetime | None:
    return None if micros is None else datetime.fromtimestamp(micros / 1_000_000, UTC)
