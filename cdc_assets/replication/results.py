"""What is said of a table at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from cdc_assets.identifiers import TableName, record_table
from cdc_assets.lsn import LSN
from cdc_assets.progress import ChangeCounts, Column, TableResult
from cdc_assets.replication.session import Session
from cdc_assets.shaping.origins import origins_of
from cdc_assets.source.descriptions import Description


def table_result(
    session: Session, table: TableName, *, start: LSN, end: LSN, said: Mapping[int, Description]
) -> TableResult:
    """Describe a table as it is now; what the run did to it is left to say.

    Args:
        session: The run's.
        table: Which.
        start: Where the run found it.
        end: The source's.
        said: What the source says of tables, by their oids.
    """
    checkpoint, source = session.checkpoints.get(table), session.catalog.tables.get(table)
    lsn = checkpoint.lsn if checkpoint else LSN(0)
    description = said.get(checkpoint.shape.oid if checkpoint else 0, Description())
    read = _source_columns(session, table, description) if checkpoint else ()
    return TableResult(
        table=table,
        start_lsn=start,
        confirmed_lsn=lsn,
        counts=ChangeCounts(),
        lag_bytes=max(0, end - lsn) if checkpoint else 0,
        row_count=session.mirrors.row_count(session.kept_name(table)) if checkpoint else 0,
        deleted_rows=session.mirrors.deleted_count(table) if checkpoint else None,
        columns=tuple(_kept_columns(session, table, read)) if checkpoint else (),
        source_columns=read,
        warehouse_table=str(session.kept_name(table)),
        error=session.failed.get(table),
        left_out=source.left_out if source else (),
        comment=description.comment,
        source_rows=description.rows,
        record_rows={
            keep: session.mirrors.row_count(record_table(table, keep))
            for keep in session.records_of(table)
        },
    )


def _source_columns(
    session: Session, table: TableName, description: Description
) -> tuple[Column, ...]:
    """Give the source's columns that are kept, as they are there."""
    shape = session.checkpoints[table].shape
    return tuple(
        Column(
            name=column.name,
            source_type=column.type.name,
            warehouse_type=session.mirrors.column_type(column.type.arrow),
            nullable=column.nullable,
            is_key=column.name in shape.key,
            comment=description.column_comments.get(column.attnum, ""),
        )
        for column in shape.columns
    )


def _kept_columns(session: Session, table: TableName, read: tuple[Column, ...]) -> Iterator[Column]:
    """Give the warehouse's columns: those of the source, those taken of partners, those made."""
    own = {column.name: column for column in read}
    origins = origins_of(table, session.shapings, session.source_shapes)
    for column in session.kept_shape(table).columns:
        of, kind = origins.get(column.name, ()), session.mirrors.column_type(column.type.arrow)
        first = next(iter(of), None)
        if first is not None and first.table == table and not first.is_made:
            known = own[first.source_column]
            yield replace(known, name=column.name, warehouse_type=kind, origins=of)
        else:
            yield Column(
                name=column.name,
                source_type=first.function if first and first.is_made else column.type.name,
                warehouse_type=kind,
                nullable=True,
                is_key=False,
                origins=of,
            )
