"""What the source says of its tables to people: comments, and about how many rows there are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from cdc_assets.source.connection import Connection
from cdc_assets.source.published import below

# As bytes: a database without an encoding (SQL_ASCII) may hold a comment that is no text at all.
# A table that was never analyzed has -1 rows.
_DESCRIPTIONS = f"""
SELECT c.oid::bigint, convert_to(obj_description(c.oid, 'pg_class'), 'UTF8'),
       (SELECT sum(part.reltuples)::bigint FROM pg_class part
        WHERE part.relkind <> 'p' AND part.reltuples >= 0
        AND (part.oid = c.oid OR c.relkind = 'p' AND part.oid IN {below("c.oid")})),
       ARRAY(SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
             AND col_description(c.oid, a.attnum) IS NOT NULL ORDER BY a.attnum),
       ARRAY(SELECT convert_to(col_description(c.oid, a.attnum), 'UTF8') FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0
             AND col_description(c.oid, a.attnum) IS NOT NULL ORDER BY a.attnum)
FROM pg_class c WHERE c.oid = ANY(%s::oid[])
"""


@dataclass(frozen=True, slots=True)
class Description:
    """A table as the source describes it.

    Attributes:
        comment: On the table, or empty.
        column_comments: By attnum; no entry for a column without one.
        rows: About how many it has, with its partitions; None before its first ANALYZE.
    """

    comment: str = ""
    column_comments: Mapping[int, str] = field(default_factory=dict)
    rows: int | None = None


def read_descriptions(connection: Connection, oids: Collection[int]) -> dict[int, Description]:
    """Read what the source says of tables; no entry for one that is not there any more."""
    return {
        oid: Description(
            comment=_text(comment) if comment else "",
            column_comments={
                number: _text(said) for number, said in zip(numbers, comments, strict=True)
            },
            rows=rows,
        )
        for oid, comment, rows, numbers, comments in connection.execute(
            _DESCRIPTIONS, (list(oids),)
        )
    }


def _text(comment: bytes) -> str:
    return comment.decode("utf-8", "replace")
