"""What a config makes of a table's rows, before any of them is in a warehouse.

Nothing is written, at neither end, and no sync is held up: changes come from a temporary copy of
the slot, and nothing is confirmed; rows are read as a copy reads them. What is masked is masked on
both sides, and what is left out is not even decoded.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import ChangeBatch, Chosen, UnfitColumnError, type_changes
from cdc_assets.changes.shape import TableShape
from cdc_assets.config import PipelineConfig
from cdc_assets.config.tables import TableConfig
from cdc_assets.errors import CdcError, TableError, ValueConversionError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.decode import StreamDecoder
from cdc_assets.pgoutput.messages import DELETE, INSERT, TRUNCATE, UPDATE
from cdc_assets.replication.chunk_rows import no_truth, not_transformed, source_rows, unfit_value
from cdc_assets.replication.journal import read_journal
from cdc_assets.replication.session import recopy_hint
from cdc_assets.replication.shaping import shaping_problems, shapings
from cdc_assets.replication.unfit import may_be_text
from cdc_assets.shaping.columns import Shaping
from cdc_assets.shaping.functions import FunctionError
from cdc_assets.shaping.masks import texts
from cdc_assets.shaping.predicates import RowError
from cdc_assets.source.catalog import Catalog, SourceTable, read_catalog
from cdc_assets.source.connection import Connection, connect, translated
from cdc_assets.source.reader import SlotReader
from cdc_assets.source.renamed import with_renamed
from cdc_assets.source.setup import conninfo_of
from cdc_assets.source.slot import current_end, read_slot
from cdc_assets.source.snapshot import SnapshotReader
from cdc_assets.source.tables import all_table_problems, read_problems
from cdc_assets.source.window import WindowStream

# How much WAL is looked through for changes of the table, and how much at once
_MOST_WAL_BYTES = 64 * 1024 * 1024
_WINDOW_BYTES = 4 * 1024 * 1024
_OPS = {INSERT: "insert", UPDATE: "update", DELETE: "delete", TRUNCATE: "truncate"}
CURRENT = "row"
HIDDEN, NOT_CARRIED = "***", "(not carried)"

Cells = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class PreviewedRow:
    """A row as the source has it, and as the warehouse would; values are texts.

    Attributes:
        of: `insert` or `update`, whose new row it is; `row` for one as it is now.
        raw: By the source's names; what is left out is hidden.
        shaped: By the warehouse's; None where there would be no row.
        is_unsure: Whether the change lacks a value that the row would be read anew for.
    """

    of: str
    raw: Cells
    shaped: Cells | None
    is_unsure: bool = False


@dataclass(slots=True)
class Preview:
    """What was found.

    Attributes:
        names: Per column of the source, its name in the warehouse; columns that are left out, and
            that a function drops or makes, are not here.
        taken: Per column that rows take of another table, that table; its values are not shown.
        changes: How many changes of each kind were looked at.
        current: How many rows as they are now.
        left_out: How many of the new and the current rows would not be kept.
        notes: What could not be looked at.
    """

    table: TableName
    names: dict[str, str]
    rows: list[PreviewedRow] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_OPS.values(), 0))
    current: int = 0
    left_out: int = 0
    notes: list[str] = field(default_factory=list)


def preview(config: PipelineConfig, table: TableName, *, rows: int) -> Preview:
    """Show what a config makes of a table: of changes on the slot, and of rows of the source.

    Args:
        config: The pipeline.
        table: One of its tables.
        rows: How many are shown at the most.

    Raises:
        TableError: The table can't be shaped so, or one of its rows can't.
        CdcError: The source refuses.
    """
    conninfo, slot = conninfo_of(config), config.source.slot
    with connect(conninfo) as control, translated(slot):
        journal = read_journal(config)
        catalog = read_catalog(control, config.source.publication, [table])
        catalog = with_renamed(control, catalog, config, journal.oids if journal else {})
        needs_key = config.table(table).keeps_mirror
        for problem in all_table_problems(
            catalog, table, [table], published=False, needs_key=needs_key
        ):
            raise problem
        source = catalog.tables[table]
        for problem in shaping_problems(config, source):
            raise problem
        shaping = shapings(config)[table]
        shape, notes = shaping.source(source.shape), list[str]()
        while True:
            looked = _Look(config, table, source, shaping, shape, rows)
            looked.found.notes += notes
            if enrich := config.table(table).enrich:
                looked.found.notes.append(_not_shown(config.table(table)))
                looked.found.taken |= {
                    name: one.partner for one in enrich for name in one.columns.values()
                }
            try:
                _look(looked, control, conninfo, catalog)
            except ValueConversionError as error:
                column = shape.numbered(error.attnum)
                if column is None or not may_be_text(config, shaping, shape, column, of=table):
                    raise
                kind = column.type.name
                notes.append(f"column {column.name!r} becomes text: a value does not fit {kind}")
                shape = shape.widened(column.attnum)
            else:
                return looked.found


def _look(looked: _Look, control: Connection, conninfo: str, catalog: Catalog) -> None:
    table = looked.found.table
    with _nothing_to_copy(table):
        try:
            looked.at_changes(control, conninfo)
        except TableError:
            raise
        except CdcError as error:
            looked.found.notes.append(f"no changes were looked at: {error.message}")
        if not looked.is_enough:
            for unreadable in read_problems(catalog, table):
                raise unreadable
            looked.at_rows(conninfo)


@contextmanager
def _nothing_to_copy(table: TableName) -> Iterator[None]:
    """Inside the block errors ask for another look where a sync's would ask for a backfill.

    Raises:
        TableError: As it was raised, with that hint.
    """
    try:
        yield
    except TableError as error:
        again = f"look again: cdc-assets preview {shlex.quote(str(table))}"
        error.hint = error.hint.replace(recopy_hint(table), again)
        raise


def _not_shown(config: TableConfig) -> str:
    names = ", ".join(repr(name) for one in config.enrich for name in one.columns.values())
    taken = (
        f"what enrich takes from other tables ({names}) is not shown: it is in the warehouse alone"
    )
    if config.transform is None:
        return taken
    return f"{taken}; so rows are shown as they are before 'transform', which waits for that"


class _Look:
    def __init__(
        self,
        config: PipelineConfig,
        table: TableName,
        source: SourceTable,
        shaping: Shaping,
        shape: TableShape,
        rows: int,
    ) -> None:
        self._config, self._table, self._source, self._wanted = config, table, source, rows
        self._shaping, self._shape = shaping, shape
        self._kept = shaping.staged(self._shape)
        given = shaping.given(self._shape)
        here = zip(self._shape.names, given.names, strict=True)
        self.found = Preview(table, {name: kept for name, kept in here if kept in self._kept.names})

    @property
    def is_enough(self) -> bool:
        """Whether there are as many rows as were asked for."""
        return len(self.found.rows) >= self._wanted

    def at_changes(self, control: Connection, conninfo: str) -> None:
        """Look at the first changes behind the slot's position."""
        slot = self._config.source.slot
        start = read_slot(control, slot).confirmed_lsn
        target = LSN(min(current_end(control), start + _MOST_WAL_BYTES))
        if start >= target:
            return
        with (
            tempfile.TemporaryDirectory() as spool,
            SlotReader(
                conninfo=conninfo,
                slot=slot,
                publication=self._config.source.publication,
                start_lsn=start,
                target_lsn=target,
                max_wal_bytes=_WINDOW_BYTES,
            ) as reader,
        ):
            for batch in self._batches(
                WindowStream(reader, control, start, Path(spool), sealed=True)
            ):
                for op, name in _OPS.items():
                    self.found.changes[name] += int((batch.ops == op).sum())
                self._take(batch, LSN(batch.end_lsn[0]))
                if self.is_enough:
                    return

    def _batches(self, stream: WindowStream) -> Iterator[ChangeBatch]:
        decoder, oid = StreamDecoder(), self._shape.oid
        for window in stream.windows():
            for piece in window.pieces:
                for raw in decoder.decode(
                    piece.messages, lambda relation: self._table if relation.oid == oid else None
                ):
                    changes = self._shaping.changes(raw, self._shape.key)
                    if self._shape.difference(changes.relation):
                        self._note("changes from before the table was altered were passed over")
                        continue
                    try:
                        yield type_changes(changes, piece.transactions, self._shape)
                    except UnfitColumnError as error:
                        lsn = LSN(error.end_lsn or window.upto_lsn)
                        column = self._shape.named(error.column)
                        raise unfit_value(self._table, column, error.wanted, lsn) from error

    def _note(self, line: str) -> None:
        if line not in self.found.notes:
            self.found.notes.append(line)

    def at_rows(self, conninfo: str) -> None:
        """Look at rows of the source as they are now."""
        slot = self._config.source.slot
        with SnapshotReader(conninfo=conninfo, slot=slot) as reader:
            _, _, places = reader.survey(self._source)
            with reader.read_places(self._source, self._shape, range(places)) as chunk:
                for read in chunk.batches:
                    rows = source_rows(read, self._shape, self._table, chunk.lsn)
                    self.found.current += len(rows)
                    columns = rows.select(list(self._shape.names)).columns
                    batch = _as_inserts([one.combine_chunks() for one in columns])
                    self._take(batch, chunk.lsn, of=CURRENT)
                    if self.is_enough:
                        return

    def _take(self, batch: ChangeBatch, lsn: LSN, *, of: str = "") -> None:
        """Shape a batch, count what is left out, and keep some rows to show."""
        try:
            shaped = self._shaping.batch(batch, self._shape)
        except RowError as error:
            raise no_truth(self._table, str(error), lsn) from error
        except FunctionError as error:
            raise not_transformed(self._table, error, lsn) from None
        has_row = (batch.ops == INSERT) | (batch.ops == UPDATE)
        chosen = shaped.chosen or Chosen(has_row, np.zeros(len(batch), dtype=bool))
        self.found.left_out += int((has_row & ~chosen.kept & ~chosen.unsure).sum())
        at = np.flatnonzero(has_row)[: self._wanted - len(self.found.rows)]
        rows = pa.array(at)
        raw = self._cells(self._shaping.shown(batch.columns, self._shape), self._shape, rows, batch)
        made = self._cells(shaped.columns, self._kept, rows, shaped)
        hidden = dict.fromkeys(
            (one.name for one in self._source.columns if one.name not in self._shape.names), HIDDEN
        )
        for place, row in enumerate(at.tolist()):
            self.found.rows.append(
                PreviewedRow(
                    of=of or _OPS[int(batch.ops[row])],
                    raw={**{name: cells[place] for name, cells in raw.items()}, **hidden},
                    shaped={name: cells[place] for name, cells in made.items()}
                    if chosen.kept[row]
                    else None,
                    is_unsure=bool(chosen.unsure[row]),
                )
            )

    def _cells(
        self, columns: list[pa.Array], shape: TableShape, rows: pa.Array, batch: ChangeBatch
    ) -> dict[str, list[str | None]]:
        shown = {}
        for at, name in enumerate(shape.names):
            cells = texts(columns[at].take(rows)).to_pylist()
            if at in batch.unchanged:
                lacks = batch.unchanged[at][rows.to_numpy()]
                cells = [
                    NOT_CARRIED if lack else cell for cell, lack in zip(cells, lacks, strict=True)
                ]
            shown[name] = cells
        return shown


def _as_inserts(columns: list[pa.Array]) -> ChangeBatch:
    """Give whole rows as changes, so that they are shaped one by one in their order."""
    count = len(columns[0])
    nothing, zeros = np.zeros(count, dtype=bool), np.zeros(count, dtype=np.int64)
    return ChangeBatch(
        ops=np.full(count, INSERT, dtype=np.uint8),
        end_lsn=zeros,
        commit_micros=zeros,
        columns=columns,
        unchanged={},
        old_key=[],
        old_rows=np.zeros(0, dtype=np.int64),
        fenced_new=nothing,
        fenced_old=nothing,
        xids=zeros,
        new_key_text=[],
        nbytes=0,
    )
