"""What must hold of each table before it is replicated, each with its fix.

A table that breaks one of these is refused before it is published: published without a usable
identity its writers would fail (writers.py). Hints hold SQL and commands that can be run as they
stand; where several ways lead out, the one that takes nothing from anybody comes first.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator

from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName, fold, nearest, quote
from cdc_assets.pages import page
from cdc_assets.source.catalog import Catalog, SourceTable, read_catalog
from cdc_assets.source.connection import Connection
from cdc_assets.source.identities import identity_notes, identity_problems
from cdc_assets.source.names import names_of
from cdc_assets.source.published import IS_PUBLISHED
from cdc_assets.source.publishing import add_sql, entry, publish_sql, set_sql
from cdc_assets.source.writers import Fault, find_fault

_KINDS = {
    "v": "view",
    "m": "materialized view",
    "S": "sequence",
    "f": "foreign table",
    "c": "composite type",
    "i": "index",
    "I": "index",
}
_FAULTS: dict[Fault, str] = {
    "identity": "it has no replica identity",
    "generated": "its replica identity holds generated columns that are not published",
    "list": "its column list does not cover its replica identity",
    "filter": "its row filter uses columns outside its replica identity",
}
_LEAVE_OUT = "leave it out of the config's tables"


def table_problems(
    catalog: Catalog,
    names: Collection[TableName],
    *,
    published: bool = True,
    unmirrored: Collection[TableName] = (),
) -> dict[TableName, TableError]:
    """Find what keeps single tables from being replicated: the first thing of each.

    Args:
        catalog: The source's.
        names: The config's tables.
        published: Whether they must be in the publication already.
        unmirrored: Those that need no key, as their changes alone are kept.
    """
    found = {
        name: next(
            all_table_problems(
                catalog, name, names, published=published, needs_key=name not in unmirrored
            ),
            None,
        )
        for name in names
    }
    return {name: problem for name, problem in found.items() if problem is not None}


def all_table_problems(
    catalog: Catalog,
    name: TableName,
    names: Collection[TableName],
    *,
    published: bool = True,
    needs_key: bool = True,
) -> Iterator[TableError]:
    """Find everything that keeps one of the config's tables `names` from being replicated."""
    table = catalog.tables.get(name)
    if table is None:
        yield _no_table(catalog, name)
        return
    if (problem := _kind_problem(table) or _root_problem(table, names)) is not None:
        yield problem
        return
    unfit = list(identity_problems(catalog, table, names, needs_key=needs_key))
    yield from unfit
    if published and catalog.publication.exists and not (table.published or unfit):
        yield _not_published(catalog, table)
    yield from _column_problems(catalog, table, names)


def gone_problem(
    connection: Connection, catalog: Catalog, name: TableName, oid: int
) -> TableError | None:
    """Say what became of a table that was copied once, if its name is nobody's now.

    Args:
        connection: A session on the source.
        catalog: The source's.
        name: The table's name in the config.
        oid: The table's, which outlives a change of its name.
    """
    if name in catalog.tables or name in catalog.others:
        return None
    now = names_of(connection, [oid]).get(oid)
    forget = f"cdc-assets teardown --table {shlex.quote(str(name))}"
    if now is None:
        return TableError(
            f"table {str(name)!r} was dropped on the source",
            table=str(name),
            hint=f"{forget}; then {_LEAVE_OUT}",
        )
    back = []
    if now.schema != name.schema:
        back.append(f"ALTER TABLE {now.sql} SET SCHEMA {quote(name.schema)}")
    if now.name != name.name:
        there = TableName(name.schema, now.name)
        back.append(f"ALTER TABLE {there.sql} RENAME TO {quote(name.name)}")
    return TableError(
        f"table {str(name)!r} is called {str(now)!r} on the source now",
        table=str(name),
        hint=f"as the owner: {'; '.join(back)}, or {forget}; then "
        + (
            f"leave {str(name)!r} out of the config's tables"
            if now in catalog.tables
            else f"name {str(now)!r} in the config's tables instead of {str(name)!r}"
        ),
    )


