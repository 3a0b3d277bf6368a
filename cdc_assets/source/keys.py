"""Unique indexes: what identifies a row to the server, what may to us, and what to do without.

The server's rule is RelationGetReplicaIndex (relcache.c): the index that the table's replica
identity names, or the primary key, if it is valid and not deferrable. Ours is stricter: a key must
also tell apart what its columns' own order tells apart, in which chunks are cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cdc_assets.identifiers import TableName, quote
from cdc_assets.source.connection import Connection

# No partial or expression index: a key must find every row. A constraint outlives REINDEX
# CONCURRENTLY, its index does not.
_INDEXES = """
SELECT i.indrelid::bigint, c.relname, i.indisprimary, i.indisreplident, i.indimmediate,
       bool_and(a.attnotnull), bool_and(o.opcdefault AND k.collated = a.attcollation),
       array_agg(a.attname::text ORDER BY k.place), min(con.oid)::bigint, i.indexrelid::bigint
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1], i.indclass[0:i.indnkeyatts - 1],
    i.indcollation[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(attnum, opclass, collated, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_opclass o ON o.oid = k.opclass
LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.contype IN ('p', 'u')
WHERE i.indrelid = ANY(%s::oid[]) AND i.indisunique AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid, i.indrelid, c.relname, i.indisprimary, i.indisreplident, i.indimmediate
ORDER BY i.indrelid, i.indisprimary DESC, i.indisreplident DESC, i.indexrelid
"""


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """A valid unique index over whole columns of all rows.

    Attributes:
        immediate: Whether it is not deferrable.
        not_null: Whether all of its columns are NOT NULL.
        in_order: Whether it compares as its columns' own types and collations do.
        constraint: The oid of its constraint, if it has one.
    """

    name: str
    primary: bool
    chosen: bool  # by REPLICA IDENTITY USING INDEX
    immediate: bool
    not_null: bool
    in_order: bool
    columns: tuple[str, ...]
    constraint: int | None
    oid: int

    @property
    def may_identify(self) -> bool:
        """Whether the server takes it as a replica identity."""
        return self.immediate and self.not_null

    @property
    def is_key(self) -> bool:
        """Whether it serves as a mirror's key."""
        return self.may_identify and self.in_order

    def origin(self, identity: str) -> int:
        """Give what tells the key from one of the same columns that was made anew, 0 for nothing.

        With identity full the stream goes on while the key is dropped, and does not say so.
        """
        return self.constraint or (self.oid if identity == "f" else 0)


def read_indexes(connection: Connection, oids: Sequence[int]) -> dict[int, list[UniqueIndex]]:
    """Read the unique indexes of relations, the primary key first."""
    found: dict[int, list[UniqueIndex]] = {oid: [] for oid in oids}
    for relation, *row in connection.execute(_INDEXES, (list(oids),)):
        name, primary, chosen, immediate, not_null, in_order, columns, constraint, oid = row
        found[relation].append(
            UniqueIndex(
                name=name,
                primary=primary,
                chosen=chosen,
                immediate=immediate,
                not_null=not_null,
                in_order=in_order,
                columns=tuple(columns),
                constraint=constraint,
                oid=oid,
            )
        )
    return found


def identity_index(identity: str, indexes: Sequence[UniqueIndex]) -> UniqueIndex | None:
    """Find the index that is a relation's replica identity to the server, if one is."""
    for index in indexes:
        if (identity == "d" and index.primary) or (identity == "i" and index.chosen):
            return index if index.may_identify else None
    return None


def choose_key(identity: str, indexes: Sequence[UniqueIndex]) -> UniqueIndex | None:
    """Take the key that old tuples carry: a full one carries every column, so any key serves."""
    if identity == "f":
        return next((index for index in indexes if index.is_key), None)
    index = identity_index(identity, indexes)
    return index if index is not None and index.is_key else None


def identity_sql(table: TableName, indexes: Sequence[UniqueIndex]) -> str:
    """Give complete SQL that makes an index of a table its replica identity.

    Args:
        table: The table or partition.
        indexes: All of its unique indexes, or those that may be taken.
    """
    alter = f"ALTER TABLE {table.sql} REPLICA IDENTITY"
    for index in indexes:
        if index.is_key:
            return (
                f"{alter} DEFAULT" if index.primary else f"{alter} USING INDEX {quote(index.name)}"
            )
    new = quote(f"{table.name[:50]}_identity")
    # deferrable, in another order, or over columns that may be null
    for index in sorted(indexes, key=lambda one: not one.not_null):
        columns = ", ".join(map(quote, index.columns))
        not_null = "".join(
            f"ALTER TABLE {table.sql} ALTER {quote(column)} SET NOT NULL; "
            for column in (() if index.not_null else index.columns)
        )
        return (
            f"{not_null}CREATE UNIQUE INDEX {new} ON {table.sql} ({columns}); "
            f"{alter} USING INDEX {new}"
        )
    column = quote(f"{table.name[:50]}_key")
    return (
        f"ALTER TABLE {table.sql} ADD COLUMN {column} bigint GENERATED ALWAYS AS IDENTITY"
        f" PRIMARY KEY; {alter} DEFAULT"
    )
