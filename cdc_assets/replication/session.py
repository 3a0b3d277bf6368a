"""What a run holds: its source session with the pipeline's lock, its open warehouse, its state."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from cdc_assets.changes.evolution import Evolution
from cdc_assets.changes.fence import ChunkFence, Fence
from cdc_assets.changes.shape import TableShape
from cdc_assets.config import PipelineConfig
from cdc_assets.config.tables import CHANGES
from cdc_assets.errors import CdcError, MirrorRefusedError, SchemaChangeError, TableError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN, WalIdentity
from cdc_assets.progress import RunMark
from cdc_assets.shaping.columns import Shaping
from cdc_assets.shaping.declarations import differing_keys
from cdc_assets.source.catalog import Catalog, SourceTable, read_catalog
from cdc_assets.source.clock import clock_micros
from cdc_assets.source.connection import Connection
from cdc_assets.source.partitions import moved_rows
from cdc_assets.source.refusals import ALL_ANEW
from cdc_assets.source.renamed import with_renamed
from cdc_assets.source.slot import SlotState, confirm
from cdc_assets.warehouse.base import ChangeTables, Copies, Mirrors, Stages, State, Warehouse
from cdc_assets.warehouse.values import Checkpoint, Copy, LastTransaction, Moment

RECOPY_ALL_HINT = f"copy every table anew: {ALL_ANEW}"


def recopy_hint(table: TableName) -> str:
    """Say how a table is brought back that can't go on from its checkpoint."""
    name = shlex.quote(str(table))
    return f"copy it anew: cdc-assets backfill {name}"