def setup_problem(catalog: Catalog, name: TableName) -> TableError | None:
    """Say why setup can't add a table to the publication, if it can't."""
    table, publication = catalog.tables[name], catalog.publication
    if publication.owned and table.owned and (publication.via_root or not table.is_partitioned):
        return None
    return _not_published(catalog, table)


def widening_problems(
    connection: Connection, catalog: Catalog, names: Collection[TableName]
) -> Iterator[TableError]:
    """Find tables of the publication that would lose their UPDATE and DELETE if it had these.

    Those of the config have their own checks.
    """
    publication = catalog.publication.name
    for part, why in failing_writers(connection, catalog, names):
        yield TableError(
            f"publication {publication!r} also publishes {str(part)!r}: with it, UPDATE and DELETE "
            f"of {str(part)!r} would fail ({why})",
            table=str(part),
            hint=f"as the owner: ALTER TABLE {part.sql} REPLICA IDENTITY FULL"
            if why == _FAULTS["identity"]
            else f"as the owner: ALTER PUBLICATION {quote(publication)} DROP TABLE ONLY {part.sql}",
        )


def failing_writers(
    connection: Connection, catalog: Catalog, names: Collection[TableName]
) -> Iterator[tuple[TableName, str]]:
    """Find relations that are published beside the config's and can't be updated, each with why."""
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_publication pub CROSS JOIN pg_class c"
        f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE pubname = %s AND {IS_PUBLISHED}",
        (catalog.publication.name,),
    ).fetchall()
    others = {TableName(schema, name) for schema, name in rows} - set(names)
    if not others:
        return
    read = read_catalog(connection, catalog.publication.name, sorted(others))
    for table in read.tables.values():
        for part in table.parts:
            fault = find_fault(part, table.published_as, catalog.version)
            if fault is not None and part.in_wal:
                yield part.name, _FAULTS[fault]


def read_problems(catalog: Catalog, name: TableName) -> Iterator[TableError]:
    """Find what keeps the role from copying a table."""
    table = catalog.tables.get(name)
    if table is None:
        return
    role = quote(catalog.role)
    if not table.readable:
        yield TableError(
            f"the source's role may not read table {str(name)!r}, which the first copy needs",
            table=str(name),
            hint=f"as the owner: GRANT USAGE ON SCHEMA {quote(table.called.schema)} TO {role};"
            f" GRANT SELECT ON {table.called.sql} TO {role}",
        )
    if table.hides_rows:
        yield TableError(
            f"row-level security hides rows of table {str(name)!r} from the source's role",
            table=str(name),
            hint=f"as a superuser: ALTER ROLE {role} BYPASSRLS",
        )


