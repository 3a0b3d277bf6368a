"""What the source's catalog says of the tables that are replicated."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.pgoutput.types import SourceType
from cdc_assets.source.connection import Connection


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A published table with what identifies its rows.

    Attributes:
        identity: pg_class.relreplident: d, n, f or i.
        shape: The published columns in the order of their attnum, and the key, empty when nothing
            identifies a row.
        row_filter: The publication's WHERE for this table, or empty.
        is_partitioned: Whether its rows lie in partitions.
        has_mixed_identity: Whether a partition's replica identity has other columns than the
            table's.
        has_unlogged_part: Whether a partition's changes are not in the WAL: it is unlogged, or a
            foreign table.
        selectable: Whether the role may read the table, which the first copy needs.
    """

    name: TableName
    identity: str
    shape: TableShape
    row_filter: str
    is_partitioned: bool
    has_mixed_identity: bool
    has_unlogged_part: bool
    selectable: bool
    published: bool


_IDENTITY_COLUMNS = """
(SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_index i
 JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey[0:i.indnkeyatts - 1])
 WHERE i.indrelid = {relation}.oid AND CASE {relation}.relreplident
     WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)
"""
_LEAVES = """
FROM pg_partition_tree(c.oid) part JOIN pg_class leaf ON leaf.oid = part.relid
WHERE part.isleaf AND c.relkind = 'p'
"""
_TABLES = f"""
SELECT n.nspname, c.relname, c.oid::bigint, c.relreplident, p.attnames::text[], p.rowfilter,
       p.tablename IS NOT NULL, c.relkind = 'p',
       EXISTS (SELECT 1 {_LEAVES} AND leaf.relreplident <> 'f'
                 AND {_IDENTITY_COLUMNS.format(relation="leaf")}
                     IS DISTINCT FROM {_IDENTITY_COLUMNS.format(relation="c")}),
       EXISTS (SELECT 1 {_LEAVES} AND (leaf.relpersistence <> 'p' OR leaf.relkind = 'f')),
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
       concat_ws('.', pub.oid, pub.xmin, p.rowfilter,
           (SELECT r.oid FROM pg_publication_rel r WHERE r.prpubid = pub.oid AND r.prrelid = c.oid),
           (SELECT s.oid FROM pg_publication_namespace s
            WHERE s.pnpubid = pub.oid AND s.pnnspid = n.oid))
FROM unnest(%s::text[], %s::text[]) AS wanted(nspname, relname)
JOIN pg_namespace n ON n.nspname = wanted.nspname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.relname AND c.relkind IN ('r', 'p')
LEFT JOIN pg_publication pub ON pub.pubname = %s
LEFT JOIN pg_publication_tables p
  ON p.pubname = pub.pubname AND p.schemaname = n.nspname AND p.tablename = c.relname
"""
_COLUMNS = """
SELECT a.attrelid::bigint, a.attname, a.attnum, a.atttypid::bigint, a.atttypmod,
       format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
       CASE WHEN a.attcollation NOT IN (0, 100)
            THEN quote_ident(cn.nspname) || '.' || quote_ident(co.collname) ELSE '' END
FROM pg_attribute a
LEFT JOIN pg_collation co ON co.oid = a.attcollation
LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""
_TYPES = """
SELECT t.oid::bigint, t.typtype, t.typbasetype::bigint, t.typtypmod, coalesce(e.oid, 0)::bigint
FROM pg_type t LEFT JOIN pg_type e ON e.typarray = t.oid
WHERE t.oid = ANY(%s::oid[])
"""
# A key must find every row: no partial or expression index, nothing deferrable, no nullable column;
# and it must tell apart what the column's own order tells apart, in which chunks are cut.
# A constraint outlives REINDEX CONCURRENTLY, its index does not.
_KEYS = """
SELECT i.indrelid::bigint, i.indisprimary, i.indisreplident,
       array_agg(a.attname::text ORDER BY k.place), min(con.oid)::bigint, i.indexrelid::bigint
FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey[0:i.indnkeyatts - 1], i.indclass[0:i.indnkeyatts - 1],
    i.indcollation[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(attnum, opclass, collated, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_opclass o ON o.oid = k.opclass
LEFT JOIN pg_constraint con ON con.conindid = i.indexrelid AND con.contype IN ('p', 'u')
WHERE i.indrelid = ANY(%s::oid[]) AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid, i.indrelid, i.indisprimary, i.indisreplident
HAVING bool_and(a.attnotnull AND o.opcdefault AND k.collated = a.attcollation)
ORDER BY i.indrelid, i.indisprimary DESC, i.indisreplident DESC, i.indexrelid
"""


def read_tables(
    connection: Connection, publication: str, names: Collection[TableName]
) -> dict[TableName, SourceTable]:
    """Read the catalog for `names`; a table that does not exist is left out."""
    rows = connection.execute(
        _TABLES, ([name.schema for name in names], [name.name for name in names], publication)
    ).fetchall()
    oids = [row[2] for row in rows]
    columns = _read_columns(connection, oids)
    keys = _read_keys(connection, oids)
    tables = {}
    for row in rows:
        schema, relation, oid, identity, attnames, row_filter, published, *rest = row
        partitioned, mixed, unlogged, readable, publication = rest
        key = _choose_key(identity, keys.get(oid, []))
        name = TableName(schema, relation)
        wanted = set(attnames or [column.name for column in columns[oid]])
        tables[name] = SourceTable(
            name=name,
            identity=identity,
            shape=TableShape(
                oid=oid,
                columns=tuple(column for column in columns[oid] if column.name in wanted),
                key=key.columns if key else (),
                publication=publication,
                key_origin=key.origin(identity) if key else 0,
            ),
            row_filter=row_filter or "",
            is_partitioned=partitioned,
            has_mixed_identity=mixed,
            has_unlogged_part=unlogged,
            selectable=readable,
            published=published,
        )
    return tables


def _read_columns(connection: Connection, oids: list[int]) -> dict[int, list[SourceColumn]]:
    rows = connection.execute(_COLUMNS, (oids,)).fetchall()
    types = _read_types(connection, {row[3] for row in rows})
    columns: dict[int, list[SourceColumn]] = {oid: [] for oid in oids}
    for relation, name, attnum, type_oid, typmod, type_name, nullable, collation in rows:
        resolved = _resolve(types, type_oid, typmod, type_name)
        columns[relation].append(
            SourceColumn(name, attnum, resolved, type_oid, typmod, nullable, collation)
        )
    return columns


@dataclass(frozen=True, slots=True)
class _TypeRow:
    kind: str
    base: int
    base_typmod: int
    element: int


def _read_types(connection: Connection, oids: Iterable[int]) -> dict[int, _TypeRow]:
    """Read types with all base and element types under them."""
    found: dict[int, _TypeRow] = {}
    missing = set(oids)
    while missing:
        for oid, *row in connection.execute(_TYPES, (sorted(missing),)):
            found[oid] = _TypeRow(*row)
        under = {oid for row in found.values() for oid in (row.base, row.element) if oid}
        missing = under - found.keys()
    return found


def _resolve(types: Mapping[int, _TypeRow], oid: int, typmod: int, name: str) -> SourceType:
    oid, typmod = _under_domains(types, oid, typmod)
    element = types[oid].element
    if element:
        oid, typmod = _under_domains(types, element, typmod)
    return SourceType(name, oid, typmod, is_array=bool(element), is_enum=types[oid].kind == "e")


def _under_domains(types: Mapping[int, _TypeRow], oid: int, typmod: int) -> tuple[int, int]:
    while types[oid].kind == "d":
        oid, typmod = types[oid].base, types[oid].base_typmod
    return oid, typmod


@dataclass(frozen=True, slots=True)
class _Key:
    is_primary: bool
    is_identity: bool
    columns: tuple[str, ...]
    constraint: int | None
    index: int

    def origin(self, identity: str) -> int:
        """Give what tells the key from one of the same columns that was made anew, 0 for nothing.

        With identity full the stream goes on while the key is dropped, and does not say so.
        """
        return self.constraint or (self.index if identity == "f" else 0)


def _read_keys(connection: Connection, oids: list[int]) -> dict[int, list[_Key]]:
    keys: dict[int, list[_Key]] = {}
    for relation, is_primary, is_identity, names, *origin in connection.execute(_KEYS, (oids,)):
        keys.setdefault(relation, []).append(_Key(is_primary, is_identity, tuple(names), *origin))
    return keys


def _choose_key(identity: str, candidates: list[_Key]) -> _Key | None:
    """Take the key that old tuples carry: a full one carries every column, so any key serves."""
    for key in candidates:
        match identity:
            case "d" if key.is_primary:
                return key
            case "i" if key.is_identity:
                return key
            case "f":
                return key
    return None


def row_estimate(connection: Connection, oid: int) -> int | None:
    """Give about how many rows a table has, with its partitions; None before its first ANALYZE."""
    row = connection.execute(
        "SELECT sum(reltuples)::bigint FROM pg_class WHERE relkind <> 'p' AND reltuples >= 0"
        " AND (oid = %s::oid OR oid IN (SELECT relid FROM pg_partition_tree(%s::oid::regclass)))",
        (oid, oid),
    ).fetchone()
    return row[0] if row else None
