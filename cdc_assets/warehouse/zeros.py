"""Zeros with a sign, which DuckDB before 2.0 does not keep.

Its files hold a run of equal values once, and -0.0 equals 0.0: whichever came first is what both
are from then on. A value is stopped rather than changed.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cdc_assets.changes.rows import LSN_COLUMN
from cdc_assets.errors import ValueConversionError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.warehouse.versions import MAJOR

KEPT = MAJOR >= 2


def refuse_lost_zeros(table: TableName, rows: pa.Table) -> None:
    """Refuse rows with a negative zero; nothing is looked at where DuckDB keeps it.

    Raises:
        ValueConversionError: With the column, its type and the LSN of the first such row.
    """
    if KEPT or not rows.num_rows:
        return
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        at = first_negative_zero(column.combine_chunks())
        if at is not None:
            lsn = str(LSN(rows[LSN_COLUMN][at].as_py()))
            raise ValueConversionError(
                f"column {name!r} of table {str(table)!r} ({column.type}) holds a -0.0 at {lsn}, "
                f"which DuckDB {duckdb.__version__} would keep as 0.0",
                table=str(table),
                lsn=lsn,
                hint="install DuckDB 2.0 or later, or write 0.0 on the source and copy the table "
                "anew",
            )


def first_negative_zero(values: pa.Array) -> int | None:
    """Give the row of the first -0.0 among floats or lists of floats."""
    rows = None
    while pa.types.is_list(values.type):
        parents = pc.list_parent_indices(values)
        rows = parents if rows is None else rows.take(parents)
        values = pc.list_flatten(values)
    if not pa.types.is_floating(values.type):
        return None
    one = pa.scalar(1, values.type)
    # a division alone would take the smallest numbers for zeros
    found = pc.and_(pc.equal(values, 0), pc.less(pc.divide(one, values), 0))
    at = pc.index(found, True).as_py()
    if at < 0:
        return None
    return int(rows[at].as_py()) if rows is not None else int(at)
