"""What the source's catalog says of the tables that are replicated."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from cdc_assets.changes.shape import Published, SourceColumn, TableShape
from cdc_assets.errors import SourceBusyError
from cdc_assets.identifiers import TableName
from cdc_assets.pgoutput.types import intervals_as_text
from cdc_assets.source.columns import DeclaredColumn, read_columns
from cdc_assets.source.connection import Connection, bounded_locks, fetch_one
from cdc_assets.source.keys import UniqueIndex, choose_key, read_indexes
from cdc_assets.source.partitions import PARTITIONS
from cdc_assets.source.published import IS_PUBLISHED, below
from cdc_assets.source.writers import GENERATED_ARE_CHECKED, Part, PublishedAs, read_parts


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table with what is published of it and what identifies its rows.

    Attributes:
        name: The one that the config has.
        identity: pg_class.relreplident: d, n, f or i.
        shape: The columns that the stream brings, in the order of their attnum, and the key, empty
            when nothing identifies a row.
        columns: Those that the stream brings where no column list leaves any out.
        indexes: Its unique indexes.
        row_filter: The publication's WHERE for this table as hints show it, or empty.
        published_as: How the publication shows it, or will show it.
        left_out: Its generated columns that the stream does not bring.
        is_partitioned: Whether its rows lie in partitions.
        parts: The relations that hold its rows.
        children: Tables that inherit from it: their rows are their own.
        roots: Of a partition, the tables above it.
        published_root: The one of them under whose name the publication shows it, if one is.
        readable: Whether the role may read the table, which the first copy needs.
        hides_rows: Whether row-level security would hide rows from the role.
        owned: Whether the role may do what the table's owner may.
    """

    name: TableName
    identity: str
    shape: TableShape
    columns: tuple[SourceColumn, ...]
    indexes: tuple[UniqueIndex, ...]
    row_filter: str
    published_as: PublishedAs
    left_out: tuple[str, ...]
    is_partitioned: bool
    parts: tuple[Part, ...]
    children: tuple[TableName, ...]
    roots: tuple[TableName, ...]
    published_root: TableName | None
    readable: bool
    hides_rows: bool
    owned: bool
    published: bool

    @property
    def called(self) -> TableName:
        """The name that the source has for it: another one once somebody has renamed it."""
        return TableName.parse(self.shape.called)


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication and what the role may do with it.

    Attributes:
        exists: Whether it does; the rest is what setup would make of it otherwise.
        owned: Whether the role may alter it, or make it.
        leaves_out: The kinds of changes that it does not publish.
        has_schemas: Whether it publishes schemas; then no table of it may have a column list.
        via_root: Whether partitions are published as their root.
        stored: Whether stored generated columns are published without a column list.
    """

    name: str
    exists: bool
    owned: bool
    all_tables: bool
    has_schemas: bool
    leaves_out: tuple[str, ...]
    via_root: bool
    stored: bool


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the checks need to know of the source, read once.

    Attributes:
        version: server_version_num.
        role: Whose session it is.
        tables: Of the wanted names, those that are ordinary or partitioned tables.
        others: Of the wanted names, those that are something else: their pg_class.relkind.
        temporary: Of the wanted names, those that only a temporary table has.
        all_names: Every table's name, where one of the wanted ones is none.
    """

    version: int
    role: str
    database: str
    publication: Publication
    tables: Mapping[TableName, SourceTable]
    others: Mapping[TableName, str]
    temporary: frozenset[TableName]
    all_names: tuple[str, ...]


MUST_PUBLISH = ("insert", "update", "delete", "truncate")
_PUBLICATION = """
SELECT pub.oid IS NOT NULL,
       CASE WHEN pub.oid IS NULL THEN has_database_privilege(current_database(), 'CREATE')
            ELSE pg_has_role(pub.pubowner, 'USAGE') END,
       coalesce(puballtables, false),
       EXISTS (SELECT FROM pg_publication_namespace WHERE pnpubid = pub.oid),
       coalesce(pubinsert, true), coalesce(pubupdate, true),
       coalesce(pubdelete, true), coalesce(pubtruncate, true), coalesce(pubviaroot, true),
       coalesce(to_jsonb(pub) ->> 'pubgencols' = 's', false)
FROM (SELECT) AS always LEFT JOIN pg_publication pub ON pubname = %s
"""
# Of pg_class c: what tells whether rows were rewritten, and columns altered
FILES = f"""CASE c.relkind WHEN 'r' THEN pg_relation_filenode(c.oid)::text
           ELSE (SELECT string_agg(pg_relation_filenode(part.relid)::text, ' ' ORDER BY part.relid)
                 FROM {below("c.oid")} part) END"""
