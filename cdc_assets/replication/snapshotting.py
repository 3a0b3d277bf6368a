"""The copy of a table without a mirror: all of its rows in one snapshot, and every change after it.

Nothing tells two equal rows apart, so chunks of different snapshots could not be made to agree with
the stream row by row, as `copying` does it. So all rows are read in one REPEATABLE READ
transaction, whose snapshot S splits the stream: what S shows is in the rows, everything else
follows them. They go into a change table in the making, which gets the stream's changes from S on,
so neither the slot nor other tables wait for the copy. S lives as long as its session; a copy that
is stopped before the last row starts over.

The rows stand at the LSN up to which the table was drained before S was taken. What ends at or
before it is shown, for no window has a transaction that is not, so S shows it too; what S does not
show ends past it. So rows stand before all changes that follow them.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Self

import pyarrow as pa

from cdc_assets.changes.fence import ChunkFence, Snapshot
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.progress import ChunkCopied
from cdc_assets.replication import copying
from cdc_assets.replication.beginning import put_up
from cdc_assets.replication.chunk_rows import shaped
from cdc_assets.replication.copying import refuse_altered
from cdc_assets.replication.session import Session
from cdc_assets.source.ahead import read_ahead
from cdc_assets.source.slot import wait_until_flushed
from cdc_assets.source.snapshot import Chunk, SnapshotReader
from cdc_assets.source.standby import require_standbys
from cdc_assets.steps import reached
from cdc_assets.warehouse.values import Copy


class Snapshotting:
    """Reads the one snapshot of a copy, part by part; `close` ends it.

    It outlives a session, so that a backfill may let the pipeline go meanwhile.

    Args:
        session: The run's.
        reader: For this copy alone until `close`.
        table: Which.
        rows_per_second: How fast the source is read at the most.
    """

    def __init__(
        self,
        session: Session,
        reader: SnapshotReader,
        table: TableName,
        *,
        rows_per_second: int | None = None,
    ) -> None:
        self._session, self._reader, self._rate = session, reader, rows_per_second
        self._table, self._number, self._open = table, 0, ExitStack()
        self._chunk: Chunk | None = None
        self._parts: Generator[pa.Table] | None = None
        self._lsn = LSN(0)
        self.rests_until = 0.0  # of the monotonic clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the snapshot."""
        self._parts = None
        self._open.close()

    @property
    def copy(self) -> Copy:
        """The copy as it is durable."""
        return self._session.copies[self._table, ""]

    @property
    def is_open(self) -> bool:
        """Whether the snapshot is there."""
        return self._parts is not None

    def goes_on_in(self, session: Session) -> bool:
        """Go on in another session, unless somebody else has begun the copy anew meanwhile."""
        self._session = session
        copy, chunk = session.copies.get((self._table, "")), self._chunk
        return (
            copy is not None
            and chunk is not None
            and copy.baseline == Snapshot.parse(chunk.snapshot)
            and (copy.is_read or self._parts is not None)
        )

    def chunks(self, seconds: float) -> Iterator[ChunkCopied]:
        """Read parts for so long, or until it is time to rest; an event per durable part.

        Raises:
            TableError: This table can't be copied.
            CdcError: The source or the warehouse refuses.
        """
        ends = time.monotonic() + seconds
        while not self.copy.is_read and self.rests_until <= time.monotonic():
            started, before = time.monotonic(), self.copy.rows
            if self._parts is None:
                self._begin()
            self._copy_part()
            reached("chunk_committed")
            took, rows = time.monotonic() - started, self.copy.rows - before
            self._number += 1
            if self._rate:
                self.rests_until = time.monotonic() + max(0.0, rows / self._rate - took)
            yield ChunkCopied(self._table, self._number, rows, took)
            if time.monotonic() >= ends:
                return

    def rest(self) -> None:
        """Wait as long as the source is to be spared."""
        time.sleep(max(0.0, self.rests_until - time.monotonic()))

    def close_gaps(self) -> int:
        """Read what changes have left without a value: nothing, as there is no row to complete."""
        return 0

    def _begin(self) -> None:
        """Take the snapshot, and begin with an empty change table."""
        session, table = self._session, self._table
        checkpoint = session.checkpoints[table]
        read = self._reader.read_all(session.source_table(table), checkpoint.shape)
        self._chunk = chunk = self._open.enter_context(read)
        fence = ChunkFence(Snapshot.parse(chunk.snapshot), chunk.lsn)
        copy = replace(
            self.copy, baseline=fence.snapshot, next_place=0, end_place=1, rows=0, nbytes=0
        )
        with session.warehouse.transaction():
            put_up(session, copy)
            session.copy_state.add_fence(copy, fence)
        session.chunk_fences[table, ""].append(fence)
        self._lsn = checkpoint.lsn
        parts = read_ahead(shaped(session, chunk, table), give_up=self._reader.cancel)
        self._parts = self._open.enter_context(closing(parts))

    def _copy_part(self) -> None:
        try:
            with self._reader.refusals(self._table):
                self._put_part()
        except BaseException:
            self.close()  # rows were taken from it that are nowhere now
            raise

    def _put_part(self) -> None:
        session, copy = self._session, self.copy
        kept, rows = session.kept_shape(self._table), 0
        ends = time.monotonic() + copying.CHUNK_SECONDS
        with session.warehouse.transaction():
            reached("chunk_read")
            nbytes, is_last = 0, True
            for part in self._next_parts():
                session.change_tables.append_snapshot(copy.stage, kept, part, self._lsn)
                rows, nbytes = rows + part.num_rows, nbytes + part.nbytes
                if self._is_enough(rows, nbytes) or time.monotonic() >= ends:
                    is_last = False
                    break
            copy = replace(
                copy,
                next_place=int(is_last),
                rows=copy.rows + rows,
                nbytes=copy.nbytes + nbytes,
            )
            session.copy_state.write(copy)
            if is_last:
                self._end()
            reached("chunk_staged")
        session.copies[self._table, ""] = copy
        if is_last:
            self.close()

    def _next_parts(self) -> Iterator[pa.Table]:
        """Give parts without ending the read when one is the last for now."""
        while self._parts is not None and (part := next(self._parts, None)) is not None:
            yield part

    def _is_enough(self, rows: int, nbytes: int) -> bool:
        most = min(copying.CHUNK_ROWS, self._rate or copying.CHUNK_ROWS)
        return rows >= most or nbytes >= copying.CHUNK_BYTES

    def _end(self) -> None:
        """Make sure of what was read: it is flushed, and of the table that it began with."""
        session, chunk = self._session, self._chunk
        if chunk is None:
            raise TableError("the copy was not begun", table=str(self._table))
        wait_until_flushed(session.control, chunk.lsn)
        require_standbys(session.control, session.config.source.slot, self._table, chunk.lsn)
        refuse_altered(session, self._table, session.checkpoints[self._table].shape)
