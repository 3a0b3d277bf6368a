"""The parts of one table that are copied while syncs of its pipeline go on.

The pipeline is let go between two chunks whenever a sync waits for it, so such work lasts for many
sessions. All that it knows from one to the next is in the warehouse.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import ClassVar, Literal

from cdc_assets.changes.buckets import Bucket, key_may_be_shown
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError, SchemaChangeError, TableError, ValueConversionError
from cdc_assets.identifiers import TableName
from cdc_assets.progress import BackfillEvent, BucketBackfilled, SchemaChanged
from cdc_assets.replication.alterations import find_altered
from cdc_assets.replication.beginning import begin_anew, begin_beside
from cdc_assets.replication.begun import is_begun_anew, mirror_goes_on
from cdc_assets.replication.copying import TURN_SECONDS, WHERE, Copying
from cdc_assets.replication.draining import Drain, standing_fences
from cdc_assets.replication.evolving import is_mended, way_on, widen
from cdc_assets.replication.journal import Turn, now
from cdc_assets.replication.left_records import hiding_notes
from cdc_assets.replication.noting import note_under_way, note_well
from cdc_assets.replication.partners import beside, partner_errors, require_partners
from cdc_assets.replication.placing import is_settled, put_in_place
from cdc_assets.replication.planning import planned_buckets
from cdc_assets.replication.publishing import publish_copy
from cdc_assets.replication.session import Session
from cdc_assets.replication.shaping import shaping_problems
from cdc_assets.replication.snapshotting import Snapshotting
from cdc_assets.replication.unfit import is_text_in_place
from cdc_assets.source.catalog import row_estimate
from cdc_assets.source.lock import is_waited_for
from cdc_assets.source.predicates import check_predicate
from cdc_assets.source.pushing import entry_problem
from cdc_assets.source.slot import current_end
from cdc_assets.source.snapshot import SnapshotReader
from cdc_assets.source.tables import read_problems, table_problems
from cdc_assets.warehouse.values import Copy, Differences

_ATTEMPTS = 3
_ROUNDS = 3
_MOST_ROUNDS = 20
_LOOK_SECONDS = 0.2


@dataclass(slots=True)
class Beside:
    """Parts of one table that are copied beside syncs, and what is left of them to do.

    Attributes:
        held: What outlives a session: the snapshot of a table without a mirror.
    """

    config: PipelineConfig
    table: TableName
    where: str
    parts: list[str]
    _what: ClassVar[Literal["backfill", "reconcile"]] = "backfill"
    _began: datetime = field(default_factory=now)
    _started: float = field(default_factory=time.monotonic)
    _attempts: int = 0
    _held_by: str = ""
    held: ExitStack = field(default_factory=ExitStack)
    _whole: Snapshotting | None = None
    _kept_reader: SnapshotReader | None = None

    def turn(self, session: Session) -> Iterator[BackfillEvent]:
        """Get on until all is done, or somebody waits for the pipeline."""
        self._refuse_unfit(session)
        with self._reader(session) as reader:
            while self.parts:
                is_mirrored = session.is_mirrored(self.table)
                begin = self._begin if is_mirrored else self._begin_whole
                yield from begin(session, reader)
                is_anew = session.is_copied_anew(self.table)
                part = self.parts[0] if is_mirrored and not is_anew else ""
                try:
                    is_done = yield from self._copy(session, reader, part)
                except ValueConversionError as error:
                    yield from self._widened(session, reader, error)
                    continue
                if (self.table, part) in session.copies or self.table in session.failed:
                    return  # it is another one's turn, or the whole table has to be copied
                if not is_done:
                    continue  # a column became text, which the copy had in its own type
                if is_anew and not part:
                    del self.parts[1:]  # the whole table was copied, whatever part was meant
                self.parts.pop(0)
                self._started = time.monotonic()
            publish_copy(session.config, session.warehouse)

    def _widened(
        self, session: Session, reader: SnapshotReader, error: ValueConversionError
    ) -> Sequence[SchemaChanged]:
        """Go on with a column as text that can't hold a value.

        Raises:
            ValueConversionError: The given one: it may not be, or its rows can't become so.
        """
        table = self.table
        if is_text_in_place(session, error):
            with session.warehouse.transaction():
                changes = [widen(session, error)]
        elif is_mended(session, table, error) and self._what == "backfill":
            changes = begin_anew(session, reader, table, "backfill", because=error)
        else:
            raise error
        if self._whole is not None:
            self._whole.close()
            self._whole = None
        return changes

    def _reader(self, session: Session) -> AbstractContextManager[SnapshotReader]:
        slot = session.config.source.slot
        if session.is_mirrored(self.table):
            return SnapshotReader(conninfo=session.conninfo, slot=slot)
        if self._kept_reader is None:
            reader = SnapshotReader(conninfo=session.conninfo, slot=slot)
            self._kept_reader = self.held.enter_context(reader)
        return nullcontext(self._kept_reader)

    def _begin_whole(self, session: Session, reader: SnapshotReader) -> Sequence[SchemaChanged]:
        """Begin a change table anew, unless this backfill has, or another one has read all rows."""
        table, whole = self.table, self._whole
        fits = mirror_goes_on(session, table) or is_begun_anew(session, table)
        if whole is not None and whole.goes_on_in(session) and fits:
            return ()
        if whole is not None:
            whole.close()
        kept = session.copies.get((table, ""))
        changes: Sequence[SchemaChanged] = ()
        if kept is None or not kept.is_read or not fits:
            if mirror_goes_on(session, table):
                begin_beside(session, reader, table)
            else:
                changes = begin_anew(session, reader, table, "backfill")
        session.failed.pop(table, None)
        rate = session.config.table(table).backfill.max_rows_per_second
        self._whole = self.held.enter_context(
            Snapshotting(session, reader, table, rows_per_second=rate)
        )
        return changes

    def _refuse_unfit(self, session: Session) -> None:
        """Check what a copy can't cure.

        Raises:
            CdcError: The table is not there, or not published, or can't be read or shaped.
        """
        config = session.config
        found = table_problems(session.catalog, [self.table], unmirrored=config.unmirrored)
        problem: CdcError | None = found.get(self.table)
        problem = problem or entry_problem(session.catalog, session.config, self.table)
        problem = problem or next(read_problems(session.catalog, self.table), None)
        if problem is None:
            problem = next(shaping_problems(config, session.source_table(self.table)), None)
        if problem is None and self.table not in session.checkpoints:
            problem = session.failed.get(self.table)
        if problem is not None:
            raise problem
        require_partners(session, self.table)
        if self.where:
            check_predicate(session.control, session.source_table(self.table), self.where)

    def _begin(self, session: Session, reader: SnapshotReader) -> Sequence[SchemaChanged]:
        """Begin the next part, unless it has begun, or the whole table where that has to be."""
        table = self.table
        if not mirror_goes_on(session, table) or self._has_other_types(session):
            is_begun = is_begun_anew(session, table)
            changes = () if is_begun else begin_anew(session, reader, table, "backfill")
            session.failed.pop(table, None)
            return changes
        part = self.parts[0]
        kept = session.copies.get((table, part))
        if (
            kept is None
            or kept.predicate != self.where
            or kept.bucket != self._bucket(session, part)
        ):
            begin_beside(
                session,
                reader,
                table,
                part=part,
                bucket=self._bucket(session, part),
                predicate=self.where,
            )
        return ()

    def _has_other_types(self, session: Session) -> bool:
        """Whether the whole of a mirror is to be what this version keeps in other types."""
        before, now = session.checkpoints[self.table].shape, session.source_shape(self.table)
        is_whole = self._what == "backfill" and self.parts == [""]
        return is_whole and not now.keeps_deleted and before.types != now.types

    def _bucket(self, session: Session, part: str) -> Bucket | None:
        if part in ("", WHERE):
            return None
        buckets = planned_buckets(session, self.table)
        return next(bucket for bucket in buckets if bucket.name == part)

    def _copy(
        self, session: Session, reader: SnapshotReader, part: str
    ) -> Generator[BackfillEvent, None, bool]:
        """Get on with a part until it is in its place, or somebody waits for the pipeline.

        Returns:
            Whether it is in its place.
        """
        copying: Copying | Snapshotting
        if self._whole is not None:
            copying = self._whole
            if not copying.is_open and not copying.copy.is_read:
                yield from self._catch_up(session)  # the rows stand where that has come to
                if self._is_left(session, part):
                    return False
        else:
            rate = session.config.table(self.table).backfill.max_rows_per_second
            copying = Copying(session, reader, self.table, part=part, rows_per_second=rate)
        rounds = 0
        doing = self._doing(session, part)
        while True:
            note_under_way(session, doing.model_copy(update={"rows_read": copying.copy.rows}))
            for event in copying.chunks(TURN_SECONDS):
                yield event
                if self._is_waited_for(session):
                    return False
            while time.monotonic() < copying.rests_until and not self._is_waited_for(session):
                time.sleep(_LOOK_SECONDS)
            yield from self._catch_up(session)
            if self._is_left(session, part):
                return False
            if not copying.copy.is_read:
                if self._is_waited_for(session):
                    return False
            elif is_settled(session, copying.copy, with_gaps=self._may_end(session, rounds)):
                yield from self._ended(session, copying.copy)
                return True
            else:
                rounds += 1
                if rounds > _MOST_ROUNDS:
                    raise self._never_settles(session)
                if not copying.close_gaps() and self._is_waited_for(session):
                    return False

    def _is_left(self, session: Session, part: str) -> bool:
        return self.table in session.failed or (self.table, part) not in session.copies

    def _doing(self, session: Session, part: str) -> Turn:
        oid = session.source_table(self.table).shape.oid
        return Turn(
            what=self._what,
            since=self._began,
            backend_pid=session.control.info.backend_pid,
            table=str(self.table),
            part=part,
            rows_expected=None if part else row_estimate(session.control, oid),
        )

    def _may_end(self, session: Session, rounds: int) -> bool:
        """Whether rows that still lack values may be read into the mirror itself."""
        return session.is_copied_anew(self.table) and rounds > 0

    def _never_settles(self, session: Session) -> TableError:
        """Give up the parts of a table whose changes go on lacking values, and say so."""
        with session.warehouse.transaction():
            session.drop_copies(self.table)
        why = "rows go on entering the publication without their stored-apart values"
        hint = "try again while fewer rows begin to match the publication's row filter"
        if self._held_by:
            why, hint = f"waited for {self._held_by}", "let that end, and try again"
        return TableError(
            f"table {str(self.table)!r} does not come to one moment with its copy: {why}",
            table=str(self.table),
            hint=hint,
        )

    def _is_waited_for(self, session: Session) -> bool:
        return is_waited_for(session.control, session.config.source.slot)

    def _catch_up(self, session: Session) -> Iterator[BackfillEvent]:
        """Apply the stream to this table, and to its copies.

        Raises:
            TableError: It can't go on.
        """
        group, target = beside(session, self.table), current_end(session.control)
        for _ in range(_ROUNDS):
            if not group:
                return
            altered = find_altered(session, group)
            for other in altered.keys() - {self.table}:
                session.fail(other, altered[other])
            if self.table in altered:
                self._fail(session, altered[self.table])
                if self.table in session.failed:
                    return
            for other, held_up in partner_errors(session, group - {self.table}).items():
                session.fail(other, held_up)
            require_partners(session, self.table)
            group -= session.failed.keys()
            drain = Drain(session, group, target)
            yield from drain.run()
            require_partners(session, self.table)
            if self.table in session.failed:
                self._fail(session, session.failed[self.table])
                if self.table in session.failed:
                    return
                continue
            self._held_by = drain.held_by
            group, target = standing_fences(session, drain.tables)

    def _fail(self, session: Session, error: CdcError) -> None:
        """Go on with the copy alone where it is of the whole table; else leave the table behind.

        One of which a part was copied is then copied as a whole: what the mirror lacks may lie
        outside of the part. One whose partitions were altered is copied from the beginning.

        Raises:
            TableError: A copy can't cure it, or did not.
        """
        table = self.table
        if isinstance(error, ValueConversionError) and is_mended(session, table, error):
            session.failed.pop(table, None)
            raise error
        self._attempts += 1
        session.failed.pop(table, None)
        is_altered = isinstance(error, SchemaChangeError) and error.cause != "partitioned"
        is_whole = (table, "") in session.copies and not isinstance(error, SchemaChangeError)
        stands_still = session.checkpoints[table].phase != "streaming"
        gives_up = is_altered or stands_still or self._attempts > _ATTEMPTS
        if gives_up or not is_whole:
            with session.warehouse.transaction():
                session.drop_copies(table)
            session.fail(table, error)
            if not gives_up:
                return
            raise TableError(
                error.message, table=str(table), hint=way_on(session, table, error)
            ) from error
        with session.warehouse.transaction():
            if not session.is_mirrored(table):
                session.end_records(table)
            session.pause_records(table)
            session.put(replace(session.checkpoints[table], phase="copying", error=""))

    def _ended(self, session: Session, copy: Copy) -> Iterator[BackfillEvent]:
        """End a part whose copy is as of the mirror's LSN."""
        found: Differences = put_in_place(session, copy)
        note_well(session, self.table)
        checkpoint = session.checkpoints[self.table]
        shown = copy.bucket if key_may_be_shown(checkpoint.shape) else None
        yield BucketBackfilled(
            table=self.table,
            bucket=copy.bucket.name if copy.bucket else "",
            low=shown.low if shown else None,
            high=shown.high if shown else None,
            rows_read=copy.rows,
            rows_inserted=found.missing,
            rows_changed=found.different,
            rows_removed=found.extra,
            lsn=checkpoint.lsn,
            seconds=time.monotonic() - self._started,
            nbytes=copy.nbytes,
            in_place_of_part=not copy.part and bool(self.parts[0]),
            notes=(
                *session.notes,
                *hiding_notes(session.warehouse, {self.table: session.shaping(self.table)}),
            ),
        )
