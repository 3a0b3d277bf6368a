"""The first copy of a table, chunk by chunk, while the source goes on.

Progress is safe because a chunk's rows, its fence and the key it reached commit together: a crash
loses at most the chunk that was being copied, and the next run goes on behind the last one. The
table's checkpoint stays at the LSN from which the slot will give its changes, taken before the
first chunk was read; the stream is applied once the last chunk is in.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from cdc_assets.changes.fence import Fence, Snapshot
from cdc_assets.changes.rows import ADDED_COLUMNS
from cdc_assets.changes.shape import TableShape
from cdc_assets.errors import SchemaChangeError, TableError, ValueConversionError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pages import page
from cdc_assets.pgoutput.values import UnfitValueError, decode_text
from cdc_assets.progress import ChunkCopied
from cdc_assets.replication.session import Session, recopy_hint, refusals_of
from cdc_assets.source.catalog import read_catalog
from cdc_assets.source.slot import wait_for_unpublished_changes, wait_until_flushed
from cdc_assets.source.snapshot import Chunk, SnapshotReader
from cdc_assets.source.standby import require_standbys
from cdc_assets.steps import reached
from cdc_assets.warehouse.base import Checkpoint

CHUNK_ROWS = 100_000
# A chunk is one warehouse transaction, and what a crash repeats
CHUNK_BYTES = 256 * 1024 * 1024
_FIRST_CHUNK_ROWS = 1_000


def copy_table(session: Session, reader: SnapshotReader, table: TableName) -> Iterator[ChunkCopied]:
    """Copy what is still missing of a table; an event per durable chunk.

    Raises:
        TableError: This table can't be copied.
        CdcError: The source or the warehouse refuses.
    """
    if table not in session.checkpoints:
        _require_published_changes(session, table)
    number, limit = 0, min(_FIRST_CHUNK_ROWS, CHUNK_ROWS)
    while (checkpoint := session.checkpoints.get(table)) is None or checkpoint.phase == "copying":
        number += 1
        started = time.monotonic()
        chunk = _copy_chunk(session, reader, table, checkpoint, limit=limit)
        reached("chunk_committed")
        yield ChunkCopied(table, number, chunk.rows, time.monotonic() - started)
        if chunk.rows:
            limit = min(CHUNK_ROWS, 1 + CHUNK_BYTES * chunk.rows // chunk.nbytes)


def _copy_chunk(
    session: Session,
    reader: SnapshotReader,
    table: TableName,
    checkpoint: Checkpoint | None,
    *,
    limit: int,
) -> Chunk:
    source = session.source_table(table)
    if checkpoint is None:
        checkpoint = Checkpoint(
            table=table,
            lsn=session.slot.confirmed_lsn,
            phase="copying",
            shape=source.shape,
            identity=session.identity,
        )
    _refuse_altered(table, checkpoint.shape.altered_to(source.shape))
    after = checkpoint.copied_to
    with (
        session.mirrors.transaction(),
        reader.read_range(source, checkpoint.shape, after=after, limit=limit) as chunk,
    ):
        reached("chunk_read")
        if table not in session.checkpoints:
            session.mirrors.create(table, checkpoint.shape)
        for rows in decoded(chunk, checkpoint.shape, table):
            with refusals_of(table):
                session.mirrors.insert(table, rows)
        wait_until_flushed(session.control, chunk.lsn)
        require_standbys(session.control, session.config.source.slot, table, chunk.lsn)
        is_last = chunk.rows < limit
        if is_last:  # behind the last chunk's snapshot: before it, a later alteration is not seen
            _refuse_altered(table, _altered_since(session, table, checkpoint.shape))
        high = None if is_last else chunk.last_key
        fence = Fence(after, high, False, Snapshot.parse(chunk.snapshot), chunk.lsn)
        session.state.add_fence(table, fence)
        session.state.renew_stamp()
        written = replace(
            checkpoint, copied_to=chunk.last_key, phase="streaming" if is_last else "copying"
        )
        session.state.write(written)
        reached("chunk_staged")
    session.checkpoints[table] = written
    session.fences.setdefault(table, []).append(fence)
    return chunk


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


def _altered_since(session: Session, table: TableName, copied: TableShape) -> str:
    """Say what became of a table since its first chunk that makes its chunks unlike one another."""
    publication = session.config.source.publication
    source = read_catalog(session.control, publication, [table]).tables.get(table)
    if source is None:
        return "it is not there any more"
    if altered := copied.altered_to(source.shape):
        return altered
    return "a column's values were rewritten" if copied.rewritten_to(source.shape) else ""


def _refuse_altered(table: TableName, altered: str) -> None:
    if altered:
        raise _altered_while_copied(table, altered)


def _altered_while_copied(table: TableName, altered: str) -> SchemaChangeError:
    """Say that a table's copy can't be finished."""
    return SchemaChangeError(
        f"table {str(table)!r} was altered while it was copied: {altered}",
        table=str(table),
        hint=recopy_hint(table),
    )


def decoded(chunk: Chunk, shape: TableShape, table: TableName) -> Iterator[pa.Table]:
    """Decode a chunk's text to rows of the mirror, batch by batch.

    Raises:
        SchemaChangeError: The table is not the one of the shape any more.
        ValueConversionError: A value that its column's type can't hold.
    """
    if chunk.is_altered:
        raise _altered_while_copied(table, "its columns or its row filter are others")
    for batch in chunk.batches:
        yield _rows(batch, shape, table, chunk.lsn)


def _rows(batch: pa.RecordBatch, shape: TableShape, table: TableName, lsn: LSN) -> pa.Table:
    columns = []
    for text, column in zip(batch.columns, shape.columns, strict=True):
        try:
            columns.append(decode_text(pc.cast(text, pa.binary()), column.type.arrow))
        except UnfitValueError as error:
            raise unfit_value(table, column.name, error.wanted, lsn) from error
    added = [
        pa.repeat(pa.scalar(int(lsn), pa.uint64()), batch.num_rows),
        pa.nulls(batch.num_rows, ADDED_COLUMNS[1].type),
    ]
    return pa.table([*columns, *added], [*shape.names, *(column.name for column in ADDED_COLUMNS)])


def unfit_value(table: TableName, column: str, wanted: str, lsn: LSN) -> TableError:
    """Say which column holds a value that can't be kept, without the value."""
    return ValueConversionError(
        f"column {column!r} of table {str(table)!r} holds a value that does not fit {wanted}, "
        f"at {lsn}",
        table=str(table),
        lsn=str(lsn),
        hint="correct the value on the source, then "
        + recopy_hint(table)
        + f"; {page('types')} lists what each type can hold",
    )
