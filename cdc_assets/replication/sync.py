"""One bounded run: bring the warehouse to the moment at which the run started.

```
open both ends, lock, cross-check        opening.py
drain the slot to the run's start        catching_up.py window by window, each one transaction
copy tables that are not there yet       copying.py     chunk by chunk, each with a fence;
                                                        every few seconds the slot is drained
```
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from functools import partial

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import TableError, ValueConversionError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.progress import RunMark, SchemaChanged, SyncEvent, SyncFinished, TableFailed
from cdc_assets.replication.allocator import return_freed_memory
from cdc_assets.replication.beginning import begin_anew
from cdc_assets.replication.begun import drop_stale_copies
from cdc_assets.replication.catching_up import ROUNDS, CatchingUp
from cdc_assets.replication.copying import TURN_SECONDS, Copying
from cdc_assets.replication.opening import in_sessions
from cdc_assets.replication.placing import is_settled, put_in_place
from cdc_assets.replication.publishing import publish_copy
from cdc_assets.replication.recorder import Recorder
from cdc_assets.replication.recording import begin_wanted, note_reached
from cdc_assets.replication.results import phase_of
from cdc_assets.replication.session import Session
from cdc_assets.replication.snapshotting import Snapshotting
from cdc_assets.source.catalog import row_estimate
from cdc_assets.source.clock import read_clock
from cdc_assets.source.slot import current_end
from cdc_assets.source.snapshot import SnapshotReader
from cdc_assets.source.standby import lacking_standby, lagging_standby_error

# A copy that nobody got on with for so long is nobody's
_LEFT_SECONDS = 60.0

_Copies = dict[TableName, Copying | Snapshotting]


def sync(
    config: PipelineConfig,
    *,
    tables: Collection[TableName] | None = None,
    until_lsn: LSN | None = None,
    copy_seconds: float = math.inf,
    run: RunMark | None = None,
) -> Generator[SyncEvent]:
    """Apply everything that committed before this call, or up to `until_lsn` if that is earlier.

    Every event is given out after what it says is durable. A table that fails is left behind at its
    checkpoint and named in the last event; the others go on.

    Args:
        config: The pipeline.
        tables: Its tables to bring on; all by default.
        until_lsn: Windows end at the first commit at or past it. Tables that are being copied go on
            to where their copy agrees with the stream.
        copy_seconds: How long chunks of copies are read at the most; the next run goes on.
        run: What is noted of who writes; by default a sync that nobody else has a name for.

    Yields:
        An event per chunk, window and failed table, and `SyncFinished` at the end.

    Raises:
        CdcError: Nothing can be replicated, or both ends can't be used any more; what was given out
            stays durable.
    """
    return_freed_memory()
    with Recorder(config, tables).keeping() as recorder:
        asked = frozenset(tables or config.table_names)
        stream = CatchingUp(asked, config.links.together(asked), until_lsn, recorder)
        work = _Run(stream, recorder, copy_seconds, to_the_end=until_lsn is None)
        run = run or RunMark("sync")
        with closing(in_sessions(config, work.events, run=run, locked=recorder.locked)) as events:
            for event in events:
                yield recorder.told(event)


class _Run:
    """One run; it goes on in another session where the first one's warehouse lacked memory."""

    _session: Session

    def __init__(
        self, stream: CatchingUp, recorder: Recorder, copy_seconds: float, *, to_the_end: bool
    ) -> None:
        self._stream, self._recorder = stream, recorder
        self._copy_seconds, self._to_the_end = copy_seconds, to_the_end
        self._started = time.monotonic()

    def events(self, session: Session) -> Iterator[SyncEvent]:
        self._recorder.opened(session)
        self._session = session
        clock = read_clock(session.control)
        yield from self._stream.begin(session)
        drop_stale_copies(session)
        begin_wanted(session)
        is_past = clock.is_past(session.control)  # and so before the run's target
        yield from self._stream.catch_up()
        yield from self._copy()
        while self._widens():
            yield from self._copy()
        begin_wanted(session)  # what had to wait for the stream
        if is_past and self._to_the_end:
            note_reached(session, self._stream.target, clock.micros)
        yield self._finished()

    def _to_copy(self) -> list[TableName]:
        """Find the tables whose copy this run begins, or goes on with."""
        session = self._session
        left = session.copy_state.abandoned(_LEFT_SECONDS)
        found = []
        for table in session.config.table_names:
            if table not in self._stream.asked or table in session.failed:
                continue
            copy = session.copies.get((table, ""))
            if table in self._stream.mended:
                is_ours = True
            elif table not in session.checkpoints:
                is_ours = session.config.table(table).backfill.first == "sync"
            else:
                is_ours = copy is None or copy.made_by == "sync" or (table, "") in left
                is_ours &= session.is_copied_anew(table)
            if is_ours:
                found.append(table)
        return found

    def _widens(self) -> bool:
        """Whether a copy has met a value that does not fit, and begins anew with text for it."""
        going_on = self._stream.asked - self._session.failed.keys()
        return any(
            isinstance(error, ValueConversionError) and table in going_on
            for table, error in self._stream.mended.items()
        )

    def _copy(self) -> Iterator[SyncEvent]:
        session, tables = self._session, self._to_copy()
        if not tables:
            return
        slot = session.config.source.slot
        lacking = lacking_standby(session.control, slot, current_end(session.control))
        if lacking:  # else each table would wait by itself
            for table in tables:
                yield from self._stream.fail(table, lagging_standby_error(table, lacking))
            return
        with SnapshotReader(conninfo=session.conninfo, slot=slot) as reader:
            copies: _Copies = {}
            for table in tables:
                yield from self._read(reader, table, copies)
            for last in range(ROUNDS):
                yield from self._stream.catch_up()
                # a source where such rows go on coming would keep a copy from its place for ever
                yield from self._place(copies, with_gaps=last == ROUNDS - 1)
                if not copies:
                    return
                for table, copying in list(copies.items()):
                    yield from self._guarded(table, copies, copying.close_gaps)
        for table in copies:
            self._stream.note(
                f"the copy of {str(table)!r} is not in its place yet: the next run goes on"
            )

    def _read(
        self,
        reader: SnapshotReader,
        table: TableName,
        copies: _Copies,
    ) -> Iterator[SyncEvent]:
        """Read a table's chunks to the last, or until this run's time is over."""
        session = self._session
        self._recorder.copies(
            table, row_estimate(session.control, session.source_table(table).shape.oid)
        )
        try:
            yield from self._begin(reader, table)
            rate = session.config.table(table).backfill.max_rows_per_second
            if not session.is_mirrored(table):
                with Snapshotting(session, reader, table, rows_per_second=rate) as whole:
                    copies[table] = whole
                    yield from self._read_at_once(whole)
                return
            copying = copies[table] = Copying(session, reader, table, rows_per_second=rate)
            while not copying.copy.is_read and self._copy_seconds > 0:
                started = time.monotonic()
                for event in copying.chunks(min(TURN_SECONDS, self._copy_seconds)):
                    self._stream.tally.copied[table] += event.rows
                    yield event
                copying.rest()
                self._copy_seconds -= time.monotonic() - started
                if not copying.copy.is_read:
                    yield from self._stream.catch_up()
                    if self._is_left(table):
                        del copies[table]
                        return
        except TableError as error:
            copies.pop(table, None)
            yield from self._stream.fail(table, error)

    def _begin(self, reader: SnapshotReader, table: TableName) -> Iterator[SchemaChanged]:
        """Begin a table's copy, unless there is one to go on with."""
        session, altered = self._session, self._stream.mended.pop(table, None)
        if altered is not None or (table, "") not in session.copies:
            yield from begin_anew(session, reader, table, "sync", because=altered)

    def _read_at_once(self, copying: Snapshotting) -> Iterator[SyncEvent]:
        """Read a table in one snapshot, however long that takes: another run would start over."""
        table = copying.copy.table
        if not copying.copy.is_read:
            yield from self._stream.catch_up()  # the rows stand where that has come to
        while not self._is_left(table) and not copying.copy.is_read:
            for event in copying.chunks(TURN_SECONDS):
                self._stream.tally.copied[table] += event.rows
                yield event
            copying.rest()
            if not copying.copy.is_read:
                yield from self._stream.catch_up()

    def _place(self, copies: _Copies, *, with_gaps: bool) -> Iterator[SyncEvent]:
        """Put in place what is as of its table's checkpoint."""
        for table in self._session.config.links.partners_first(copies):
            copying = copies[table]
            if self._is_left(table):
                del copies[table]
            elif is_settled(self._session, copying.copy, with_gaps=with_gaps):
                place = partial(put_in_place, self._session, copying.copy)
                yield from self._guarded(table, copies, place)
                copies.pop(table, None)

    def _is_left(self, table: TableName) -> bool:
        """Whether this run does not go on with a table, or with its copy as it was begun."""
        is_dropped = (table, "") not in self._session.copies
        return is_dropped or table in self._session.failed or table in self._stream.mended

    def _guarded(
        self,
        table: TableName,
        copies: _Copies,
        step: Callable[[], object],
    ) -> Iterator[TableFailed]:
        try:
            step()
        except TableError as error:
            copies.pop(table, None)
            yield from self._stream.fail(table, error)

    def _finished(self) -> SyncFinished:
        session = self._session
        end = current_end(session.control)
        confirmed = session.confirm()
        asked = [table for table in session.config.table_names if table in self._stream.asked]
        for table in asked:
            if phase_of(session, table) == "waiting":
                self._stream.note(
                    f"table {str(table)!r} waits for its backfill: cdc-assets backfill {table}"
                )
        for table, error in sorted(self._stream.mended.items()):
            self._stream.note(f"{error.message}: the next run copies {str(table)!r} anew")
        published, problem = publish_copy(session.config, session.warehouse)
        if problem:
            self._stream.note(problem)
        return SyncFinished(
            pipeline=session.config.name,
            start_lsn=self._stream.tally.slot_start,
            confirmed_lsn=confirmed,
            target_lsn=self._stream.target,
            lag_bytes=max(0, end - confirmed),
            windows=self._stream.windows,
            seconds=time.monotonic() - self._started,
            tables=self._stream.tally.results(session, asked, end),
            notes=tuple(self._stream.notes),
            published=published,
        )
