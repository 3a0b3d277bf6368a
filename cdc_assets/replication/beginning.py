"""How a copy begins: what it is to read, and the stage that it fills.

From then on the stage gets every change that the stream brings (`copying`).
"""

from __future__ import annotations

from dataclasses import replace

from cdc_assets.changes.buckets import Bucket
from cdc_assets.changes.shape import TableShape
from cdc_assets.errors import CdcError, TableError, ValueConversionError
from cdc_assets.identifiers import TableName
from cdc_assets.progress import SchemaChanged
from cdc_assets.replication.evolving import copied_anew, note
from cdc_assets.replication.session import Session
from cdc_assets.shaping.declarations import is_unmirrored
from cdc_assets.source.slot import wait_for_unpublished_changes
from cdc_assets.source.snapshot import SnapshotReader
from cdc_assets.warehouse.values import Checkpoint, Copy, MadeBy


def stage_name(table: TableName, part: str) -> TableName:
    """Name the table in the warehouse that a part of a table is copied to."""
    return TableName(table.schema, f"{table.name}__cdc_copy" + (f"_{part}" if part else ""))


def begin_anew(
    session: Session,
    reader: SnapshotReader,
    table: TableName,
    made_by: MadeBy,
    *,
    because: CdcError | None = None,
) -> list[SchemaChanged]:
    """Begin a copy that will take the mirror's place; the mirror stands still from now on.

    Args:
        session: The run's.
        reader: Asked for the table's places.
        table: Which.
        made_by: Who reads it.
        because: Why, where it was found altered; a value that does not fit its column makes that
            text from now on.

    Returns:
        What was altered, if anything; it is noted with the copy.

    Raises:
        TableError: The table can't be copied.
    """
    _require_published_changes(session, table)
    _refuse_others_table(session, table)
    shape = session.source_shape(table)
    before = session.checkpoints.get(table)
    if before is not None and shape.keeps_deleted and before.shape.shaping == shape.shaping:
        shape = shape.with_types_of(before.shape)  # deleted rows can't be read again
    if isinstance(because, ValueConversionError):
        shape = shape.widened(because.attnum)
    altered = copied_anew(session, table, shape, because)
    copy = _surveyed(session, reader, table, made_by)
    checkpoint = Checkpoint(
        table=table,
        lsn=session.slot.confirmed_lsn,
        phase="copying",
        shape=shape,
        identity=session.identity,
    )
    with session.warehouse.transaction():
        session.drop_copies(table)
        if table in session.checkpoints and not session.is_mirrored(table):
            session.end_records(table)  # nothing is appended to it any more
            if not is_unmirrored(session.checkpoints[table].shape):
                session.mirrors.drop(table)  # nobody would keep it up
        elif table in session.checkpoints:
            if _records_go_on(session, table, shape):
                session.pause_records(table)
            else:
                session.end_records(table)
        session.state.drop_fences(table)
        session.put(checkpoint)
        put_up(session, copy)
        if altered is not None:
            note(session.warehouse, altered, session.run)
    session.fences.pop(table, None)
    return [altered] if altered is not None else []


def _records_go_on(session: Session, table: TableName, shape: TableShape) -> bool:
    """Whether what is kept beside a mirror is of rows like a copy's, and as of the checkpoint.

    Where rows were read ahead of the stream, the mirror is not what its records come to.
    """
    before = session.checkpoints[table].shape
    is_alike = (before.key, before.shaping) == (shape.key, shape.shaping)
    return is_alike and not session.fences.get(table)


def _refuse_others_table(session: Session, table: TableName) -> None:
    """Refuse to put a mirror where there was none and somebody has put a table or a view."""
    point = session.checkpoints.get(table)
    if (
        point is not None
        and session.is_mirrored(table)
        and is_unmirrored(point.shape)
        and session.mirrors.exists(table)
    ):
        raise TableError(
            f"table {str(table)!r}, where its mirror is to be, exists in the warehouse and is not "
            "of this pipeline",
            table=str(table),
            hint="rename or drop it, then try again",
        )


def begin_beside(
    session: Session,
    reader: SnapshotReader,
    table: TableName,
    *,
    part: str = "",
    bucket: Bucket | None = None,
    predicate: str = "",
) -> None:
    """Begin a copy of a part of a table whose mirror goes on.

    Raises:
        TableError: The table can't be read.
    """
    copy = _surveyed(session, reader, table, "backfill")
    copy = replace(
        copy, part=part, stage=stage_name(table, part), bucket=bucket, predicate=predicate
    )
    with session.warehouse.transaction():
        put_up(session, copy)


def _surveyed(session: Session, reader: SnapshotReader, table: TableName, made_by: MadeBy) -> Copy:
    baseline, files, places = reader.survey(session.source_table(table))
    return Copy(
        table=table,
        part="",
        stage=stage_name(table, ""),
        made_by=made_by,
        bucket=None,
        predicate="",
        baseline=baseline,
        files=files,
        next_place=0,
        end_place=places,
    )


def put_up(session: Session, copy: Copy) -> None:
    """Begin a copy with nothing in it, inside a transaction, in place of what there was of it."""
    session.copy_state.forget(copy)
    session.copy_state.write(copy)
    if session.is_mirrored(copy.table):
        session.stages.create(copy.stage, session.staged_shape(copy.table))
    else:
        session.change_tables.stage(copy.stage, session.kept_shape(copy.table))
    session.copies[copy.table, copy.part] = copy
    session.chunk_fences[copy.table, copy.part] = []


def _require_published_changes(session: Session, table: TableName) -> None:
    source = session.config.source
    pid = wait_for_unpublished_changes(
        session.control,
        slot=source.slot,
        publication=source.publication,
        table_oid=session.source_table(table).shape.oid,
    )
    if pid is None:
        return
    raise TableError(
        f"table {str(table)!r} was published lately, and a transaction that is older stays open:"
        f" what it has changed is not on the slot (pid {pid} on the source)",
        table=str(table),
        hint="let it end, or end it with pg_terminate_backend; the next sync copies the table",
    )
