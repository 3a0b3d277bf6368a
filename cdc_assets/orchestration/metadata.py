"""What a run reports to Dagster: metadata of materializations and observations.

Positions come as text to read and as a number to plot. Only names, types, positions, counts and
times leave the run here; never a value of a row, never where the source is.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import dagster as dg

from cdc_assets.config.tables import CHANGES, HISTORY
from cdc_assets.identifiers import TableName, record_table
from cdc_assets.lsn import LSN
from cdc_assets.orchestration.lineage import column_lineage, lineage_page
from cdc_assets.progress import (
    ChangeCounts,
    ChunkCopied,
    Column,
    SchemaChanged,
    SyncFinished,
    TableResult,
    WindowApplied,
)
from cdc_assets.wording import counted

Metadata = dict[str, dg.MetadataValue]

_OWN_COLUMNS = [
    dg.TableColumn(
        "_cdc_lsn",
        type="UBIGINT",
        description="end_lsn of the transaction that wrote the row",
        constraints=dg.TableColumnConstraints(nullable=False),
    ),
    dg.TableColumn(
        "_cdc_commit_ts",
        type="TIMESTAMP WITH TIME ZONE",
        description="when that transaction was committed; unknown for rows of a snapshot",
    ),
]
_DELETED_COLUMN = dg.TableColumn(
    "_cdc_deleted",
    type="BOOLEAN",
    description="whether the row was deleted, by that transaction",
    constraints=dg.TableColumnConstraints(nullable=False),
)


_RECORD_COLUMNS = {
    CHANGES: (
        ("_cdc_op", "VARCHAR", "insert, update, delete, truncate, snapshot"),
        ("_cdc_lsn", "UBIGINT", "end_lsn of the transaction"),
        ("_cdc_seq", "BIGINT", "number of the change in its transaction"),
        ("_cdc_xid", "BIGINT", "the transaction's number on the source"),
        ("_cdc_commit_ts", "TIMESTAMP WITH TIME ZONE", "when it was committed"),
        ("_cdc_source", "VARCHAR", "stream, snapshot, backfill"),
        ("_cdc_unchanged", "VARCHAR[]", "columns whose value the change did not carry"),
        ("_cdc_before", "STRUCT", "the old row as far as it was sent"),
    ),
    HISTORY: (
        ("_cdc_valid_from", "TIMESTAMP WITH TIME ZONE", "when the version was committed"),
        ("_cdc_valid_to", "TIMESTAMP WITH TIME ZONE", "when it ended; null while it is current"),
        ("_cdc_valid_from_lsn", "UBIGINT", "end_lsn of the transaction that wrote it"),
        ("_cdc_valid_to_lsn", "UBIGINT", "end_lsn of the one that ended it"),
        ("_cdc_source", "VARCHAR", "stream, snapshot, backfill"),
    ),
}


def table_metadata(result: TableResult, sources: Mapping[TableName, dg.AssetKey]) -> Metadata:
    """Describe what a run did to a table, and the table as it is now.

    Args:
        result: The run's result for the table.
        sources: The assets that columns come from, by the tables of the source.
    """
    return {
        **position_metadata(result.confirmed_lsn, start=result.start_lsn),
        **count_metadata(result.counts),
        "cdc/lag_bytes": dg.MetadataValue.int(result.lag_bytes),
        **_commit_times(result.first_commit, result.last_commit),
        **_comment(result),
        "dagster/table_name": dg.MetadataValue.text(result.warehouse_table),
        "dagster/row_count": dg.MetadataValue.int(result.row_count),
        **_deleted_rows(result),
        "dagster/column_schema": dg.MetadataValue.table_schema(_table_schema(result)),
        "dagster/column_lineage": dg.MetadataValue.column_lineage(
            column_lineage(result.columns, sources)
        ),
        "cdc/lineage": _page(result, result.warehouse_table),
        **(
            {"cdc/left_out_columns": dg.MetadataValue.json(list(result.left_out))}
            if result.left_out
            else {}
        ),
    }


def record_metadata(
    result: TableResult, sources: Mapping[TableName, dg.AssetKey], keep: str
) -> Metadata:
    """Describe a table's change table or history, and what the run did to the table."""
    return {
        **table_metadata(result, sources),
        "dagster/table_name": dg.MetadataValue.text(str(record_table(result.table, keep))),
        "dagster/row_count": dg.MetadataValue.int(result.record_rows.get(keep, 0)),
        "dagster/column_schema": dg.MetadataValue.table_schema(_record_schema(result, keep)),
        "cdc/lineage": _page(result, str(record_table(result.table, keep))),
    }


