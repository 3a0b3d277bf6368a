"""Copies of tables, chunk by chunk, while the source and the stream go on.

A chunk is a range of places in the table's file. It goes into a stage beside the mirror, and from
then on the stage gets every change that the stream brings. Progress is safe because a chunk's rows,
its fence and the place it reached commit together: a crash loses the chunk that was being read.

Why nothing is missed: a row that nobody has written since the baseline lies in one place, and is
read with it. One that was written since is on the stream, and a chunk that has read it already
keeps out what its snapshot saw (`applying`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from cdc_assets.changes.fence import ChunkFence, Snapshot
from cdc_assets.changes.shape import TableShape
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName
from cdc_assets.progress import ChunkCopied
from cdc_assets.replication.beginning import put_up
from cdc_assets.replication.chunk_rows import altered_while_copied, shaped
from cdc_assets.replication.session import Session
from cdc_assets.source.ahead import read_ahead
from cdc_assets.source.buckets import in_bucket
from cdc_assets.source.catalog import SourceTable
from cdc_assets.source.slot import wait_until_flushed
from cdc_assets.source.snapshot import PLACES, Chunk, SnapshotReader
from cdc_assets.source.standby import require_standbys
from cdc_assets.steps import reached
from cdc_assets.warehouse.values import Copy

# A chunk is one warehouse transaction, and what a crash repeats. DuckDB writes what fills a row
# group at once, and what is left again when its log is written: few and large chunks cost less.
CHUNK_ROWS = 1_000_000
CHUNK_BYTES = 512 * 1024 * 1024
CHUNK_SECONDS = 5.0
# How long chunks are read until the stream is applied again: other tables wait for one at most
TURN_SECONDS = CHUNK_SECONDS
_FIRST_PLACES = 16 * PLACES
_GROWTH = 16
# A chunk has no more places per row that is wanted: behind an empty stretch may lie a full one,
# where every seventh place has a row
_SPARSE = 7 * 8
_GAP_ROWS = 10_000
_RESTARTS = 3
WHERE = "where"


class Copying:
    """Reads the chunks of one copy.

    Args:
        session: The run's; it is asked anew for the copy at every step.
        reader: For this copy alone while it is read.
        table: Which copy,
        part: and of which part of the table.
        rows_per_second: How fast the source is read at the most.
    """

    def __init__(
        self,
        session: Session,
        reader: SnapshotReader,
        table: TableName,
        *,
        part: str = "",
        rows_per_second: int | None = None,
    ) -> None:
        self._session, self._reader, self._rate = session, reader, rows_per_second
        self._table, self._part = table, part
        self._places, self._number, self._restarts = min(_FIRST_PLACES, CHUNK_ROWS), 0, 0
        self.rests_until = 0.0  # of the monotonic clock

    @property
    def copy(self) -> Copy:
        """The copy as it is durable."""
        return self._session.copies[self._table, self._part]

    def chunks(self, seconds: float) -> Iterator[ChunkCopied]:
        """Read chunks for so long, or until it is time to rest; an event per durable chunk.

        Raises:
            TableError: This table can't be copied.
            CdcError: The source or the warehouse refuses.
        """
        ends = time.monotonic() + seconds
        while not self.copy.is_read and self.rests_until <= time.monotonic():
            started = time.monotonic()
            before = self.copy.rows
            chunk = self._copy_chunk()
            if chunk is None:
                continue
            reached("chunk_committed")
            took = time.monotonic() - started
            self._number += 1
            self._adapt(chunk, took)
            yield ChunkCopied(self._table, self._number, self.copy.rows - before, took)
            if time.monotonic() >= ends:
                return

    def rest(self) -> None:
        """Wait as long as the source is to be spared."""
        time.sleep(max(0.0, self.rests_until - time.monotonic()))

    def _adapt(self, chunk: Chunk, seconds: float) -> None:
        """Choose how many places the next chunk has."""
        most_rows = min(CHUNK_ROWS, self._rate or CHUNK_ROWS)
        factor = min(
            float(_GROWTH),
            most_rows / max(1, chunk.rows),
            CHUNK_BYTES / max(1, chunk.nbytes),
            CHUNK_SECONDS / max(seconds, 0.001),
        )
        most_places = most_rows * _SPARSE
        self._places = max(1, min(most_places, int(self._places * factor)))
        if self._rate:
            self.rests_until = time.monotonic() + max(0.0, chunk.rows / self._rate - seconds)

    def _copy_chunk(self) -> Chunk | None:
        """Copy one chunk; None where the table's rows lie in other files, and it starts over."""
        session, copy = self._session, self.copy
        shape, source = session.checkpoints[copy.table].shape, session.source_table(copy.table)
        places = range(copy.next_place, min(copy.next_place + self._places, copy.end_place))
        with session.warehouse.transaction(), self._read(places) as chunk:
            reached("chunk_read")
            if chunk.files == copy.files:
                self._put(copy, chunk)
                copy = replace(
                    copy,
                    next_place=places.stop,
                    rows=copy.rows + chunk.rows,
                    nbytes=copy.nbytes + chunk.nbytes,
                )
                session.copy_state.write(copy)
            if copy.is_read:  # behind the last chunk's snapshot: a later alteration is seen
                refuse_altered(session, self._table, shape)
            reached("chunk_staged")
        if chunk.files != copy.files:
            self._start_over(source)
            return None
        session.copies[copy.table, copy.part] = copy
        session.chunk_fences[copy.table, copy.part].append(
            ChunkFence(Snapshot.parse(chunk.snapshot), chunk.lsn)
        )
        return chunk

    @contextmanager
    def _read(self, places: range) -> Iterator[Chunk]:
        session, copy = self._session, self.copy
        shape = session.checkpoints[copy.table].shape
        source, condition = session.source_table(copy.table), _chosen(copy, shape)
        try:
            with self._reader.read_places(source, shape, places, condition=condition) as chunk:
                yield chunk
        except TableError as error:
            state = getattr(error.__cause__, "sqlstate", None) or ""
            if not copy.predicate or state[:2] != "22":
                raise
            raise TableError(
                f"the predicate can't be computed for every row of table {str(copy.table)!r}"
                f" ({state})",
                table=str(copy.table),
                hint="write one that holds for any row: it is asked of all, in any order",
            ) from error

    def _put(self, copy: Copy, chunk: Chunk) -> None:
        session = self._session
        kept = session.staged_shape(copy.table)
        parts = shaped(session, chunk, copy.table)
        with closing(read_ahead(parts, give_up=self._reader.cancel)) as ahead:
            for rows in ahead:
                session.stages.put(copy.stage, kept, rows)
        wait_until_flushed(session.control, chunk.lsn)
        require_standbys(session.control, session.config.source.slot, copy.table, chunk.lsn)
        fence = ChunkFence(Snapshot.parse(chunk.snapshot), chunk.lsn)
        session.copy_state.add_fence(copy, fence)

    def _start_over(self, source: SourceTable) -> None:
        """Begin again with an empty stage: a rewrite or a vacuum has moved the rows.

        What was read can't stay: a partition that left, or was truncated, says so on no stream.
        """
        self._restarts += 1
        if self._restarts > _RESTARTS:
            raise TableError(
                f"table {str(source.name)!r} can't be copied: its rows are moved to other files "
                "again and again",
                table=str(source.name),
                hint="the next sync goes on; let VACUUM FULL, CLUSTER and TRUNCATE rest meanwhile",
            )
        session = self._session
        baseline, files, places = self._reader.survey(source)
        copy = replace(
            self.copy,
            baseline=baseline,
            files=files,
            next_place=0,
            end_place=places,
            rows=0,
            nbytes=0,
        )
        with session.warehouse.transaction():
            put_up(session, copy)

    def close_gaps(self) -> int:
        """Read the rows that a change has left without a value; how many keys there were.

        They are a chunk of their own, with a fence of its own.
        """
        session, copy = self._session, self.copy
        shape, source = session.checkpoints[copy.table].shape, session.source_table(copy.table)
        keys = session.copy_state.gaps(copy, _GAP_ROWS)
        if not keys:
            return 0
        condition = _chosen(copy, shape)
        with (
            session.warehouse.transaction(),
            self._reader.read_keys(source, shape, keys, condition=condition) as chunk,
        ):
            self._put(copy, chunk)
            session.copy_state.close_gaps(copy, keys)
        session.chunk_fences[copy.table, copy.part].append(
            ChunkFence(Snapshot.parse(chunk.snapshot), chunk.lsn)
        )
        return len(keys)


def refuse_altered(session: Session, table: TableName, shape: TableShape) -> None:
    """Refuse a table that is another one now than it was when its copy began.

    Raises:
        SchemaChangeError: It is.
    """
    found = session.read_catalog([table]).tables
    if table not in found:
        raise altered_while_copied(table, "it is not there any more")
    now = session.shaping(table).source(found[table].shape)
    if altered := shape.altered_to(now):
        raise altered_while_copied(table, altered)


def _chosen(copy: Copy, shape: TableShape) -> str:
    """Write which rows of the source are the copy's part."""
    return in_bucket(shape, copy.bucket) if copy.bucket else copy.predicate
