"""What a run looks like as text and as JSON, and numbers for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from cdc_assets.progress import (
    ChangeCounts,
    ChunkCopied,
    SchemaChanged,
    SyncEvent,
    SyncFinished,
    TableFailed,
    TableResult,
    WindowApplied,
)
from cdc_assets.wording import counted

_MET = {"in place": "altered in place", "copied anew": "copied anew", "as it is": "left as it is"}


def line(event: SyncEvent) -> str:
    """Describe an event in one line."""
    match event:
        case ChunkCopied():
            rows = counted(event.rows, "row")
            return f"copied chunk {event.chunk} of {event.table}: {rows} in {event.seconds:.1f} s"
        case WindowApplied():
            return (
                f"applied window ({event.start_lsn}, {event.end_lsn}]:"
                f" {counted(event.changes, 'change')} of"
                f" {counted(event.transactions, 'transaction')} in {event.seconds:.1f} s,"
                f" {megabytes(event.remaining_bytes)} to go"
            )
        case SchemaChanged():
            return f"{event.table} was altered ({event.what}): what is kept is {_MET[event.how]}"
        case TableFailed():
            return f"left {event.table} behind: {event.error}"
        case SyncFinished():
            return (
                f"pipeline {event.pipeline} is at {event.confirmed_lsn}:"
                f" {counted(event.counts.total, 'change')},"
                f" {counted(event.counts.copied, 'row')} copied in {event.seconds:.1f} s"
            )
        case _:
            assert_never(event)


def finished_lines(event: SyncFinished) -> list[str]:
    """Show a run's outcome, a line per table; why one failed was said when it did."""
    header = ("table", "copied", "inserted", "updated", "deleted", "truncated", "rows", "at")
    rows = [_table_row(table) for table in event.tables]
    published = [f"published to {event.published}"] if event.published else []
    return [*columns([header, *rows]), line(event), *published, *event.notes]


def _table_row(table: TableResult) -> tuple[str, ...]:
    counts = table.counts
    numbers = (counts.copied, counts.inserted, counts.updated, counts.deleted, counts.truncated)
    return (
        str(table.table),
        *(f"{number:,}" for number in numbers),
        f"{table.row_count:,}",
        str(table.confirmed_lsn) + _remark(table),
    )


def _remark(table: TableResult) -> str:
    if table.error:
        return " FAILED"
    return "" if table.phase == "streaming" else f" {table.phase}"


def finished_as_json(event: SyncFinished) -> dict[str, Any]:
    """Give a run's outcome with LSNs as text and numbers."""
    return {
        "pipeline": event.pipeline,
        "start_lsn": str(event.start_lsn),
        "confirmed_lsn": str(event.confirmed_lsn),
        "confirmed_lsn_int": int(event.confirmed_lsn),
        "target_lsn": str(event.target_lsn),
        "lag_bytes": event.lag_bytes,
        "windows": event.windows,
        "seconds": round(event.seconds, 3),
        **_counts(event.counts),
        "notes": list(event.notes),
        "published": event.published or None,
        "tables": [_table_as_json(table) for table in event.tables],
    }


def _table_as_json(table: TableResult) -> dict[str, Any]:
    return {
        "table": str(table.table),
        "phase": table.phase,
        "start_lsn": str(table.start_lsn),
        "confirmed_lsn": str(table.confirmed_lsn),
        "confirmed_lsn_int": int(table.confirmed_lsn),
        "lag_bytes": table.lag_bytes,
        "rows": table.row_count,
        "deleted_rows": table.deleted_rows,
        **_counts(table.counts),
        "first_commit": table.first_commit.isoformat() if table.first_commit else None,
        "last_commit": table.last_commit.isoformat() if table.last_commit else None,
        "left_out_columns": list(table.left_out),
        "error": table.error.message if table.error else None,
        "hint": table.error.hint if table.error else None,
    }


def _counts(counts: ChangeCounts) -> dict[str, int]:
    return {
        "copied": counts.copied,
        "inserted": counts.inserted,
        "updated": counts.updated,
        "deleted": counts.deleted,
        "truncated": counts.truncated,
    }


def megabytes(count: int) -> str:
    """Print a number of bytes in megabytes."""
    return f"{count / 1_048_576:,.1f} MB"


def duration(seconds: float) -> str:
    """Print a time that went by, in the unit that fits."""
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds / 86_400:,.1f} days"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a table, its first column to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
