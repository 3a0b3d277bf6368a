"""What becomes of tables that were altered on the source: what is kept of them follows in place.

Whether it can is told by two looks at the catalog (`changes/evolution`): the one that the
checkpoint remembers, and the last one. Where it is altered is told by the stream, which announces a
table's columns before the first change that has them; or nothing has been changed since.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import pyarrow as pa

from cdc_assets.changes.evolution import Evolution, find_evolution
from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.config.tables import MIRROR
from cdc_assets.errors import (
    CdcError,
    ReplicaIdentityError,
    SchemaChangeError,
    ValueConversionError,
)
from cdc_assets.identifiers import TableName, fold
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.values import UnfitValueError, decode_text
from cdc_assets.progress import RunMark, SchemaChanged
from cdc_assets.replication.session import Session, recopy_hint
from cdc_assets.replication.tracing import note_lineage
from cdc_assets.replication.unfit import may_be_copied_as_text
from cdc_assets.source.added import read_added
from cdc_assets.source.partitions import moved_rows
from cdc_assets.steps import reached
from cdc_assets.warehouse.base import Warehouse
from cdc_assets.warehouse.values import Reshaping


def plan_evolution(session: Session, table: TableName) -> Evolution | None:
    """Find how what is kept of a table can follow it; None where it has to be made anew."""
    checkpoint, shaping = session.checkpoints[table], session.shaping(table)
    wanted = session.config.table(table).schema_changes
    if not wanted.evolves or checkpoint.phase != "streaming" or shaping.transform is not None:
        return None
    now = session.source_shape(table).with_types_of(checkpoint.shape)
    found = find_evolution(checkpoint.shape, now)
    if found is None or moved_rows(session.control, found.before, found.after):
        return None
    if _is_computed(session, table) and found.has_moved_names:
        return None  # rows that are there were masked, chosen or joined by another column's values
    fills = _fills(session, found)
    if fills is None:
        return None
    gone = tuple(map(shaping.kept_column, found.gone)) if wanted.dropped_columns == "keep" else ()
    after = replace(found.after, dropped=(*checkpoint.shape.dropped, *gone))
    found = replace(found, after=after, fills=fills)
    names = [fold(name) for name in shaping.kept(after).names]
    return found if len(set(names)) == len(names) else None


def _is_computed(session: Session, table: TableName) -> bool:
    """Whether what is kept, here or of another table, depends on what is in columns of a name."""
    shaping = session.shaping(table)
    is_linked = table in session.config.links.tables
    return bool(shaping.mask or shaping.where) or is_linked


def _fills(session: Session, found: Evolution) -> Mapping[str, pa.Array] | None:
    """Read what older rows have in columns that were added; None where that is not known."""
    kinds = {column.name: column.type.arrow for column in found.added}
    if not kinds:
        return {}
    after = found.after
    read = read_added(session.control, after.oid, kinds)
    if read is None or not read.are_known:
        return None
    if (read.files, read.versions) != (after.files, after.versions):
        return None  # altered again since the catalog was read
    texts = {name: text for name, text in read.texts.items() if text is not None}
    try:
        return {
            name: decode_text(pa.array([text.encode()], pa.binary()), kinds[name])
            for name, text in texts.items()
        }
    except UnfitValueError:
        return None


def evolve(session: Session, table: TableName, lsn: LSN) -> SchemaChanged:
    """Alter what is kept of a table as it is planned, inside a transaction.

    Args:
        session: The run's.
        table: Which; everything that it was given before is written.
        lsn: Of the first transaction behind the alteration, or up to where there is none.
    """
    found, shaping = session.evolutions[table], session.shaping(table)
    before, after = session.kept_shape(table), shaping.kept(found.after)
    was = {shaping.name(now.name): shaping.name(one.name) for one, now in found.pairs}
    was |= {name: name for name in _beside(after) & set(before.names)}
    fills = {shaping.name(name): value for name, value in found.fills.items()}
    reshaping = Reshaping(table, after, was, fills)
    change = _reshape(session, reshaping, found.after, what=found.said, lsn=lsn)
    del session.evolutions[table]
    reached("schema_evolved")
    return change


def widen(session: Session, error: ValueConversionError) -> SchemaChanged:
    """Make a column of what is kept of a table text, in place, inside a transaction.

    Args:
        session: The run's.
        error: Names the column, for which `is_text_in_place` holds; everything that the table was
            given before is written.
    """
    table = TableName.parse(error.table)
    before, shaping = session.checkpoints[table].shape, session.shaping(table)
    after = before.widened(error.attnum)
    column = next(one for one in before.columns if one.attnum == error.attnum)
    kept = shaping.kept(after)
    reshaping = Reshaping(
        table,
        kept,
        {one: one for one in kept.names},
        {},
        texts={shaping.name(column.name): column.type.arrow},
    )
    what = _said_of_widened(column)
    change = _reshape(session, reshaping, after, what=what, lsn=LSN.parse(error.lsn))
    if (plan := session.evolutions.get(table)) is not None:
        session.evolutions[table] = replace(
            plan, before=after, after=plan.after.with_widened(after)
        )
    reached("schema_evolved")
    return change


def _said_of_widened(column: SourceColumn) -> str:
    return f"{column.name!r} is text, was {column.type.name}: a value does not fit that"


def _reshape(
    session: Session, reshaping: Reshaping, shape: TableShape, *, what: str, lsn: LSN
) -> SchemaChanged:
    """Alter what is kept of a table; `shape` is that of the source's columns."""
    table = reshaping.table
    before = session.kept_shape(table)
    keeps = [*([MIRROR] if session.is_mirrored(table) else ()), *session.records_of(table)]
    for copy in session.copies_of(table):  # of the columns of before
        session.drop_copy(copy)
    session.warehouse.evolutions.reshape(reshaping, keeps)
    if session.is_mirrored(table):
        session.warehouse.moments.show(table, reshaping.shape)
    session.put(replace(session.checkpoints[table], shape=shape))
    session.state.note_placed(table, shape)
    note_lineage(session, [table])
    change = SchemaChanged(
        table,
        lsn,
        what,
        "in place",
        _columns(session, before),
        _columns(session, reshaping.shape),
    )
    note(session.warehouse, change, session.run)
    return change


