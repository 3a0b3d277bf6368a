"""From a window's messages to rows in the mirrors, in slices of bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import ChangeBatch, Mask, UnfitColumnError, concatenate, type_changes
from cdc_assets.changes.compact import Events, behind_last_truncate, events_of
from cdc_assets.changes.fence import ChunkFence, KeyText, shown_by_all
from cdc_assets.changes.record import change_rows
from cdc_assets.errors import ValueConversionError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.decode import RawChanges, StreamDecoder
from cdc_assets.pgoutput.messages import TRUNCATE, Ints, Transactions
from cdc_assets.pgoutput.relations import Relation
from cdc_assets.progress import ChangeCounts, SchemaChanged
from cdc_assets.replication.chunk_rows import no_truth, not_transformed, unfit_value
from cdc_assets.replication.enriching import transformed_late, with_partners, without_partners
from cdc_assets.replication.evolving import evolve, widen
from cdc_assets.replication.fencing import keep_out, read_anew
from cdc_assets.replication.misfits import check_shape, differing_mirror, identity_error
from cdc_assets.replication.partners import are_partners_there
from cdc_assets.replication.records import write_records
from cdc_assets.replication.renewing import renew, renewals_of
from cdc_assets.replication.rereading import Reread, transaction_at
from cdc_assets.replication.session import Session, refusals_of
from cdc_assets.replication.unfit import is_text_in_place
from cdc_assets.replication.writing import mirror_writes, write_of
from cdc_assets.shaping.functions import FunctionError
from cdc_assets.shaping.predicates import RowError
from cdc_assets.source.window import CommittedPiece
from cdc_assets.steps import reached
from cdc_assets.warehouse.values import Checkpoint, Copy, LastTransaction, Write

APPLY_BYTES = 64 * 1024 * 1024


@dataclass(slots=True)
class AppliedTable:
    """What a window did to one table.

    Attributes:
        renewed: How many rows changed with those of other tables.
    """

    counts: ChangeCounts = field(default_factory=ChangeCounts)
    renewed: int = 0
    first_commit_micros: int | None = None
    last_commit_micros: int | None = None

    def add(self, batch: ChangeBatch) -> None:
        """Count a batch's changes."""
        self.counts += batch.counts
        if len(batch):
            first, last = int(batch.commit_micros.min()), int(batch.commit_micros.max())
            self.first_commit_micros = min(first, self.first_commit_micros or first)
            self.last_commit_micros = max(last, self.last_commit_micros or last)

    @property
    def rows(self) -> int:
        """How many changes and renewed rows."""
        return self.counts.total + self.renewed

    @property
    def first_commit(self) -> datetime | None:
        """When the first transaction committed of those that changed it."""
        return _time(self.first_commit_micros)

    @property
    def last_commit(self) -> datetime | None:
        """When the last one did."""
        return _time(self.last_commit_micros)

    def merge(self, later: AppliedTable) -> None:
        """Add what a later window did."""
        self.counts += later.counts
        self.renewed += later.renewed
        self.first_commit_micros = self.first_commit_micros or later.first_commit_micros
        self.last_commit_micros = later.last_commit_micros or self.last_commit_micros


def _time(micros: int | None) -> datetime | None:
    return None if micros is None else datetime.fromtimestamp(micros / 1_000_000, UTC)


