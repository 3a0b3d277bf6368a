"""What types are made of, as far as an ALTER TYPE changes the texts of values that are there.

A label of an enum has an oid that outlives its name, and another `xmin` once it was renamed. Of a
composite count how many attributes it ever had, and their types; their names are in no value.
"""

from __future__ import annotations

from collections.abc import Collection

from cdc_assets.source.connection import Connection

_FIRST_OF_USERS = 16384
# Down through domains, arrays, ranges and attributes; a composite may hold arrays of itself
_PARTS = """
WITH RECURSIVE made(of, oid) AS (
    SELECT oid, oid FROM unnest(%s::oid[]) AS asked(oid)
    UNION
    SELECT made.of, under.oid FROM made JOIN pg_type t USING (oid) CROSS JOIN LATERAL (
        SELECT unnest(ARRAY[t.typbasetype, t.typelem]) AS oid
        UNION ALL SELECT rngsubtype FROM pg_range WHERE t.oid IN (rngtypid, rngmultitypid)
        UNION ALL SELECT atttypid FROM pg_attribute WHERE attrelid = t.typrelid AND attnum > 0
    ) AS under WHERE under.oid >= %s
)
SELECT made.of::bigint, string_agg(part, ' ' ORDER BY part)
FROM made JOIN pg_type t USING (oid) CROSS JOIN LATERAL (
    SELECT 'e' || label.oid || ':' || label.xmin AS part FROM pg_enum label WHERE enumtypid = t.oid
    UNION ALL
    SELECT 'c' || t.oid || ':' || left(md5(
        string_agg(concat_ws(' ', attnum, atttypid, atttypmod), ',' ORDER BY attnum)), 8)
    FROM pg_attribute WHERE attrelid = t.typrelid AND attnum > 0 HAVING count(*) > 0
) AS parts
GROUP BY made.of
"""


def read_type_parts(connection: Connection, types: Collection[int]) -> dict[int, str]:
    """Read what types are made of, by their oids, for `SourceColumn.parts`."""
    asked = sorted(oid for oid in types if oid >= _FIRST_OF_USERS)
    if not asked:
        return {}
    return dict(connection.execute(_PARTS, (asked, _FIRST_OF_USERS)).fetchall())