VERSIONS = """(SELECT string_agg(a.attnum || ':' || CASE WHEN a.attisdropped THEN '-'
               ELSE a.xmin::text END, ' ' ORDER BY a.attnum)
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0)"""
_TABLES = f"""
SELECT n.nspname, c.relname, c.oid::bigint, c.relreplident,
       CASE WHEN s.oid IS NULL AND {IS_PUBLISHED} THEN r.prqual::text END,
       {IS_PUBLISHED}, c.relkind = 'p',
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'),
       row_security_active(c.oid), pg_has_role(c.relowner, 'USAGE'),
       (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum = ANY(r.prattrs)),
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum IN
             (SELECT found[1]::int FROM regexp_matches(r.prqual::text, ':varattno (\\d+)', 'g')
              AS found) ORDER BY a.attnum),
       coalesce(pub.oid, 0)::bigint, coalesce(pub.xmin::text, '0')::bigint,
       coalesce(r.oid, 0)::bigint, coalesce(s.oid, 0)::bigint,
       {FILES},
       {VERSIONS},
       {PARTITIONS}
FROM unnest(%s::text[], %s::text[]) AS wanted(nspname, relname)
JOIN pg_namespace n ON n.nspname = wanted.nspname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.relname AND c.relkind IN ('r', 'p')
LEFT JOIN pg_publication pub ON pub.pubname = %s
LEFT JOIN pg_publication_rel r ON r.prpubid = pub.oid AND r.prrelid = c.oid
LEFT JOIN pg_publication_namespace s ON s.pnpubid = pub.oid AND s.pnnspid = n.oid
"""
# To print an expression the server opens the table, which somebody may have locked
_FILTERS = """
SELECT prrelid::bigint, pg_get_expr(prqual, prrelid)
FROM pg_publication_rel JOIN pg_publication pub ON pub.oid = prpubid
WHERE pubname = %s AND prrelid = ANY(%s::oid[])
"""
_FILTER_SECONDS = 0.1
UNKNOWN_FILTER = "…"
_RELATED = f"""
SELECT wanted.oid::bigint, found.kind, n.nspname, c.relname, {IS_PUBLISHED}
FROM unnest(%s::oid[]) AS wanted(oid) JOIN pg_class self ON self.oid = wanted.oid
CROSS JOIN LATERAL (
    SELECT 'root' AS kind, relid FROM pg_partition_ancestors(self.oid)
    WHERE self.relispartition AND relid <> self.oid
    UNION ALL
    SELECT 'child', inhrelid FROM pg_inherits WHERE inhparent = self.oid AND self.relkind = 'r'
) AS found
JOIN pg_class c ON c.oid = found.relid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_publication pub ON pub.pubname = %s
ORDER BY wanted.oid, n.nspname, c.relname
"""
_NOT_TABLES = """
SELECT n.nspname, c.relname, c.relkind, c.relpersistence = 't' AND c.relkind IN ('r', 'p')
FROM unnest(%s::text[], %s::text[]) AS wanted(nspname, relname)
JOIN pg_class c ON c.relname = wanted.relname JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = wanted.nspname AND c.relkind NOT IN ('r', 'p') OR c.relpersistence = 't'
"""
_ALL_NAMES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""


def read_catalog(connection: Connection, publication: str, names: Collection[TableName]) -> Catalog:
    """Read what the checks need to know of the source and of the tables `names`."""
    version, role, database = fetch_one(
        connection,
        "SELECT current_setting('server_version_num')::int, current_user, current_database()",
    )
    with bounded_locks(connection):
        state = _read_publication(connection, publication)
        tables = _read_tables(connection, state, names, version)
    missing = [name for name in names if name not in tables]
    others, temporary = _read_others(connection, missing) if missing else ({}, frozenset())
    everything = connection.execute(_ALL_NAMES).fetchall() if missing else ()
    return Catalog(
        version=version,
        role=role,
        database=database,
        publication=state,
        tables=tables,
        others=others,
        temporary=temporary,
        all_names=tuple(str(TableName(schema, name)) for schema, name in everything),
    )


def _read_publication(connection: Connection, name: str) -> Publication:
    exists, owned, all_tables, has_schemas, *kinds, via_root, stored = fetch_one(
        connection, _PUBLICATION, (name,)
    )
    return Publication(
        name=name,
        exists=exists,
        owned=owned,
        all_tables=all_tables,
        has_schemas=has_schemas,
        leaves_out=tuple(
            kind for kind, publishes in zip(MUST_PUBLISH, kinds, strict=True) if not publishes
        ),
        via_root=via_root,
        stored=stored,
    )


def _read_others(
    connection: Connection, names: Collection[TableName]
) -> tuple[dict[TableName, str], frozenset[TableName]]:
    schemas, relations = _split(names)
    others, temporary = {}, set()
    for schema, name, kind, is_temporary in connection.execute(_NOT_TABLES, (schemas, relations)):
        if not is_temporary:
            others[TableName(schema, name)] = kind
        else:
            temporary |= {wanted for wanted in names if wanted.name == name}
    return others, frozenset(temporary - others.keys())


def _in_key(column: SourceColumn) -> SourceColumn:
    return replace(column, type=intervals_as_text(column.type))


def _split(names: Collection[TableName]) -> tuple[list[str], list[str]]:
    return [name.schema for name in names], [name.name for name in names]


