"""How a backfill is told, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cdc_assets.errors import CdcError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.reporting import columns, line, megabytes
from cdc_assets.progress import BackfillEvent, BucketBackfilled
from cdc_assets.wording import counted

_HEADER = ("table", "bucket", "read", "inserted", "changed", "removed", "size", "rows/s", "at")


def backfilled_lines(done: Sequence[BucketBackfilled]) -> list[str]:
    """Show what a backfill did, a line per bucket; why a table failed was said when it did."""
    rows = [
        (
            str(one.table),
            one.bucket or "-",
            *(f"{count:,}" for count in _counts(one).values()),
            megabytes(one.nbytes),
            f"{rows_per_second(one):,}",
            str(one.lsn),
        )
        for one in done
    ]
    return [
        *(columns([_HEADER, *rows]) if rows else []),
        *(
            f"{one.table} was copied as a whole: it had no mirror that could go on"
            for one in done
            if one.in_place_of_part
        ),
        *(f"note: {note}" for note in _notes(done)),
    ]


def backfill_line(event: BackfillEvent) -> str:
    """Describe an event in one line."""
    return _backfilled(event) if isinstance(event, BucketBackfilled) else line(event)


def _backfilled(one: BucketBackfilled) -> str:
    part = f"bucket {one.bucket} of {one.table}" if one.bucket else str(one.table)
    read = f"{counted(one.rows_read, 'row')} read in {one.seconds:.1f} s"
    return f"backfilled {part}: {read}, {differences(one)}, at {one.lsn}"


def differences(one: BucketBackfilled) -> str:
    """Say what differed."""
    if not differing(one):
        return "nothing differed"
    counts = (one.rows_inserted, one.rows_changed, one.rows_removed)
    return "{:,} inserted, {:,} changed, {:,} removed".format(*counts)


def differing(one: BucketBackfilled) -> int:
    """How many rows differed."""
    return one.rows_inserted + one.rows_changed + one.rows_removed


def rows_per_second(one: BucketBackfilled) -> int:
    """How fast the source was read; 0 where it took no time."""
    return round(one.rows_read / one.seconds) if one.seconds else 0


def backfilled_as_json(
    tables: Sequence[TableName],
    done: Sequence[BucketBackfilled],
    failed: Mapping[TableName, CdcError],
) -> dict[str, Any]:
    """Give a backfill's outcome as JSON has it."""
    return {
        "tables": [
            {
                "table": str(table),
                "buckets": [_as_json(one) for one in done if one.table == table],
                "notes": _notes([one for one in done if one.table == table]),
                "error": failed[table].message if table in failed else None,
                "hint": failed[table].hint if table in failed else None,
            }
            for table in tables
        ]
    }


def _notes(done: Sequence[BucketBackfilled]) -> list[str]:
    return list(dict.fromkeys(note for one in done for note in one.notes))


def _as_json(one: BucketBackfilled) -> dict[str, Any]:
    return {
        "bucket": one.bucket,
        "past": list(one.low) if one.low is not None else None,
        "up_to": list(one.high) if one.high is not None else None,
        **{f"rows_{name}": count for name, count in _counts(one).items()},
        "lsn": str(one.lsn),
        "lsn_int": int(one.lsn),
        "seconds": round(one.seconds, 3),
        "bytes": one.nbytes,
    }


def _counts(one: BucketBackfilled) -> dict[str, int]:
    return {
        "read": one.rows_read,
        "inserted": one.rows_inserted,
        "changed": one.rows_changed,
        "removed": one.rows_removed,
    }