def note(warehouse: Warehouse, change: SchemaChanged, run: RunMark) -> None:
    """Note what was altered, inside its transaction; the published copy is older from then on."""
    warehouse.evolutions.note(change, run.id)
    warehouse.state.renew_stamp()


def note_names(session: Session, tables: Iterable[TableName]) -> Iterator[SchemaChanged]:
    """Note what the source calls tables, and give those that have another name now."""
    for table in sorted(tables):
        checkpoint, now = session.checkpoints[table], session.source_table(table).shape.called
        if checkpoint.shape.called == now:
            continue
        was = checkpoint.shape.called or str(table)
        columns = _columns(session, session.kept_shape(table))
        what = f"is called {now!r} on the source, was {was!r}"
        change = SchemaChanged(table, checkpoint.lsn, what, "as it is", columns, columns)
        with session.warehouse.transaction():
            session.put(replace(checkpoint, shape=replace(checkpoint.shape, called=now)))
            if now != was:
                note(session.warehouse, change, session.run)
        if now != was:
            yield change


def _columns(session: Session, kept: TableShape) -> dict[str, str]:
    """Name the warehouse's types of columns."""
    kinds = map(session.mirrors.column_type, kept.types)
    return dict(zip(kept.names, kinds, strict=True))


def _beside(kept: TableShape) -> set[str]:
    """Name the columns that are none of the source's table."""
    return {column.name for column in (*kept.dropped, *kept.enriched)}


def is_mended(session: Session, table: TableName, error: CdcError) -> bool:
    """Whether a table that fails is copied anew without anybody's doing."""
    if isinstance(error, ValueConversionError) and table in session.checkpoints:
        return may_be_copied_as_text(session, table, error)
    if not session.config.copies_anew(table):
        return False
    if isinstance(error, SchemaChangeError):
        wanted = session.config.table(table).schema_changes
        is_backfilled = wanted.recreated_tables == "backfill"
        return error.cause in ("altered", "partitioned") or (
            error.cause == "recreated" and is_backfilled
        )
    # one that the stream has met lies behind the table, else the catalog would not have passed it
    return isinstance(error, ReplicaIdentityError) and bool(error.lsn)


def way_on(session: Session, table: TableName, error: CdcError) -> str:
    """Say what brings a table on that was met altered by who does not follow alterations."""
    is_followed = isinstance(error, SchemaChangeError) and (
        error.cause == "altered" and plan_evolution(session, table) is not None
    )
    if is_followed or is_mended(session, table, error):
        return "run 'cdc-assets sync', which follows"
    return recopy_hint(table)


def copied_anew(
    session: Session, table: TableName, shape: TableShape, because: CdcError | None
) -> SchemaChanged | None:
    """Say what it means for a table's columns that it is copied anew.

    Args:
        session: The run's, which has the table as it was.
        table: Which.
        shape: What it is from now on.
        because: Why, where it was found altered.

    Returns:
        None where it is not altered, or where nothing is known of it as it was.
    """
    point = session.checkpoints.get(table)
    if point is None or point.shape.shaping != shape.shaping:
        return None
    before = _columns(session, session.kept_shape(table))
    after = _columns(session, session.shaping(table).kept(shape))
    if because is None and list(before.items()) == list(after.items()):
        return None
    lsn = point.lsn
    if because is None:
        what = Evolution(point.shape, shape).said or "has other types"
    else:
        what = (isinstance(because, SchemaChangeError) and because.what) or because.message
    column = shape.numbered(because.attnum) if isinstance(because, ValueConversionError) else None
    if isinstance(because, ValueConversionError) and column is not None:
        what, lsn = _said_of_widened(column), LSN.parse(because.lsn)
    return SchemaChanged(table, lsn, what, "copied anew", before, after)
