"""What is said of a table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping

from cdc_assets.config.tables import CHANGES
from cdc_assets.identifiers import TableName, change_table
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
    return TableResult(
        table=table,
        start_lsn=start,
        confirmed_lsn=lsn,
        counts=ChangeCounts(),
        lag_bytes=max(0, end - lsn) if checkpoint else 0,
        row_count=session.mirrors.row_count(table) if checkpoint else 0,
        deleted_rows=session.mirrors.deleted_count(table) if checkpoint else None,
        columns=_columns(session, table, description) if checkpoint else (),
        warehouse_table=str(table),
        error=session.failed.get(table),
        left_out=source.left_out if source else (),
        comment=description.comment,
        source_rows=description.rows,
        change_rows=session.mirrors.row_count(change_table(table))
        if CHANGES in session.records_of(table)
        else None,
    )


def _columns(session: Session, table: TableName, description: Description) -> tuple[Column, ...]:
    shape, shaping = session.checkpoints[table].shape, session.shaping(table)
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
        for column, here in zip(shape.columns, shaping.kept(shape).columns, strict=True)
    )
