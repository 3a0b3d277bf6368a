"""Writes a batch of changes to what is kept beside a mirror, before the mirror is written."""

from __future__ import annotations

import pyarrow as pa

from cdc_assets.changes.batch import ChangeBatch
from cdc_assets.changes.record import change_rows, moved_lacking
from cdc_assets.config.tables import HISTORY
from cdc_assets.identifiers import TableName
from cdc_assets.replication.session import Session, refusals_of
from cdc_assets.replication.versioning import write_versions
from cdc_assets.steps import reached


def write_records(
    session: Session, table: TableName, batch: ChangeBatch, *, written_lsn: int
) -> list[pa.Array]:
    """Write a batch, uncompacted.

    Args:
        session: Inside the window's transaction.
        table: Whose.
        batch: Its changes.
        written_lsn: Of the last transaction that this window has written there already.

    Returns:
        Keys by `moved_lacking`, where rows are read ahead of the stream; else nothing.
    """
    kept = session.kept_shape(table)
    records = session.records_of(table)
    if session.appends(table):
        with refusals_of(table):
            session.change_tables.append(table, change_rows(batch, kept))
        reached("changes_appended")
    if HISTORY in records:
        histories = session.warehouse.histories
        with refusals_of(table):
            write_versions(histories, table, kept, batch, written_lsn=written_lsn)
        reached("versions_written")
    return moved_lacking(batch, kept) if records and session.fences.get(table) else []