def slot_metadata(finished: SyncFinished) -> Metadata:
    """Describe a run as a whole; a plot of it shows how far behind the pipeline is."""
    return {
        **position_metadata(finished.confirmed_lsn, start=finished.start_lsn),
        **count_metadata(finished.counts),
        "cdc/lag_bytes": dg.MetadataValue.int(finished.lag_bytes),
        "cdc/target_lsn": dg.MetadataValue.text(str(finished.target_lsn)),
        "cdc/windows": dg.MetadataValue.int(finished.windows),
        "cdc/seconds": dg.MetadataValue.float(round(finished.seconds, 1)),
        "cdc/tables_changed": dg.MetadataValue.int(sum(table.changed for table in finished.tables)),
        "cdc/tables_failed": dg.MetadataValue.int(len(finished.failed)),
        **_commit_times(*_commit_range(finished.tables)),
    }


def window_metadata(window: WindowApplied) -> Metadata:
    """Describe a window that is durable and confirmed, while the run goes on.

    What means the same as in a result has its name, so that one plot shows both: the lag here is
    up to where the run stops. Counts are of the window and named so.
    """
    return {
        **position_metadata(window.end_lsn, start=window.start_lsn),
        "cdc/lag_bytes": dg.MetadataValue.int(window.remaining_bytes),
        "cdc/window/changes": dg.MetadataValue.int(window.changes),
        "cdc/window/transactions": dg.MetadataValue.int(window.transactions),
        "cdc/window/seconds": dg.MetadataValue.float(round(window.seconds, 1)),
    }


def chunk_metadata(chunk: ChunkCopied) -> Metadata:
    """Describe a chunk of a snapshot that is durable; text, because a plot of it says nothing."""
    rows = counted(chunk.rows, "row")
    copied = f"{chunk.table}: chunk {chunk.chunk}, {rows} in {chunk.seconds:.1f} s"
    return {"cdc/copying": dg.MetadataValue.text(copied)}


def quiet_metadata(result: TableResult, since: datetime) -> Metadata:
    """Describe a table that has not changed: it is as of now all the same."""
    return {
        "cdc/quiet_since": dg.MetadataValue.timestamp(since),
        "cdc/up_to_date_at": dg.MetadataValue.timestamp(datetime.now(UTC)),
        **position_metadata(result.confirmed_lsn),
    }


def source_metadata(result: TableResult) -> Metadata:
    """Describe a table of the source as the run has seen it."""
    schema = dg.TableSchema(
        columns=[_table_column(one, one.source_type, one.comment) for one in result.source_columns]
    )
    found: Metadata = {
        "cdc/read_to_lsn": dg.MetadataValue.text(str(result.confirmed_lsn)),
        "cdc/read_to_lsn_int": dg.MetadataValue.int(int(result.confirmed_lsn)),
        "dagster/column_schema": dg.MetadataValue.table_schema(schema),
        **_comment(result),
    }
    if result.source_rows is not None:
        found["cdc/estimated_rows"] = dg.MetadataValue.int(result.source_rows)
    return found


def change_metadata(change: SchemaChanged) -> Metadata:
    """Describe how a table was altered."""
    return {
        "cdc/schema_change": dg.MetadataValue.text(change.what),
        "cdc/schema_change_lsn": dg.MetadataValue.text(str(change.lsn)),
        "cdc/columns_before": dg.MetadataValue.json(dict(change.before)),
        "cdc/columns_after": dg.MetadataValue.json(dict(change.after)),
    }