@dataclass(slots=True)
class Session:
    """One run's two ends, open and checked against each other.

    Attributes:
        checkpoints: As the warehouse has them now; no entry for a table that was never copied.
        fences: Of the rows of a table that were read by themselves.
        copies: Those under way, by table and part, with the fences of their chunks.
        run: Which run this is, in the eyes of who asks where a row comes from.
        code_versions: Of what the config makes of each table.
        recorded: Tables whose own goes on, for each kind of record.
        evolutions: How tables were altered, up to where the catalog was read last, whose rows can
            follow as they are.
        emptied: Partitioned tables all of whose files one transaction has exchanged, and which: the
            stream is to say that it truncated them.
        failed: Tables that this run has left behind.
        notes: What has to be said of its beginning.
    """

    config: PipelineConfig
    conninfo: str
    control: Connection
    warehouse: Warehouse
    identity: WalIdentity
    slot: SlotState
    catalog: Catalog
    shapings: Mapping[TableName, Shaping]
    checkpoints: dict[TableName, Checkpoint]
    run: RunMark
    code_versions: Mapping[TableName, str]
    fences: dict[TableName, list[Fence]] = field(default_factory=dict)
    copies: dict[tuple[TableName, str], Copy] = field(default_factory=dict)
    chunk_fences: dict[tuple[TableName, str], list[ChunkFence]] = field(default_factory=dict)
    recorded: dict[str, set[TableName]] = field(default_factory=dict)
    evolutions: dict[TableName, Evolution] = field(default_factory=dict)
    emptied: dict[TableName, int] = field(default_factory=dict)
    failed: dict[TableName, CdcError] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def mirrors(self) -> Mirrors:
        """The warehouse's tables."""
        return self.warehouse.mirrors

    @property
    def stages(self) -> Stages:
        """Copies of them that are under way."""
        return self.warehouse.stages

    @property
    def state(self) -> State:
        """How far the tables are."""
        return self.warehouse.state

    @property
    def copy_state(self) -> Copies:
        """How far the copies are."""
        return self.warehouse.copies

    @property
    def change_tables(self) -> ChangeTables:
        """What happened to the tables' rows."""
        return self.warehouse.change_tables

    def records_of(self, table: TableName) -> tuple[str, ...]:
        """Give what goes on beside a table's mirror."""
        return tuple(keep for keep, tables in self.recorded.items() if table in tables)

    def end_records(self, table: TableName) -> None:
        """End what is kept beside a mirror where it is, inside a transaction."""
        for keep in self.records_of(table):
            self.warehouse.records[keep].end(table, self.checkpoints[table].known_moment)
            self.recorded[keep].discard(table)

    def pause_records(self, table: TableName) -> None:
        """Say that what is kept beside a mirror lacks states from its checkpoint on."""
        for keep in self.records_of(table):
            self.warehouse.records[keep].pause(table, self.checkpoints[table].known_moment)

    def moment(self, table: TableName, transaction: LastTransaction | None = None) -> Moment:
        """Give where a table's checkpoint is, with the source's clock.

        Args:
            table: Which.
            transaction: The last one that is covered, if it is later than the checkpoint's.
        """
        checkpoint = self.checkpoints[table]
        last = transaction or checkpoint.last
        micros = clock_micros(self.control) if last is None else last.commit_micros
        return Moment(checkpoint.lsn, micros)

    def shaping(self, table: TableName) -> Shaping:
        """Give what the config makes of a table's rows."""
        return self.shapings[table]

    def is_mirrored(self, table: TableName) -> bool:
        """Whether a table has a mirror; else its changes alone are kept."""
        return self.shapings[table].is_mirrored

    def appends(self, table: TableName) -> bool:
        """Whether changes of a table are appended to a change table, or to one in the making.

        None are while a copy is to replace a mirror: that ends in rows.
        """
        if not self.is_mirrored(table):
            return True
        return table in self.recorded[CHANGES] and not self.is_copied_anew(table)

    def kept_shape(self, table: TableName) -> TableShape:
        """Give the columns that the warehouse has of a table, or will have."""
        return self.shapings[table].kept(self.checkpoints[table].shape)

    def staged_shape(self, table: TableName) -> TableShape:
        """Give the columns that the rows of a table's copy have, until it is put in place."""
        return self.shapings[table].staged(self.checkpoints[table].shape)

    def source_shape(self, table: TableName) -> TableShape:
        """Give those of the source's columns that are kept, as the catalog has them.

        Another name of the table is taken over where that is said (`evolving.note_names`). A column
        that became text for a value's sake stays so as long as the config would have it so.
        """
        shape = self.shapings[table].source(self.source_table(table).shape)
        known, widens = self.checkpoints.get(table), self.config.table(table).widens
        if known is None or known.shape.oid != shape.oid:
            return shape
        if known.shape.shaping == shape.shaping:
            before = tuple(column for column in known.shape.columns if widens(column.name))
            shape = shape.with_widened(replace(known.shape, columns=before))
        return replace(shape, called=known.shape.called)

    @property
    def source_shapes(self) -> dict[TableName, TableShape]:
        """Give those of the source's columns that are kept, as the warehouse's rows have them."""
        return {table: point.shape for table, point in self.checkpoints.items()}

    def copies_of(self, table: TableName) -> list[Copy]:
        """Give the copies of a table that are under way."""
        return [copy for (of, _), copy in self.copies.items() if of == table]

    def kept_name(self, table: TableName) -> TableName:
        """Give the warehouse's table: the mirror, or the change table where there is none."""
        return table if self.is_mirrored(table) else self.change_tables.name(table)

    def is_copied_anew(self, table: TableName) -> bool:
        """Whether a copy is to take the mirror's place, and the mirror stands still so long."""
        checkpoint = self.checkpoints.get(table)
        return checkpoint is not None and checkpoint.phase == "copying"

    def drop_copy(self, copy: Copy) -> None:
        """Give up a copy and its stage, inside a transaction."""
        self.copy_state.forget(copy)
        self.stages.drop(copy.stage)
        self.copies.pop((copy.table, copy.part), None)
        self.chunk_fences.pop((copy.table, copy.part), None)

    def drop_copies(self, table: TableName) -> None:
        """Give up all copies of a table and their stages, inside a transaction."""
        for copy in self.copies_of(table):
            self.drop_copy(copy)

    def read_catalog(self, tables: Collection[TableName]) -> Catalog:
        """Read what the source's catalog says of tables now, whatever it calls them."""
        config = self.config
        oids = {of: at.shape.oid for of, at in self.checkpoints.items() if of in tables}
        catalog = read_catalog(self.control, config.source.publication, tables)
        return with_renamed(self.control, catalog, config, oids)

    def source_table(self, table: TableName) -> SourceTable:
        """Give the catalog's account of a table that passed the checks."""
        return self.catalog.tables[table]

    def fail(self, table: TableName, error: CdcError) -> None:
        """Leave a table behind at its checkpoint, and say so in the warehouse."""
        self.failed[table] = error
        checkpoint = self.checkpoints.get(table)
        if checkpoint is not None:
            with self.warehouse.transaction():
                self.put(replace(checkpoint, error=error.message))

    def put(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, inside a transaction."""
        self.state.write(checkpoint)
        self.checkpoints[checkpoint.table] = checkpoint

    def confirm(self) -> LSN:
        """Move the slot to the smallest checkpoint of the config's tables.

        A checkpoint that the slot has passed already holds nothing back: its changes are gone.
        """
        lsns = [checkpoint.lsn for checkpoint in self.checkpoints.values()]
        lsns = [lsn for lsn in lsns if lsn >= self.slot.confirmed_lsn]
        if lsns:
            confirmed = confirm(self.control, self.config.source.slot, min(lsns))
            self.slot = replace(self.slot, confirmed_lsn=confirmed)
        return self.slot.confirmed_lsn


@contextmanager
def refusals_of(table: TableName) -> Iterator[None]:
    """Blame a table for what its mirror refuses inside the block.

    Raises:
        TableError: Its mirror has a constraint, say, that a row breaks.
    """
    try:
        yield
    except MirrorRefusedError as error:
        raise TableError(
            error.message,
            table=str(table),
            hint="somebody else altered the mirror or gave it a constraint: undo that, or "
            + recopy_hint(table),
        ) from error


def reshaped_error(table: TableName, before: str, now: str) -> SchemaChangeError:
    """Say that a table's rows in the warehouse are not shaped as the config says.

    Args:
        table: Which.
        before: How they are shaped, by `Shaping.declaration`.
        now: How the config says it.
    """
    return SchemaChangeError(
        f"table {str(table)!r} is shaped otherwise by the config now than when it was copied: "
        f"{', '.join(differing_keys(before, now))}",
        table=str(table),
        hint=recopy_hint(table) + "; or put the config back",
        cause="config",
    )


def shape_error(
    session: Session, table: TableName, *, was_truncated: bool = True
) -> SchemaChangeError | None:
    """Say whether the source's table has got another shape than its mirror, and how.

    Args:
        session: The run's.
        table: Which.
        was_truncated: Whether what may have been a truncation of the whole table is taken for one.
    """
    mirror, source = session.checkpoints[table].shape, session.source_table(table)
    now = session.source_shape(table)
    if now.shaping != mirror.shaping:
        return reshaped_error(table, mirror.shaping, now.shaping)
    what, moved = mirror.altered_to(now), ""
    if not what and session.checkpoints[table].phase == "streaming":
        if mirror.rewritten_to(now):
            what = "its rows were rewritten by an ALTER, and may be other ones now"
        else:
            what = moved = moved_rows(session.control, mirror, now, was_truncated=was_truncated)
    if not what:
        return None
    if now.oid == mirror.oid and (bared := _bared(session.shaping(table), mirror, now)):
        return SchemaChangeError(
            f"table {str(table)!r} was altered on the source: {bared}",
            table=str(table),
            lsn=str(session.checkpoints[table].lsn),
            hint="name it in the config as well, where its values are not to be read here, then "
            + recopy_hint(table),
            cause="config",
        )
    generated = sorted(set(mirror.names) & set(source.left_out))
    if generated:
        what = f"{generated[0]!r} is a generated column, which the stream does not bring"
    return SchemaChangeError(
        f"table {str(table)!r} was altered on the source: {what}",
        table=str(table),
        lsn=str(session.checkpoints[table].lsn),
        hint=recopy_hint(table),
        what=what,
        cause="recreated" if now.oid != mirror.oid else "partitioned" if moved else "altered",
    )


def _bared(shaping: Shaping, mirror: TableShape, now: TableShape) -> str:
    """Say which column has got a name that keeps its values secret no more; empty for none."""
    was = {column.attnum: column.name for column in mirror.columns}
    is_narrowed = bool(shaping.columns.exclude) or shaping.columns.include is not None
    for column in now.columns:
        before = was.get(column.attnum, "")
        mask = shaping.mask.get(before)
        if mask is not None and shaping.mask.get(column.name) != mask:
            return f"{before!r}, which is masked by {mask}, is called {column.name!r} now"
        if is_narrowed and not before and mirror.version_of.get(column.attnum):
            return f"{column.name!r} is a column that was left out until now"
    return ""
