"""A value's text as the stream gives it."""

from __future__ import annotations

from cdc_assets.changes.shape import SourceColumn

# Types whose cast to text is their output function, so it is the stream's text. Others (bool,
# char(n), inet, …) have a cast of their own and take the slower `format`, which calls the output
# function of any type.
_CASTS_BY_OUTPUT = frozenset(
    {17, 20, 21, 23, 25, 114, 700, 701, 1043, 1082, 1083, 1114, 1184, 1186, 1700, 2950, 3802}
)


def text_of(column: SourceColumn, value: str) -> str:
    """Write the text of a column's value; NULL stays NULL."""
    if column.type_oid in _CASTS_BY_OUTPUT:
        return f"{value}::text"
    # IS NOT NULL is not true of a composite with a null field
    return f"CASE WHEN {value} IS DISTINCT FROM NULL THEN format('%s', {value}) END"
