"""Which form a column is read in: the type's own binary form where that is exact, or its text.

The driver reads with a binary COPY. `pgoutput.native` makes of either form exactly what the
stream's text gives; a test holds both against the server for every type. What stays text:

- numeric: the driver's own formatting of it costs more than the server's.
- "char": its binary form has bytes that its text writes otherwise, or not at all.
- arrays: the driver drops their bounds and dimensions.
- intervals: the driver gives up on those that it can't count in nanoseconds.
- everything that the mirror keeps as the text of another kind of value (oid, inet, …), and what the
  config keeps as another type.
"""

from __future__ import annotations

from cdc_assets.changes.shape import SourceColumn
from cdc_assets.identifiers import quote
from cdc_assets.pgoutput.types import SourceType
from cdc_assets.source.texts import text_of

# bool, bytea, name, int8, int2, int4, text, json, float4, float8, char(n), varchar, date, time,
# timestamp, timestamptz, uuid, jsonb
_NATIVE = frozenset(
    {16, 17, 19, 20, 21, 23, 25, 114, 700, 701, 1042, 1043, 1082, 1083, 1114, 1184, 2950, 3802}
)


def select(column: SourceColumn) -> str:
    """Give the expression that reads a column as fast as it is exact."""
    name = quote(column.name)
    return name if _is_native(column.type) else text_of(column, name)


def _is_native(kind: SourceType) -> bool:
    # the wire has the base type of a domain
    return not kind.is_array and not kind.kept and (kind.is_enum or kind.oid in _NATIVE)