@dataclass(slots=True)
class WindowApplier:
    """Applies one window inside an open warehouse transaction.

    Args:
        session: The run's.
        decoder: The read's, kept from window to window.
        tables: Whose changes are applied; all others are passed over.
        reread: What must come of what was applied before.

    Attributes:
        moved: Of tables with rows that are read ahead, keys by `moved_lacking`.
        evolved: Tables that have got other columns.
    """

    session: Session
    decoder: StreamDecoder
    tables: frozenset[TableName]
    reread: Reread
    applied: dict[TableName, AppliedTable] = field(default_factory=dict)
    transactions: int = 0
    last: LastTransaction | None = None
    moved: dict[TableName, list[list[pa.Array]]] = field(default_factory=dict)
    evolved: list[SchemaChanged] = field(default_factory=list)
    _pending: dict[TableName, list[ChangeBatch]] = field(default_factory=dict)
    _pending_bytes: int = 0
    _written_lsn: dict[TableName, int] = field(default_factory=dict)
    _by_oid: dict[int, TableName] = field(init=False)

    def __post_init__(self) -> None:
        checkpoints = self.session.checkpoints
        self._by_oid = {checkpoints[table].shape.oid: table for table in self.tables}

    def take(self, piece: CommittedPiece) -> None:
        """Decode a piece, and write what is pending once it is large.

        Raises:
            TableError: A table can't go on: the transaction must be undone.
        """
        self._note_last(piece.transactions)
        for raw in self.decoder.decode(piece.messages, self._table_of):
            self._take_changes(raw, piece.transactions)
        if self._pending_bytes > APPLY_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write everything that is pending."""
        for table in self._dependents_first():
            self._flush_table(table)
        self._pending_bytes = 0

    def _dependents_first(self) -> list[TableName]:
        """Order what is pending: who takes columns of a table is written before it."""
        links = self.session.config.links
        if not links.partners:
            return list(self._pending)
        return links.partners_first(self._pending)[::-1]

    def _table_of(self, relation: Relation) -> TableName | None:
        """Find the table whose changes these are, whatever its name was when they were made.

        A table that is only called like one of ours is given, too: its changes are refused.
        """
        if relation.oid in self._by_oid:
            return self._by_oid[relation.oid]
        return relation.table if relation.table in self.tables else None

    def _note_last(self, transactions: Transactions) -> None:
        if not len(transactions):
            return
        self.reread.take(transactions)
        self.transactions += len(transactions) - (
            self.last is not None and self.last.end_lsn == int(transactions.end_lsn[0])
        )
        self.last = transaction_at(transactions, -1)

    def _take_changes(self, raw: RawChanges, transactions: Transactions) -> None:
        table = raw.table
        checkpoint = self.session.checkpoints[table]
        raw = raw.keep(self._is_news(raw, transactions, checkpoint))
        if not len(raw.ops):
            return
        self._note_emptied(raw, transactions)
        shaping = self.session.shaping(table)
        raw = shaping.changes(raw, checkpoint.shape.key)
        first_lsn = LSN(transactions.end_lsn[raw.transactions[0]])
        checkpoint = self._evolved(table, raw.relation, first_lsn)
        check_shape(raw, checkpoint.shape, first_lsn, has_key=shaping.is_mirrored)
        from_old_rows = shaping.chooses and self._has_records(table)
        if from_old_rows and not raw.has_whole_old_rows:
            raise identity_error(
                table,
                first_lsn,
                "old rows do not come whole, as 'where' and 'transform' need it here",
            )
        batch = self._typed(raw, transactions, from_old_rows=from_old_rows)
        checkpoint = self.session.checkpoints[table]
        if any(key.null_count for key in batch.old_key):
            raise identity_error(table, first_lsn, "an old row came without the mirror's key")
        if shaping.needs_every_value and checkpoint.phase == "streaming" and batch.unchanged:
            raise identity_error(table, first_lsn, "a change came without a value that was needed")
        try:
            shaped = shaping.batch(batch, checkpoint.shape, from_old_rows=from_old_rows)
        except RowError as error:
            raise no_truth(table, str(error), first_lsn) from error
        except FunctionError as error:
            raise not_transformed(table, error, first_lsn) from None
        if not len(shaped):
            return
        self.applied.setdefault(table, AppliedTable()).add(shaped)
        self._pending.setdefault(table, []).append(shaped)
        self._pending_bytes += batch.nbytes

    def _typed(
        self, raw: RawChanges, transactions: Transactions, *, from_old_rows: bool
    ) -> ChangeBatch:
        """Decode changes; columns that can't hold a value of theirs become text, where they may."""
        session, table = self.session, raw.table
        shaping = session.shaping(table)
        while True:
            checkpoint = session.checkpoints[table]
            try:
                masks = None
                if checkpoint.phase == "streaming" and shaping.is_mirrored:
                    masks = keep_out(session, raw, transactions, before_read=self._flush_table)
                return type_changes(
                    raw,
                    transactions,
                    checkpoint.shape,
                    fenced=masks,
                    with_key_text=bool(session.copies_of(table) or shaping.chooses),
                    with_record=session.appends(table),
                    with_old=shaping.reads(checkpoint.shape) if from_old_rows else (),
                )
            except UnfitColumnError as error:
                lsn = LSN(error.end_lsn or transactions.end_lsn[raw.transactions[0]])
                column = checkpoint.shape.named(error.column)
                self._widen(unfit_value(table, column, error.wanted, lsn))
            except ValueConversionError as unfit:  # of a row that was read
                self._widen(unfit)

    def _widen(self, error: ValueConversionError) -> None:
        """Make a column text that can't hold a value.

        Raises:
            ValueConversionError: The given one: what is kept of it can't become text as it is.
        """
        if not is_text_in_place(self.session, error):
            raise error
        self.flush()
        self.evolved.append(widen(self.session, error))

    def _note_emptied(self, raw: RawChanges, transactions: Transactions) -> None:
        """Take over the files of a table's partitions that the stream says were truncated."""
        session, table = self.session, raw.table
        if table not in session.emptied:
            return
        truncated = transactions.xid[raw.transactions[raw.ops == TRUNCATE]]
        if session.emptied[table] in truncated.tolist():
            checkpoint, now = session.checkpoints[table], session.source_table(table).shape
            shape = replace(checkpoint.shape, partitions=now.partitions)
            session.put(replace(checkpoint, shape=shape))
            del session.emptied[table]

    def _evolved(self, table: TableName, relation: Relation, lsn: LSN) -> Checkpoint:
        """Alter what is kept of a table where its changes have the columns of after."""
        planned, shape = self.session.evolutions.get(table), self.session.checkpoints[table].shape
        if (
            planned is not None
            and shape.difference(relation)
            and not planned.after.difference(relation)
        ):
            self.flush()
            self.evolved.append(evolve(self.session, table, lsn))
        return self.session.checkpoints[table]

    def _is_news(self, raw: RawChanges, transactions: Transactions, checkpoint: Checkpoint) -> Mask:
        """Find the rows that are not in the warehouse yet for certain.

        The others are not even decoded: what a copy has seen may have been of another shape, or
        have held a value that had to be corrected before the table could be copied.
        """
        news: Mask = transactions.end_lsn[raw.transactions] > checkpoint.lsn
        if checkpoint.phase == "copying":
            for copy in self.session.copies_of(raw.table):
                news &= ~copy.baseline.shows(transactions.xid[raw.transactions])
        return news

    def _flush_table(self, table: TableName) -> None:
        batches = self._pending.pop(table, [])
        if not batches:
            return
        batch = concatenate(batches)
        if self.session.checkpoints[table].phase == "streaming":
            self._require_partners(table)
            full = with_partners(self.session, table, batch, self._pending)
            if self.session.shaping(table).is_late:
                full = transformed_late(self.session, table, full)
            written_lsn = self._written_lsn.get(table, 0)
            if moved := write_records(self.session, table, full, written_lsn=written_lsn):
                self.moved.setdefault(table, []).append(moved)
            self._written_lsn[table] = int(batch.end_lsn[-1])
            if self.session.is_mirrored(table):
                renewals = renewals_of(self.session, table, full, self.tables)
                self._write_mirror(table, full)
                for other, rows in renew(self.session, renewals).items():
                    self.applied.setdefault(other, AppliedTable()).renewed += rows
        for copy in self.session.copies_of(table):
            write_stage(self.session, copy, without_partners(self.session, table, batch))
        reached("table_applied")

    def _require_partners(self, table: TableName) -> None:
        partners = self.session.config.links.partners.get(table, frozenset())
        if partners and not (partners <= self.tables and are_partners_there(self.session, table)):
            raise ValueError(f"{table} is applied without the tables that it takes columns of")

    def _has_records(self, table: TableName) -> bool:
        """Whether anything is kept beside the mirror that has to be told what happened."""
        if not self.session.is_mirrored(table):
            return True
        streams = self.session.checkpoints[table].phase == "streaming"
        return streams and bool(self.session.records_of(table))

    def _write_mirror(self, table: TableName, batch: ChangeBatch) -> None:
        writes = mirror_writes(batch, self.session.kept_shape(table))
        for number, (changes, write) in enumerate(writes, 1):
            self._write(table, changes, write, is_last=number == len(writes))

    def _write(self, table: TableName, batch: ChangeBatch, write: Write, *, is_last: bool) -> None:
        with refusals_of(table):
            found = self.session.mirrors.write(table, self.session.kept_shape(table), write)
        lacking, looked_up = found.lacking, write.looked_up
        if looked_up is not None and batch.chosen is not None and lacking.any():
            # rows that were not kept before: nobody here has what their changes did not carry
            unread = looked_up.changes[lacking & ~looked_up.deleted]
            if len(unread) and is_last:  # what is truncated behind it can't be read any more
                read_anew(self.session, table, _keys_of(batch, unread))
            lacking = lacking[:0]
        if found.wrong + lacking.sum():
            wrong = found.wrong + int(lacking.sum())
            raise differing_mirror(table, wrong, LSN(batch.end_lsn[-1]))


