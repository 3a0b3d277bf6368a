"""Values in DuckDB as Postgres writes them, where the value alone tells how that is.

Of other types it does not: a number has lost the zeros at its end where it came without a scale of
its own, and an interval is written otherwise.
"""

from __future__ import annotations

import pyarrow as pa


def has_source_text(kind: pa.DataType) -> bool:
    """Whether `source_text` knows how values of a column's own type are written."""
    types = pa.types
    return bool(types.is_integer(kind) or types.is_decimal(kind) or types.is_timestamp(kind))


def source_text(value: str, kind: pa.DataType) -> str:
    """Write an expression for the text that Postgres has for another one's value.

    Args:
        value: The expression, without a side effect: it is written several times.
        kind: Its type, for which `has_source_text` holds.
    """
    if pa.types.is_integer(kind):
        return f"({value})::VARCHAR"
    if pa.types.is_decimal(kind):  # DuckDB leaves out the zero before the point
        return rf"regexp_replace(({value})::VARCHAR, '^(-?)\.', '\10.')"
    zone = "+00" if kind.tz else ""
    # independent of the session's time zone; infinity has no other text
    text = f"make_timestamp(epoch_us({value}))::VARCHAR"
    return (
        f"CASE WHEN NOT isfinite({value}) THEN ({value})::VARCHAR"
        f" WHEN contains({text}, ' (BC)') THEN replace({text}, ' (BC)', '') || '{zone} BC'"
        f" ELSE {text} || '{zone}' END"
    )
