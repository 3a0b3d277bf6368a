"""What a published table asks of those who write it: else their UPDATE and DELETE fail.

The server holds every UPDATE and DELETE of a published relation against its publications, when the
statement starts (CheckCmdReplicaIdentity, execReplication.c; pub_rf_contains_invalid_column and
pub_contains_invalid_column, publicationcmds.c). Its rules are here, so that a table that does not
keep them is refused before it is published. They are about the relations that hold rows, so about
each partition and never about its root; columns are compared by name, as the list and the filter of
a root hold for its partitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cdc_assets.identifiers import TableName
from cdc_assets.source.connection import Connection
from cdc_assets.source.keys import UniqueIndex, identity_index, read_indexes
from cdc_assets.source.published import below

# A root without partitions has no relation that holds rows
_PARTS = f"""
SELECT top.oid::bigint, c.oid::bigint, n.nspname, c.relname, c.relkind, c.relpersistence,
       c.relreplident,
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid
             AND a.attgenerated = 's' AND NOT a.attisdropped ORDER BY a.attnum),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid
             AND a.attgenerated = 'v' AND NOT a.attisdropped ORDER BY a.attnum)
FROM unnest(%s::oid[]) AS wanted(oid) JOIN pg_class top ON top.oid = wanted.oid
CROSS JOIN LATERAL (SELECT top.oid AS relid WHERE top.relkind <> 'p'
                    UNION ALL SELECT relid FROM {below("top.oid")} AS tree
                    WHERE top.relkind = 'p') AS leaf
JOIN pg_class c ON c.oid = leaf.relid AND c.relkind <> 'p'
JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY top.oid, n.nspname, c.relname
"""
GENERATED_ARE_CHECKED = 180000  # the first version that looks at generated columns

Fault = Literal["identity", "generated", "list", "filter"]


@dataclass(frozen=True, slots=True)
class Part:
    """A relation that holds rows of a table: itself, or one of its partitions.

    Attributes:
        kind: pg_class.relkind: r, or f for a foreign table.
        persistence: pg_class.relpersistence: p, u or t.
        identity: pg_class.relreplident: d, n, f or i.
        stored: Its stored generated columns.
        virtual: Its virtual ones.
    """

    name: TableName
    kind: str
    persistence: str
    identity: str
    stored: tuple[str, ...]
    virtual: tuple[str, ...]
    indexes: tuple[UniqueIndex, ...]

    @property
    def identity_columns(self) -> tuple[str, ...]:
        """The columns that say which row an old tuple is; none for a full one, or without."""
        index = identity_index(self.identity, self.indexes)
        return index.columns if index else ()

    @property
    def in_wal(self) -> bool:
        """Whether changes of its rows are in the WAL."""
        return self.persistence == "p" and self.kind == "r"


@dataclass(frozen=True, slots=True)
class PublishedAs:
    """How a publication shows a table.

    Attributes:
        columns: The column list; None without one.
        filtered_by: The columns of the row filter.
        stored: Whether stored generated columns are published without a column list.
    """

    columns: tuple[str, ...] | None = None
    filtered_by: tuple[str, ...] = ()
    stored: bool = False


def read_parts(connection: Connection, oids: Sequence[int]) -> dict[int, list[Part]]:
    """Read the relations that hold the rows of tables."""
    rows = connection.execute(_PARTS, (list(oids),)).fetchall()
    indexes = read_indexes(connection, [row[1] for row in rows])
    parts: dict[int, list[Part]] = {oid: [] for oid in oids}
    for table, oid, schema, name, kind, persistence, identity, stored, virtual in rows:
        parts[table].append(
            Part(
                name=TableName(schema, name),
                kind=kind,
                persistence=persistence,
                identity=identity,
                stored=tuple(stored),
                virtual=tuple(virtual),
                indexes=tuple(indexes[oid]),
            )
        )
    return parts


def find_fault(part: Part, published: PublishedAs, version: int) -> Fault | None:
    """Find why UPDATE and DELETE of a relation fail while it is published so.

    Args:
        part: The relation.
        published: As the publication has it, or will have it.
        version: The server's, as server_version_num.
    """
    if part.kind != "r":
        return None  # a foreign table's rows are not published
    identity, columns = set(part.identity_columns), published.columns
    full = part.identity == "f"
    if not full and not identity:
        return "identity"
    if not full and not identity.issuperset(published.filtered_by):
        return "filter"
    if columns is not None and (full or not identity.issubset(columns)):
        return "list"
    if version >= GENERATED_ARE_CHECKED and columns is None:
        unpublished = part.virtual if published.stored else (*part.stored, *part.virtual)
        if (full and unpublished) or identity & set(unpublished):
            return "generated"
    return None
