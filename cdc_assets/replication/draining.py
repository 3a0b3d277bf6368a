"""Applies window after window, each in one warehouse transaction with its checkpoint.

The order is the promise: rows and checkpoint commit together, then the slot is confirmed, then the
window is reported. A crash before the commit undoes the window; one after it makes the next run
read the window again, and every change that ends at or before a table's checkpoint is left out.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from cdc_assets.changes.fence import Fence
from cdc_assets.errors import ProtocolError, TableError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.decode import StreamDecoder
from cdc_assets.progress import SchemaChanged, TableFailed, WindowApplied
from cdc_assets.replication.applying import AppliedTable, WindowApplier
from cdc_assets.replication.fencing import record_read_anew
from cdc_assets.replication.partners import partner_errors
from cdc_assets.replication.rereading import Reread
from cdc_assets.replication.session import Session
from cdc_assets.replication.tracing import Tracing
from cdc_assets.source.reader import SlotReader
from cdc_assets.source.window import Window, WindowStream
from cdc_assets.steps import reached
from cdc_assets.warehouse.values import LastTransaction


@dataclass(slots=True)
class Drain:
    """Brings some tables to a target, and keeps account of it.

    Attributes:
        applied: What was done to each table, over all windows.
        held_by: What the source waits for, where the drain ended before its target.
    """

    session: Session
    tables: frozenset[TableName]
    target_lsn: LSN
    applied: dict[TableName, AppliedTable] = field(default_factory=dict)
    held_by: str = ""

    def run(self) -> Iterator[WindowApplied | SchemaChanged | TableFailed]:
        """Apply windows up to the target; a table that fails is left behind, the others go on.

        Raises:
            CdcError: The source or the warehouse refuses.
        """
        while self.tables:
            try:
                yield from self._windows()
            except TableError as error:
                table = TableName.parse(error.table)
                self.tables -= {table}
                self.session.fail(table, error)
                yield TableFailed(table, error)
                for other, held_up in partner_errors(self.session, self.tables).items():
                    self.tables -= {other}
                    self.session.fail(other, held_up)
                    yield TableFailed(other, held_up)
            else:
                return

    def _windows(self) -> Iterator[WindowApplied | SchemaChanged]:
        session, source = self.session, self.session.config.source
        reread = self._reread()
        start = reread.start_lsn
        if start >= self.target_lsn:
            return
        linked = session.config.links.tables
        numbered = any(table in linked or session.appends(table) for table in self.tables)
        decoder = StreamDecoder(numbered=numbered)
        with SlotReader(
            conninfo=session.conninfo,
            slot=source.slot,
            publication=source.publication,
            start_lsn=start,
            target_lsn=self.target_lsn,
            max_wal_bytes=session.config.window.max_wal_bytes,
        ) as reader:
            spool = session.warehouse.spool
            hides = any(shaping.hides for shaping in session.shapings.values())
            stream = WindowStream(reader, session.control, start, spool, sealed=hides)
            for window in stream.windows():
                yield from self._apply(window, decoder, reread)
                self.held_by = window.held_by

    def _reread(self) -> Reread:
        """Find where to read from, and what must come from there up to the checkpoint.

        Where the slot lags behind the checkpoint, after a crash or for another table's sake, what
        it gives up to there is known: the last transaction that was applied, and nothing else. Of a
        table that was copied and has seen no transaction since, nothing is known.
        """
        first = min(
            (self.session.checkpoints[table] for table in self.tables), key=lambda point: point.lsn
        )
        confirmed = self.session.slot.confirmed_lsn
        if first.last is None:
            return Reread(max(confirmed, first.lsn), LSN(0), None)
        if confirmed > first.last.commit_lsn:
            return Reread(confirmed, first.lsn, None)
        return Reread(first.last.commit_lsn, first.lsn, first.last)

    def _apply(
        self, window: Window, decoder: StreamDecoder, reread: Reread
    ) -> Iterator[WindowApplied | SchemaChanged]:
        started, session = time.monotonic(), self.session
        applier, tracing = WindowApplier(session, decoder, self.tables, reread), Tracing(session)
        with self._as_before_if_undone() as before, session.warehouse.transaction(), _named(window):
            for piece in window.pieces:
                applier.take(piece)
            reread.end(window.end_lsn)
            reached("window_read")
            applier.flush()
            if applier.applied:
                session.state.renew_stamp()
            recorded = self._advance(window.end_lsn, applier)
            for table in applier.applied.keys() | recorded:
                applied = applier.applied.get(table, AppliedTable())
                read = _lsns(session.fences.get(table, ())) - _lsns(before.get(table, ()))
                passed = [window.end_lsn] if table in recorded else []
                tracing.streamed(table, applied.rows, read=read, recorded=passed)
            tracing.write(window.start_lsn, window.end_lsn, applier.transactions)
            reached("before_commit")
        self._advanced(window.end_lsn, applier.last)
        reached("window_committed")
        session.confirm()
        reached("window_confirmed")
        for table, applied in applier.applied.items():
            self.applied.setdefault(table, AppliedTable()).merge(applied)
        yield from applier.evolved
        yield WindowApplied(
            start_lsn=window.start_lsn,
            end_lsn=window.end_lsn,
            tables={
                table: applied.counts
                for table, applied in applier.applied.items()
                if applied.counts.total
            },
            transactions=applier.transactions,
            remaining_bytes=max(0, self.target_lsn - window.end_lsn),
            seconds=time.monotonic() - started,
        )

    @contextmanager
    def _as_before_if_undone(self) -> Iterator[Mapping[TableName, Collection[Fence]]]:
        """Forget what a transaction has put up and altered when it is undone with its rows.

        Yields:
            The fences that stand when it begins.
        """
        session = self.session
        fences = {table: list(kept) for table, kept in session.fences.items()}
        copies, chunk_fences = dict(session.copies), dict(session.chunk_fences)
        checkpoints, evolutions = dict(session.checkpoints), dict(session.evolutions)
        emptied = dict(session.emptied)
        try:
            yield fences
        except BaseException:
            session.emptied = emptied
            session.fences, session.copies, session.chunk_fences = fences, copies, chunk_fences
            session.checkpoints, session.evolutions = checkpoints, evolutions
            raise

    def _behind(self, lsn: LSN) -> list[TableName]:
        return [table for table in self.tables if self.session.checkpoints[table].lsn < lsn]

    def _advance(self, lsn: LSN, applier: WindowApplier) -> frozenset[TableName]:
        """Move the tables on; which of them have taken in rows that were read before."""
        session, behind = self.session, self._behind(lsn)
        recorded = set[TableName]()
        session.state.advance([session.checkpoints[table] for table in behind], lsn, applier.last)
        for table in behind:
            if session.fences.get(table):
                passed = replace(session.moment(table, applier.last), lsn=lsn)
                if record_read_anew(session, table, passed, applier.moved.get(table, ())):
                    recorded.add(table)
                session.state.drop_fences(table, lsn)
            for copy in session.copies_of(table):
                session.copy_state.drop_fences(copy, lsn)
        return frozenset(recorded)

    def _advanced(self, lsn: LSN, last: LastTransaction | None) -> None:
        """Take over into the session what is durable now."""
        for table in self._behind(lsn):
            before = self.session.checkpoints[table]
            self.session.checkpoints[table] = replace(
                before, lsn=lsn, last=last or before.last, error=""
            )
            fences = self.session.fences.get(table, [])
            self.session.fences[table] = [fence for fence in fences if fence.lsn > lsn]
            for copy in self.session.copies_of(table):
                of = self.session.chunk_fences[table, copy.part]
                of[:] = [fence for fence in of if fence.lsn > lsn]


def _lsns(fences: Collection[Fence]) -> frozenset[LSN]:
    return frozenset(fence.lsn for fence in fences)


@contextmanager
def _named(window: Window) -> Iterator[None]:
    """Say of what is not understood in which window it stands."""
    try:
        yield
    except ProtocolError as error:
        raise error.in_window(f"{window.start_lsn} to {window.upto_lsn}") from error


def standing_fences(
    session: Session, tables: frozenset[TableName]
) -> tuple[frozenset[TableName], LSN]:
    """Find the tables that are not past all of their fences, and where they will be."""
    ahead = {
        table: max(fence.lsn for fence in fences)
        for table in tables
        if (fences := session.fences.get(table))
        and max(fence.lsn for fence in fences) > session.checkpoints[table].lsn
    }
    return frozenset(ahead), max(ahead.values(), default=LSN(0))
