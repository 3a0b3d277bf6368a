"""What is live in a mirror that keeps the rows that were deleted (`deletes: soft`).

Such a mirror has one row per key, live or deleted. Whoever asks what the table has asks for live
rows alone, through the functions of this module: nobody else says in SQL what that is. In a
mirror that keeps no deleted rows every row is live, and there is no column that says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from cdc_assets.changes.rows import COMMIT_COLUMN, DELETED_COLUMN, LSN_COLUMN
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import quote
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import Ints

_DELETED = quote(DELETED_COLUMN)


def is_live(shape: TableShape, relation: str) -> str:
    """Write the condition that a row of a relation is live."""
    return f"{relation}.{_DELETED} IS NOT TRUE" if shape.keeps_deleted else "true"


def live_rows(shape: TableShape, name: str) -> str:
    """Write the live rows of a table, by its name in SQL, as a relation."""
    if not shape.keeps_deleted:
        return name
    return f"(SELECT * FROM {name} AS of_all WHERE {is_live(shape, 'of_all')})"


def mark_sql(shape: TableShape, name: str, which: str) -> str:
    """Write the statement that marks live rows of a mirror as deleted.

    Args:
        shape: The kept one.
        name: Of the mirror, in SQL.
        which: Condition over `mirror` and `_cdc_batch`, which has the columns of `endings`.
    """
    return (
        f"UPDATE {name} AS mirror SET {_DELETED} = true,"
        f" {quote(LSN_COLUMN)} = _cdc_batch._cdc_end_lsn,"
        f" {quote(COMMIT_COLUMN)} = _cdc_batch._cdc_ended_at"
        f" FROM _cdc_batch WHERE {which} AND {is_live(shape, 'mirror')}"
    )


def endings(end_lsn: Ints | list[int], micros: Ints | list[int | None]) -> pa.Table:
    """Give when n rows were deleted, for `mark_sql`: which transaction, and its commit if known."""
    at = pa.array(micros, pa.int64()).view(pa.timestamp("us", "UTC"))
    lsns = pa.array(end_lsn, pa.int64()).cast(pa.uint64())
    return pa.table([lsns, at], ["_cdc_end_lsn", "_cdc_ended_at"])


def gone(relation: str, lsn: LSN) -> str:
    """Write the columns of a mirror's rows as marked: deleted at or before an LSN."""
    return (
        f"{relation}.* REPLACE ({int(lsn)}::UBIGINT AS {quote(LSN_COLUMN)},"
        f" NULL::TIMESTAMPTZ AS {quote(COMMIT_COLUMN)}, true AS {_DELETED})"
    )


def carry_sql(
    shape: TableShape, mirror: str, stage: str, *, columns: Sequence[str], lsn: LSN
) -> str:
    """Write the statement that puts what a mirror alone has into a stage, as deleted rows.

    Args:
        shape: The stage's.
        mirror: Their names in SQL; the mirror is of a shape that keeps deleted rows as well.
        stage: Likewise.
        columns: Those that are taken over; the others are NULL.
        lsn: At or before which rows were deleted that are live in the mirror.
    """
    same = " AND ".join(f"mirror.{key} = stage.{key}" for key in map(quote, shape.key))
    key, taken = (
        ", ".join(f"mirror.{name}" for name in map(quote, names)) for names in (shape.key, columns)
    )
    into = ", ".join(map(quote, (*columns, LSN_COLUMN, COMMIT_COLUMN, DELETED_COLUMN)))
    live, at, time = is_live(shape, "mirror"), quote(LSN_COLUMN), quote(COMMIT_COLUMN)
    return (
        f"INSERT INTO {stage} ({into}) SELECT DISTINCT ON ({key}) {taken},"
        f" CASE WHEN {live} THEN {int(lsn)}::UBIGINT ELSE mirror.{at} END,"
        f" CASE WHEN {live} THEN NULL ELSE mirror.{time} END, true"
        f" FROM {mirror} AS mirror ANTI JOIN {stage} AS stage ON {same}"
    )
