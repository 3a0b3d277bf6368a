"""What a run does with the stream: everything that the slot has up to now, table by table.

Healthy tables are drained together. A table that an earlier run left behind is tried after them, by
itself: its old checkpoint would make the others read everything again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from cdc_assets.changes.evolution import Evolution
from cdc_assets.errors import CdcError, SchemaChangeError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.progress import SchemaChanged, SyncEvent, TableFailed, WindowApplied
from cdc_assets.replication.alterations import find_altered, plans_since
from cdc_assets.replication.draining import Drain, standing_fences
from cdc_assets.replication.evolving import evolve, is_mended, note_names
from cdc_assets.replication.partners import groups, partner_errors
from cdc_assets.replication.recorder import Recorder
from cdc_assets.replication.results import Tally
from cdc_assets.replication.session import Session, shape_error
from cdc_assets.source.catalog import Catalog
from cdc_assets.source.slot import current_end

# To the target, and to where the rows stand that were read anew on the way there
ROUNDS = 2


class CatchingUp:
    """One run's; it goes on in another session where the first one's warehouse lacked memory.

    Attributes:
        asked: The tables that the run is asked for.
        session: The present one.
        tally: What was done to tables.
        target: Up to where the last call went.
        windows: How many were applied.
        notes: What is to be said at the run's end, in order.
        mended: Tables that are to be copied anew, and why.
    """

    session: Session
    tally: Tally
    target: LSN

    def __init__(
        self,
        asked: frozenset[TableName],
        tables: frozenset[TableName],
        until_lsn: LSN | None,
        recorder: Recorder,
    ) -> None:
        self.asked, self._tables = asked, tables  # with those that have to go on with them
        self._until_lsn, self._recorder = until_lsn, recorder
        self._sessions = 0
        self.windows = 0
        self.notes: list[str] = []
        self.mended: dict[TableName, CdcError] = {}

    def begin(self, session: Session) -> Iterator[TableFailed]:
        """Go on with a session, without the tables that it can't use."""
        self.session, self._sessions = session, self._sessions + 1
        self.notes += session.notes
        if self._sessions == 1:
            self.tally = Tally.at(session)
        for table in session.config.table_names:
            if table in self.asked and table in session.failed:
                yield from self.fail(table, session.failed[table])

    def catch_up(self) -> Iterator[SyncEvent]:
        """Apply what the slot has up to now, to mirrors and to copies."""
        session, until = self.session, self._until_lsn
        now = datetime.now(UTC)
        end = current_end(session.control)
        self.target = min(end, until) if until else end
        self._recorder.aims(self.target, now if self.target == end else None)
        before = session.catalog
        yield from self._refuse_altered(self._alive())
        settled = plans_since(session, before)
        alive = self._alive()
        left_behind = frozenset(table for table in alive if session.checkpoints[table].error)
        copied = frozenset(filter(session.is_copied_anew, alive)) if until else frozenset()
        together, behind = groups(session, alive - copied, left_behind - copied)
        yield from self._drain(together, self.target)
        for group in (copied, *behind):
            yield from self._drain(group, end if group is copied else self.target)
        if self.target == end:
            yield from self._evolve_quiet(settled)
            yield from self._refuse_emptied(before)
        for change in note_names(session, self._alive()):
            self.tally.altered.add(change.table)
            yield change

    def fail(self, table: TableName, error: CdcError) -> Iterator[TableFailed]:
        """Leave a table behind, or copy it anew where that puts it right; once in a run."""
        session = self.session
        if isinstance(error, SchemaChangeError) and session.is_copied_anew(table):
            with session.warehouse.transaction():
                session.drop_copies(table)
            if is_mended(session, table, error):
                session.failed.pop(table, None)
                self.note(f"{error.message}: the next run copies it anew")
                return
        elif table in session.checkpoints and is_mended(session, table, error):
            session.failed.pop(table, None)
            self.mended[table] = error
            return
        session.fail(table, error)
        yield TableFailed(table, error)

    def note(self, note: str) -> None:
        """Say something at the run's end, once."""
        if note not in self.notes:
            self.notes.append(note)

    def _alive(self) -> frozenset[TableName]:
        """Give the tables that the stream is applied to."""
        session = self.session
        return frozenset(
            table
            for table in self._tables
            if table not in session.failed and table in session.checkpoints
            if table not in self.mended
            if not session.is_copied_anew(table) or (table, "") in session.copies
        )

    def _drain(self, group: frozenset[TableName], target: LSN) -> Iterator[SyncEvent]:
        """Drain to the target, and once more those tables that were read ahead of it.

        Once, whatever is written meanwhile: rows that this second round reads anew stay ahead of
        the others, under their fences, until the next run.
        """
        session = self.session
        for _ in range(ROUNDS):
            if not group:
                return
            drain = Drain(session, group, target)
            self._recorder.applies(min(session.checkpoints[table].lsn for table in group), target)
            for event in drain.run():
                match event:
                    case WindowApplied():
                        self.windows += 1
                        yield self._of_asked(event)
                    case SchemaChanged():
                        self.tally.altered.add(event.table)
                        yield event
                    case TableFailed():
                        yield from self.fail(event.table, event.error)
            self.tally.add(drain.applied)
            if drain.held_by:
                self.note(f"stopped early after a wait for {drain.held_by}")
                return
            group, target = standing_fences(session, drain.tables)
            yield from self._refuse_altered(group)
            group -= session.failed.keys()
        for table in sorted(group):
            self.note(
                f"rows of {str(table)!r} that were read anew are newer than its others: "
                "the next run brings those there"
            )

    def _of_asked(self, event: WindowApplied) -> WindowApplied:
        if self.asked == self._tables:
            return event
        counts = {table: of for table, of in event.tables.items() if table in self.asked}
        return replace(event, tables=counts)

    def _refuse_altered(self, tables: frozenset[TableName]) -> Iterator[TableFailed]:
        """Leave tables behind that were altered before the target, at their checkpoints."""
        altered = find_altered(self.session, tables, evolves=True)
        for table, error in sorted(altered.items()):
            yield from self.fail(table, error)
        for table, held_up in partner_errors(self.session, tables).items():
            yield from self.fail(table, held_up)

    def _refuse_emptied(self, before: Catalog) -> Iterator[TableFailed]:
        """Leave tables behind whose files were exchanged before the target, by no truncation."""
        session = self.session
        for table in sorted(self._alive() & session.emptied.keys() & before.tables.keys()):
            known, now = before.tables[table].shape, session.source_table(table).shape
            is_there = session.checkpoints[table].lsn >= self.target
            if is_there and known.partitions == now.partitions:
                error = shape_error(session, table, was_truncated=False)
                yield from self.fail(table, error) if error else ()

    def _evolve_quiet(self, plans: Mapping[TableName, Evolution]) -> Iterator[SchemaChanged]:
        """Alter what is kept of tables that nobody has changed since they were altered.

        They are at the target, and were altered before it.
        """
        session = self.session
        for table in sorted(self._alive() & plans.keys()):
            plan = session.evolutions.get(table)
            is_planned = plan is not None and plan.leads_to(plans[table])
            if not is_planned or session.checkpoints[table].lsn < self.target:
                continue
            with session.warehouse.transaction():
                change = evolve(session, table, session.checkpoints[table].lsn)
            self.tally.altered.add(table)
            yield change