def notes_of(catalog: Catalog, name: TableName, *, needs_key: bool = True) -> Iterator[str]:
    """Say what a mirror, or a change table, will not hold, though nothing is wrong."""
    table = catalog.tables.get(name)
    if table is None:
        return
    if not needs_key:
        yield from identity_notes(catalog, table)
    if table.left_out:
        yield (
            f"the mirror of {str(name)!r} is without {_listed(table.left_out)}: the stream brings "
            f"no generated columns that are not published: {page('types')}"
        )
    if table.children:
        children = _listed(map(str, table.children))
        yield (
            f"the mirror of {str(name)!r} holds its own rows, not those of its child tables "
            f"{children}: name them in the config's tables to have mirrors of them"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _no_table(catalog: Catalog, name: TableName) -> TableError:
    if (kind := catalog.others.get(name)) is not None:
        return TableError(
            f"{str(name)!r} is a {_KINDS.get(kind, 'relation of another kind')} on the source: "
            "only tables have changes",
            table=str(name),
            hint=f"{_LEAVE_OUT}, or name the tables that it reads" if kind in "vm" else _LEAVE_OUT,
        )
    if name in catalog.temporary:
        return TableError(
            f"{str(name)!r} is a temporary table on the source: its changes are not in the WAL",
            table=str(name),
            hint=_LEAVE_OUT,
        )
    namesakes = [one for one in catalog.all_names if TableName.parse(one).name == name.name]
    meant = nearest(str(name), namesakes or catalog.all_names) or next(iter(namesakes), None)
    return TableError(
        f"table {str(name)!r} does not exist on the source",
        table=str(name),
        hint=f"did you mean {meant!r}?" if meant else "correct it in the config's tables",
    )


def _kind_problem(table: SourceTable) -> TableError | None:
    name = str(table.name)
    if not table.is_partitioned and not table.parts[0].in_wal:
        return TableError(
            f"table {name!r} is unlogged: its changes are not in the WAL",
            table=name,
            hint=f"ALTER TABLE {table.called.sql} SET LOGGED, or {_LEAVE_OUT}",
        )
    return None


def _root_problem(table: SourceTable, names: Collection[TableName]) -> TableError | None:
    """Refuse a partition whose changes come, or would come, under another table's name."""
    name = str(table.name)
    root = next((root for root in table.roots if root in names), None)
    if root is not None:
        return TableError(
            f"table {name!r} is a partition of {str(root)!r}, which is in the config, too: its rows"
            " are in that mirror",
            table=name,
            hint=f"leave {name!r} out of the config's tables",
        )
    if table.published_root is not None:
        return TableError(
            f"table {name!r} is a partition, and its changes are published as those of "
            f"{str(table.published_root)!r}",
            table=name,
            hint=f"name {str(table.published_root)!r} in the config's tables instead of {name!r}",
        )
    return None


def _not_published(catalog: Catalog, table: SourceTable) -> TableError:
    name, publication = str(table.name), catalog.publication
    if publication.exists and table.is_partitioned and not publication.via_root:
        return TableError(
            f"table {name!r} is partitioned, and publication {publication.name!r} publishes its "
            "partitions by themselves",
            table=name,
            hint=f"as its owner: {set_sql(publication.name, 'publish_via_partition_root = true')}; "
            "then run 'cdc-assets setup'",
        )
    hint = "run 'cdc-assets setup'"
    if not (publication.owned and table.owned):
        hint = f"as the owner: {add_sql(publication.name, [entry(table.called)])}"
    return TableError(
        f"table {name!r} is not in publication {publication.name!r}",
        table=name,
        hint=hint,
        many=f"are not in publication {publication.name!r}",
    )


def _column_problems(
    catalog: Catalog, table: SourceTable, names: Collection[TableName]
) -> Iterator[TableError]:
    name, seen = str(table.name), dict[str, str]()
    for column in table.shape.names:
        if fold(column).startswith("_cdc_"):
            yield TableError(
                f"column {column!r} of table {name!r} has a reserved name",
                table=name,
                hint="columns that start with _cdc_ are ours: "
                + _without_column(catalog, table, column, names),
            )
        other = seen.setdefault(fold(column), column)
        if other != column:
            yield TableError(
                f"columns {other!r} and {column!r} of table {name!r} are one name in the warehouse",
                table=name,
                hint="leave one of them out: "
                + _without_column(
                    catalog, table, other if column in table.shape.key else column, names
                ),
            )


def _without_column(
    catalog: Catalog, table: SourceTable, column: str, names: Collection[TableName]
) -> str:
    if column in table.shape.key:
        new = quote(f"{column.lstrip('_')[:50]}_key")
        return f"ALTER TABLE {table.called.sql} RENAME COLUMN {quote(column)} TO {new}"
    listed = [one for one in table.shape.names if one != column]
    shown = entry(table.called, listed, table.row_filter)
    return f"as the owner: {publish_sql(catalog, table, shown, names)}"
