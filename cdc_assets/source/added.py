"""What rows of a table have in columns that were added behind them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cdc_assets.source.catalog import FILES, VERSIONS
from cdc_assets.source.connection import Connection, bounded_locks
from cdc_assets.source.published import below

# In one statement: a rewrite between two of them would have put the values into the rows
_ADDED = f"""
SELECT {FILES}, {VERSIONS}, c.relkind = 'r' OR NOT EXISTS (
           SELECT FROM pg_attribute leaf WHERE leaf.attrelid IN {below("c.oid")}
           AND leaf.attname = ANY(%s) AND leaf.atthasmissing), a.attname,
       CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END
FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = ANY(%s)
    AND NOT a.attisdropped AND a.attnum > 0
WHERE c.oid = %s::oid
"""


@dataclass(frozen=True, slots=True)
class AddedValues:
    """What older rows show in columns, at one moment.

    Attributes:
        files: Those of the table then, as `TableShape.files`.
        versions: Likewise.
        texts: By the columns' names; None is null.
        are_known: Whether they are known: partitions have their own, which may differ.
    """

    files: str
    versions: str
    texts: dict[str, str | None]
    are_known: bool


def read_added(connection: Connection, oid: int, names: Collection[str]) -> AddedValues | None:
    """Read what older rows show in columns; None where the table is not there any more.

    Raises:
        SourceBusyError: Somebody else has locked what is asked.
    """
    with bounded_locks(connection):
        rows = connection.execute(_ADDED, (list(names), list(names), oid)).fetchall()
    if not rows:
        return None
    files, versions, are_known = rows[0][:3]
    texts = {name: text for *_, name, text in rows if name is not None}
    return AddedValues(files or "", versions or "", texts, are_known)
