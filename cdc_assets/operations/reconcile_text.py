"""How a comparison of mirrors with their sources is told, as text and as JSON."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from cdc_assets.operations.backfill_text import backfill_line
from cdc_assets.operations.reporting import columns
from cdc_assets.progress import BucketCompared, ReconcileEvent, TableCompared
from cdc_assets.wording import counted

_HEADER = ("source rows", "warehouse rows", "missing", "extra", "different")
COUNTED = ("source_rows", "warehouse_rows", "missing", "extra", "different")


def compared_lines(tables: Sequence[TableCompared]) -> list[str]:
    """Show a comparison: a line per table and per bucket that differs, then what to do."""
    rows: list[tuple[str, ...]] = [("table", "at", *_HEADER, "")]
    for table in tables:
        at = "" if table.not_compared else str(table.at_lsn)
        rows.append((str(table.table), at, *_numbers(*totals(table)), _verdict(table)))
        rows += [
            (f"  bucket {bucket.bucket}", str(bucket.at_lsn), *_numbers(*counts_of(bucket)), "")
            for bucket in table.buckets
            if not bucket.equal
        ]
    return [line.rstrip() for line in columns(rows)] + [
        line for table in tables for line in details(table)
    ]


def _verdict(table: TableCompared) -> str:
    if table.no_mirror:
        return "no mirror"
    if table.not_compared:
        return "backfilled" if table.repaired else "NOT COMPARED"
    if table.equal:
        return "equal"
    return "repaired" if table.repaired else "DIFFERENT"


def details(table: TableCompared) -> list[str]:
    """Say what differs in a table, and the way out; nothing of one that is equal."""
    if table.not_compared:
        if table.no_mirror:
            return []
        hint = "" if table.repaired else table.hint
        return [table.not_compared, *([f"hint: {hint}"] if hint else [])]
    if table.equal:
        return []
    found = []
    if table.columns:
        found.append(f"{table.table} differs in {', '.join(map(repr, table.columns))}")
    if table.keys:
        shown = ", ".join(" ".join(key) if len(key) == 1 else str(key) for key in table.keys)
        found.append(f"{table.table} differs at keys {shown}")
    return found if table.repaired else [*found, f"hint: put it right: {repair_command(table)}"]


def repair_command(table: TableCompared) -> str:
    """Give the command that backfills what differs."""
    buckets = (bucket.bucket for bucket in table.buckets if not bucket.equal)
    named = [word for bucket in buckets if bucket for word in ("--bucket", bucket)]
    return shlex.join(["cdc-assets", "backfill", str(table.table), *named])


def reconcile_line(event: ReconcileEvent) -> str:
    """Describe an event in one line."""
    return compared_line(event) if isinstance(event, TableCompared) else backfill_line(event)


def compared_line(table: TableCompared) -> str:
    """Say in one line how a table compares."""
    if table.not_compared:
        return f"{table.table} was not compared"
    source_rows, warehouse_rows, missing, extra, different = totals(table)
    where = f"{table.table} at {table.at_lsn}"
    if table.equal:
        return f"{where} equals its source: {counted(source_rows, 'row')}"
    return (
        f"{where} differs from its source: {counted(missing, 'row')} missing, {extra:,} extra,"
        f" {different:,} different, of {source_rows:,} there and {warehouse_rows:,} here"
        + (", repaired" if table.repaired else "")
    )


def totals(table: TableCompared) -> list[int]:
    """Add up buckets: rows of the source, of the warehouse, missing, extra, different."""
    return [sum(column) for column in zip([0] * 5, *map(counts_of, table.buckets), strict=True)]


def compared_as_json(tables: Sequence[TableCompared]) -> dict[str, Any]:
    """Give a comparison as JSON has it."""
    return {
        "tables": [
            {
                "table": str(table.table),
                "at_lsn": str(table.at_lsn),
                **dict(zip(COUNTED, totals(table), strict=True)),
                "equal": table.equal,
                **({"not_compared": table.not_compared} if table.not_compared else {}),
                "buckets": [
                    {
                        "bucket": bucket.bucket,
                        "at_lsn": str(bucket.at_lsn),
                        **dict(zip(COUNTED, counts_of(bucket), strict=True)),
                        "equal": bucket.equal,
                    }
                    for bucket in table.buckets
                ],
            }
            for table in tables
        ]
    }


def counts_of(one: BucketCompared) -> tuple[int, ...]:
    """Give what is counted of a bucket, in the order of `COUNTED`."""
    return (one.source_rows, one.warehouse_rows, one.missing, one.extra, one.different)


def _numbers(*counts: int) -> tuple[str, ...]:
    return tuple(f"{count:,}" for count in counts)