def write_stage(session: Session, copy: Copy, batch: ChangeBatch) -> None:
    """Apply a batch to a copy: to the rows that it has, and to those that it will read.

    What a chunk has seen is kept out of the rows that it brought. A change to a row that is not
    there yet writes it; if it lacks a value, the row is read by itself before the copy ends.
    """
    shape = session.staged_shape(copy.table)
    batch = batch.keep(~copy.baseline.shows(batch.xids))
    if not session.is_mirrored(copy.table):
        if len(batch):
            session.change_tables.append_staged(copy.stage, change_rows(batch, shape))
        return
    batch, truncated = behind_last_truncate(batch)
    fences = session.chunk_fences[copy.table, copy.part]
    events = _without_brought(session, copy, batch, events_of(batch, shape), fences)
    write = write_of(batch, events, truncated, shape)
    lacking, looked_up = session.stages.write(copy.stage, shape, write), write.looked_up
    unread = np.zeros(0, dtype=np.int64) if looked_up is None else looked_up.changes[lacking]
    if batch.chosen is not None:
        unread = np.union1d(unread, np.flatnonzero(batch.chosen.unsure))
    if not len(unread) or copy.predicate:
        return
    if copy.bucket is not None:  # what is elsewhere is never read, and would lack it for ever
        keys = [batch.columns[at].take(pa.array(unread)) for at in shape.key_indexes]
        unread = unread[session.stages.within(shape, copy.bucket, keys)]
    session.copy_state.add_gaps(copy, _keys_of(batch, unread))


def _keys_of(batch: ChangeBatch, rows: Ints) -> list[KeyText]:
    """Give the keys of changes that lack a value, each once."""
    texts = (text.take(pa.array(rows)).to_pylist() for text in batch.new_key_text)
    return sorted(set(zip(*texts, strict=True)))


def _without_brought(
    session: Session, copy: Copy, batch: ChangeBatch, events: Events, fences: list[ChunkFence]
) -> Events:
    """Leave out events of transactions that the chunk has seen which brought the key's row."""
    xids = batch.xids[events.rows]
    lsns = {fence.lsn for fence in fences}
    shown = {
        int(lsn): shown_by_all([fence for fence in fences if fence.lsn == lsn], xids)
        for lsn in lsns
    }
    if not shown or not len(asked := np.flatnonzero(np.logical_or.reduce(list(shown.values())))):
        return events
    keys = [key.take(pa.array(asked)) for key in events.keys]
    shape = session.staged_shape(copy.table)
    places, of = session.stages.brought(copy.stage, shape, keys, lsns)
    out = np.zeros(len(events), dtype=bool)
    for lsn, seen in shown.items():
        rows = asked[places[of == lsn]]
        out[rows] |= seen[rows]
    return events.keep(~out)