def partial_metadata(counts: ChangeCounts, confirmed: LSN) -> Metadata:
    """Describe what a run that broke off had already made durable of a table."""
    return {**position_metadata(confirmed), **count_metadata(counts)}


def count_metadata(counts: ChangeCounts) -> Metadata:
    """Give a number for each kind of change, zeros too: a plot needs them."""
    return {
        "cdc/inserted": dg.MetadataValue.int(counts.inserted),
        "cdc/updated": dg.MetadataValue.int(counts.updated),
        "cdc/deleted": dg.MetadataValue.int(counts.deleted),
        "cdc/truncated": dg.MetadataValue.int(counts.truncated),
        "cdc/copied": dg.MetadataValue.int(counts.copied),
    }


def position_metadata(confirmed: LSN, *, start: LSN | None = None) -> Metadata:
    """Say how far a table is: as text to read and as a number to plot."""
    metadata: Metadata = {
        "cdc/confirmed_lsn": dg.MetadataValue.text(str(confirmed)),
        "cdc/confirmed_lsn_int": dg.MetadataValue.int(int(confirmed)),
    }
    if start is not None:
        metadata["cdc/start_lsn"] = dg.MetadataValue.text(str(start))
    return metadata


def _comment(result: TableResult) -> Metadata:
    return {"cdc/comment": dg.MetadataValue.text(result.comment)} if result.comment else {}


def _deleted_rows(result: TableResult) -> Metadata:
    kept = result.deleted_rows
    return {} if kept is None else {"cdc/deleted_rows": dg.MetadataValue.int(kept)}


def _commit_times(first: datetime | None, last: datetime | None) -> Metadata:
    times = {"cdc/first_commit": first, "cdc/last_commit": last}
    return {key: dg.MetadataValue.timestamp(time) for key, time in times.items() if time}


def _commit_range(tables: tuple[TableResult, ...]) -> tuple[datetime | None, datetime | None]:
    first = [table.first_commit for table in tables if table.first_commit]
    last = [table.last_commit for table in tables if table.last_commit]
    return min(first, default=None), max(last, default=None)


def _page(result: TableResult, name: str) -> dg.MetadataValue:
    return dg.MetadataValue.md(lineage_page(name, result.columns))


def _table_schema(result: TableResult) -> dg.TableSchema:
    deleted = [] if result.deleted_rows is None else [_DELETED_COLUMN]
    return dg.TableSchema(columns=[*_kept_columns(result), *_OWN_COLUMNS, *deleted])


def _record_schema(result: TableResult, keep: str) -> dg.TableSchema:
    kept = _kept_columns(result)
    if keep == CHANGES:  # where deletes have no value, whatever the source's column demands
        kept = [
            dg.TableColumn(one.name, type=one.type, description=one.description) for one in kept
        ]
    own = [
        dg.TableColumn(name, type=kind, description=description)
        for name, kind, description in _RECORD_COLUMNS[keep]
    ]
    return dg.TableSchema(columns=[*kept, *own])


def _kept_columns(result: TableResult) -> list[dg.TableColumn]:
    return [_table_column(one, one.warehouse_type, _origin(one)) for one in result.columns]


def _origin(column: Column) -> str:
    if not column.origins:
        return column.source_type
    first = column.origins[0]
    if first.is_made:
        made_of = ", ".join(of.source_column for of in column.origins)
        return f"made by {column.source_type} of {made_of}"
    name = f"{first.source_column}, " if first.source_column != column.name else ""
    if first.joined:
        name = f"{first.table}: {first.source_column}, "
    mask = f", masked: {first.mask}" if first.mask else ""
    widened = ", text since a value did not fit" if column.is_widened else ""
    origin = f"{name}{column.source_type} in the source{mask}{widened}"
    return f"{column.comment} ({origin})" if column.comment else origin


def _table_column(column: Column, shown_type: str, description: str) -> dg.TableColumn:
    return dg.TableColumn(
        name=column.name,
        type=shown_type,
        description=description or None,
        constraints=dg.TableColumnConstraints(
            nullable=column.nullable, other=["key"] if column.is_key else None
        ),
    )
