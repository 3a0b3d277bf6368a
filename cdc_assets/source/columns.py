"""Tables' columns with their types, as the stream and a copy give them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cdc_assets.changes.shape import SourceColumn
from cdc_assets.pgoutput.types import SourceType
from cdc_assets.source.connection import Connection
from cdc_assets.source.type_parts import read_type_parts

_COLUMNS = """
SELECT a.attrelid::bigint, a.attname, a.attnum, a.atttypid::bigint, a.atttypmod,
       format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
       CASE WHEN a.attcollation NOT IN (0, 100)
            THEN quote_ident(cn.nspname) || '.' || quote_ident(co.collname) ELSE '' END,
       a.attgenerated::text
FROM pg_attribute a
LEFT JOIN pg_collation co ON co.oid = a.attcollation
LEFT JOIN pg_namespace cn ON cn.oid = co.collnamespace
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""
_TYPES = """
SELECT t.oid::bigint, t.typtype, t.typbasetype::bigint, t.typtypmod, coalesce(e.oid, 0)::bigint,
       format_type(t.oid, NULL)
FROM pg_type t LEFT JOIN pg_type e ON e.typarray = t.oid
WHERE t.oid = ANY(%s::oid[])
"""
# Types whose own operators are not in pg_catalog. One that is implicitly a type of pg_catalog
# (citext) is compared as that: its own operators call more equal than its text forms.
_ORDERS = """
SELECT o.opcintype::bigint,
       array_agg(quote_ident(n.nspname) || '.' || op.oprname ORDER BY s.amopstrategy)
FROM pg_opclass o
JOIN pg_am am ON am.oid = o.opcmethod AND am.amname = 'btree'
JOIN pg_amop s ON s.amopfamily = o.opcfamily AND s.amoplefttype = o.opcintype
  AND s.amoprighttype = o.opcintype AND s.amopstrategy BETWEEN 1 AND 5
JOIN pg_operator op ON op.oid = s.amopopr JOIN pg_namespace n ON n.oid = op.oprnamespace
WHERE o.opcdefault AND o.opcintype = ANY(%s::oid[])
  AND NOT EXISTS (SELECT FROM pg_cast c JOIN pg_type t ON t.oid = c.casttarget
                  WHERE c.castsource = o.opcintype AND c.castmethod = 'b' AND c.castcontext = 'i'
                    AND t.typnamespace = 'pg_catalog'::regnamespace)
GROUP BY o.opcintype
HAVING count(*) = 5 AND bool_or(n.nspname <> 'pg_catalog')
"""


@dataclass(frozen=True, slots=True)
class DeclaredColumn:
    """A column, published or not; `generated` is pg_attribute.attgenerated: s, v or empty."""

    column: SourceColumn
    generated: str


def read_columns(connection: Connection, oids: list[int]) -> dict[int, list[DeclaredColumn]]:
    """Read the columns of relations, in the order of their attnum."""
    rows = connection.execute(_COLUMNS, (oids,)).fetchall()
    types = _read_types(connection, {row[3] for row in rows})
    parts = read_type_parts(connection, types)
    orders = {oid: tuple(names) for oid, names in connection.execute(_ORDERS, (sorted(types),))}
    columns: dict[int, list[DeclaredColumn]] = {oid: [] for oid in oids}
    for relation, name, attnum, type_oid, typmod, type_name, nullable, collation, generated in rows:
        base = types[_under_domains(types, type_oid, typmod)[0]]
        column = SourceColumn(
            name=name,
            attnum=attnum,
            type=_resolve(types, type_oid, typmod, type_name),
            type_oid=type_oid,
            typmod=typmod,
            nullable=nullable,
            collation=collation,
            operators=orders.get(base.oid, ()),
            # the operators of enums do not take a domain over one
            order_type=base.name if base.kind == "e" and base.oid != type_oid else "",
            parts=parts.get(type_oid, ""),
        )
        columns[relation].append(DeclaredColumn(column, generated))
    return columns


@dataclass(frozen=True, slots=True)
class _TypeRow:
    oid: int
    kind: str
    base: int
    base_typmod: int
    element: int
    name: str


def _read_types(connection: Connection, oids: Iterable[int]) -> dict[int, _TypeRow]:
    """Read types with all base and element types under them."""
    found: dict[int, _TypeRow] = {}
    missing = set(oids)
    while missing:
        for row in connection.execute(_TYPES, (sorted(missing),)):
            found[row[0]] = _TypeRow(*row)
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
