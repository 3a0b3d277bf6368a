"""What is said of a table at the end of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cdc_assets.identifiers import TableName, record_table
from cdc_assets.lsn import LSN
from cdc_assets.progress import ChangeCounts, Column, TableResult
from cdc_assets.replication.session import Session
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
    read = _read_columns(session, table, description) if checkpoint else ()
    return TableResult(
        table=table,
        start_lsn=start,
        confirmed_lsn=lsn,
        counts=ChangeCounts(),
        lag_bytes=max(0, end - lsn) if checkpoint else 0,
        row_count=session.mirrors.row_count(session.kept_name(table)) if checkpoint else 0,
        deleted_rows=session.mirrors.deleted_count(table) if checkpoint else None,
        columns=_kept_columns(session, table, read) if checkpoint else (),
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


def _read_columns(
    session: Session, table: TableName, description: Description
) -> tuple[Column, ...]:
    """Give the source's columns that are kept, as they are before a function gets them."""
    shape, shaping = session.checkpoints[table].shape, session.shaping(table)
    given = shaping.given(shape).columns[: len(shape.columns)]
    return tuple(
        Column(
            name=here.name,
            source_name=column.name,
            source_type=column.type.name,
            warehouse_type=session.mirrors.column_type(here.type.arrow),
            nullable=column.nullable,
            is_key=column.name in shape.key,
            mask=shaping.mask.get(column.name, ""),
            comment=description.column_comments.get(column.attnum, ""),
        )
        for column, here in zip(shape.columns, given, strict=True)
    )


def _kept_columns(
    session: Session, table: TableName, read: tuple[Column, ...]
) -> tuple[Column, ...]:
    """Give the warehouse's columns: those that are read, and those that a function makes."""
    transform = session.shaping(table).transform
    if transform is None:
        return (*read, *_taken(session, table))
    given = session.shaping(table).given(session.checkpoints[table].shape)
    known = {
        one: column
        for one, column in zip(given.columns, read, strict=True)
        if one.name not in transform.lineage
    }
    sources = {column.name: column.source_name for column in read}
    return tuple(
        known.get(one)
        or Column(
            name=one.name,
            source_name="",
            source_type=transform.reference,
            warehouse_type=session.mirrors.column_type(one.type.arrow),
            nullable=True,
            is_key=False,
            made_of=tuple(
                sources[name]
                for name in transform.lineage.get(one.name, sources)
                if name in sources
            ),
        )
        for one in session.kept_shape(table).columns
    )


def _taken(session: Session, table: TableName) -> Iterator[Column]:
    """Give the columns that a table takes of others."""
    kept = {column.name: column for column in session.checkpoints[table].shape.enriched}
    for one in session.shaping(table).enrich:
        for name, here in one.columns.items():
            if here in kept:
                yield Column(
                    name=here,
                    source_name=one.made_of[name],
                    source_type=kept[here].type.name,
                    warehouse_type=session.mirrors.column_type(kept[here].type.arrow),
                    nullable=True,
                    is_key=False,
                    mask=one.masks.get(name, ""),
                    partner=str(one.partner),
                )