def _read_tables(
    connection: Connection, publication: Publication, names: Collection[TableName], version: int
) -> dict[TableName, SourceTable]:
    """Read the catalog for `names`; what is not a table is left out."""
    rows = connection.execute(_TABLES, (*_split(names), publication.name)).fetchall()
    oids = [row[2] for row in rows]
    columns = read_columns(connection, oids)
    indexes, parts = read_indexes(connection, oids), read_parts(connection, oids)
    children, roots, published_roots = _read_related(connection, publication, oids)
    filters = _read_filters(connection, publication, [row[2] for row in rows if row[4]])
    tables = {}
    for row in rows:
        schema, relation, oid, identity, filter_tree, published, *rest = row
        partitioned, readable, hides, owned, column_list, filtered_by, *rest = rest
        publication_oid, version_of_publication, entry, schema_entry, *rest = rest
        files, versions, partitions = rest
        key = choose_key(identity, indexes[oid])
        name = TableName(schema, relation)
        brought = [
            one.column
            for one in columns[oid]
            if _is_brought(
                one,
                column_list if published else None,
                stored=publication.stored,
                version=version,
            )
        ]
        names_brought = {column.name for column in brought}
        tables[name] = SourceTable(
            name=name,
            identity=identity,
            shape=TableShape(
                oid=oid,
                columns=tuple(
                    _in_key(column) if key and column.name in key.columns else column
                    for column in brought
                ),
                key=key.columns if key else (),
                publication=Published(
                    publication=publication_oid,
                    version=version_of_publication,
                    row_filter=_digest(filter_tree) if filter_tree else "",
                    entry=entry,
                    schema_entry=schema_entry,
                ),
                key_origin=key.origin(identity) if key else 0,
                files=files or "",
                versions=versions or "",
                called=str(name),
                partitions=partitions or "",
            ),
            columns=tuple(
                one.column
                for one in columns[oid]
                if _is_brought(one, None, stored=publication.stored, version=version)
            ),
            indexes=tuple(indexes[oid]),
            row_filter=filters.get(oid, UNKNOWN_FILTER) if filter_tree else "",
            published_as=PublishedAs(
                columns=None if column_list is None else tuple(column_list),
                filtered_by=tuple(filtered_by),
                stored=publication.stored,
            ),
            left_out=tuple(
                one.column.name
                for one in columns[oid]
                if one.generated and one.column.name not in names_brought
            ),
            is_partitioned=partitioned,
            parts=tuple(parts[oid]),
            children=tuple(children.get(oid, ())),
            roots=tuple(roots.get(oid, ())),
            published_root=published_roots.get(oid),
            readable=readable,
            hides_rows=hides,
            owned=owned,
            published=published,
        )
    return tables


def _digest(filter_tree: str) -> str:
    return hashlib.sha256(filter_tree.encode()).hexdigest()[:16]


def _read_filters(
    connection: Connection, publication: Publication, oids: list[int]
) -> dict[int, str]:
    """Read the tables' row filters for hints; none where one of the tables is locked."""
    if not oids:
        return {}
    try:
        with bounded_locks(connection, _FILTER_SECONDS):
            return dict(connection.execute(_FILTERS, (publication.name, oids)).fetchall())
    except SourceBusyError:
        return {}


def _is_brought(
    declared: DeclaredColumn, column_list: list[str] | None, *, stored: bool, version: int
) -> bool:
    """Say whether the stream brings a column; `column_list` is the publication's for the table.

    Before version 18 pgoutput passes over generated columns, though pg_publication_tables has them.
    """
    if declared.generated and version < GENERATED_ARE_CHECKED:
        return False
    if column_list is not None:
        return declared.column.name in column_list
    return not declared.generated or (stored and declared.generated == "s")


_Related = dict[int, list[TableName]]


def _read_related(
    connection: Connection, publication: Publication, oids: list[int]
) -> tuple[_Related, _Related, dict[int, TableName]]:
    """Read children, roots, and the root under which a partition is published."""
    children: _Related = {}
    roots: _Related = {}
    published_roots: dict[int, TableName] = {}
    for oid, kind, schema, name, published in connection.execute(
        _RELATED, (oids, publication.name)
    ):
        table = TableName(schema, name)
        if kind == "child":
            children.setdefault(oid, []).append(table)
            continue
        roots.setdefault(oid, []).append(table)
        if published and publication.via_root:
            published_roots[oid] = table
    return children, roots, published_roots


def row_estimate(connection: Connection, oid: int) -> int | None:
    """Give about how many rows a table has, with its partitions; None before its first ANALYZE."""
    row = connection.execute(
        "SELECT sum(reltuples)::bigint FROM pg_class WHERE relkind <> 'p' AND reltuples >= 0"
        f" AND (oid = %s::oid OR oid IN {below('%s::oid')}"
        " AND (SELECT relkind = 'p' FROM pg_class WHERE oid = %s::oid))",
        (oid, oid, oid),
    ).fetchone()
    return row[0] if row else None
