"""Replica identities that a table can't be replicated with, each with its fix.

Hints hold SQL that can be run as it stands; where several ways lead out, the one that takes nothing
from anybody comes first.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from dataclasses import replace

from cdc_assets.errors import ReplicaIdentityError, TableError
from cdc_assets.identifiers import TableName
from cdc_assets.source.catalog import Catalog, SourceTable
from cdc_assets.source.keys import identity_sql
from cdc_assets.source.publishing import create_sql, entry, publish_sql, set_sql
from cdc_assets.source.writers import GENERATED_ARE_CHECKED, Part, find_fault

_PLAIN_KEY = "give it a key over columns that are not generated"


def identity_problems(
    catalog: Catalog,
    table: SourceTable,
    names: Collection[TableName],
    *,
    needs_key: bool = True,
) -> Iterator[TableError]:
    """Find what keeps a table's changes from saying which row they are about.

    Args:
        catalog: The source's.
        table: Of the config's tables `names`.
        names: The config's tables.
        needs_key: Whether that has to be said; else only what its writers would fail by, though
            they have a replica identity, is found.
    """
    if not needs_key:
        yield from _failing_writers(catalog, table, names)
        return
    if not table.shape.key:
        yield _no_key(table)
        return
    for part in table.parts:
        if table.is_partitioned and not part.in_wal:
            yield _not_in_wal(table, part)
            continue
        fault = find_fault(part, table.published_as, catalog.version)
        mixed = part.identity != "f" and set(part.identity_columns) != set(table.shape.key)
        if mixed and table.is_partitioned:
            yield _other_identity(table, part)
        elif fault == "generated":
            yield _unpublished_generated(catalog, table, part, names)
        elif fault == "filter":
            yield _filter_outside_identity(catalog, table, part, names)
        elif fault == "list" and part.identity == "f":
            yield _list_of_full_identity(table, part)
    unpublished = sorted(set(table.shape.key) - set(table.shape.names))
    if unpublished:
        yield _unpublished_key(catalog, table, unpublished, names)


def _failing_writers(
    catalog: Catalog, table: SourceTable, names: Collection[TableName]
) -> Iterator[TableError]:
    for part in table.parts:
        if table.is_partitioned and not part.in_wal:
            yield _not_in_wal(table, part)
            continue
        match find_fault(part, table.published_as, catalog.version):
            case "generated":
                yield _unpublished_generated(catalog, table, part, names)
            case "filter":
                yield _filter_outside_identity(catalog, table, part, names)
            case "list" if part.identity == "f":
                yield _list_of_full_identity(table, part)
            case "list":
                lacking = sorted(set(part.identity_columns) - set(table.shape.names))
                yield _unpublished_key(catalog, table, lacking, names)
            case _:
                continue


def identity_notes(catalog: Catalog, table: SourceTable) -> Iterator[str]:
    """Say what the writers of a table that needs no key meet, and what its changes will lack."""
    for part in table.parts:
        what = _where(table, part)
        full = f"ALTER TABLE {part.name.sql} REPLICA IDENTITY FULL"
        if part.in_wal and find_fault(part, table.published_as, catalog.version) == "identity":
            yield (
                f"{what} has no replica identity: while it is published, Postgres refuses its "
                f"UPDATE and DELETE, so that there are inserts and truncates alone; {full} lets "
                "them through, with whole old rows"
            )
        elif part.in_wal and part.identity != "f":
            yield (
                f"of old rows of {what} its key alone comes, and nothing where an UPDATE leaves "
                f"that; {full} brings them whole"
            )


def _no_key(table: SourceTable) -> ReplicaIdentityError:
    name = str(table.name)
    has = "REPLICA IDENTITY FULL but no key" if table.identity == "f" else "no replica identity"
    if table.identity == "n":
        has = "REPLICA IDENTITY NOTHING"
    breaks = "" if table.identity == "f" else "; published, its UPDATE and DELETE fail"
    return ReplicaIdentityError(
        f"table {name!r} has {has}: nothing says which row a change is about{breaks}",
        table=name,
        hint="a key is unique over NOT NULL columns, in their own collation and default order: "
        f"{identity_sql(table.called, table.indexes)}; or keep its changes alone, which takes no "
        "key: keep: [changes]",
    )


def _where(table: SourceTable, part: Part) -> str:
    name = f"table {str(table.name)!r}"
    return f"partition {str(part.name)!r} of {name}" if table.is_partitioned else name


def _not_in_wal(table: SourceTable, part: Part) -> TableError:
    what = "a foreign table" if part.kind == "f" else "unlogged"
    root = table.called.sql
    return TableError(
        f"{_where(table, part)} is {what}: its changes are not in the WAL",
        table=str(table.name),
        hint=f"ALTER TABLE {root} DETACH PARTITION {part.name.sql}"
        if part.kind == "f"
        else f"ALTER TABLE {part.name.sql} SET LOGGED",
    )


def _other_identity(table: SourceTable, part: Part) -> ReplicaIdentityError:
    name, key = str(table.name), set(table.shape.key)
    usable = [one for one in part.indexes if set(one.columns) == key and one.is_key]
    alter = (
        identity_sql(part.name, usable)
        if usable
        else f"ALTER TABLE {part.name.sql} REPLICA IDENTITY FULL"
    )
    return ReplicaIdentityError(
        f"{_where(table, part)} has another replica identity than the table: its changes would not "
        "say which row they are about",
        table=name,
        hint=alter
        if not table.published
        else f"{alter}; if the partition has changed since, copy the table anew: "
        f"cdc-assets backfill {shlex.quote(name)}",
    )


def _unpublished_generated(
    catalog: Catalog, table: SourceTable, part: Part, names: Collection[TableName]
) -> ReplicaIdentityError:
    full, stored = part.identity == "f", set(part.stored)
    published = stored if table.published_as.stored else set()
    generated = {*part.stored, *part.virtual} - published
    held = generated if full else generated & set(part.identity_columns)
    shown = ", ".join(map(repr, sorted(held)))
    ways = []
    keys = [one for one in part.indexes if one.is_key and not generated & set(one.columns)]
    if keys:
        ways.append(identity_sql(part.name, keys))
    if held <= stored:
        ways.append(_publish_stored_sql(catalog, names))
    return ReplicaIdentityError(
        f"the replica identity of {_where(table, part)} holds generated columns that are not "
        f"published ({shown}): while it is published, UPDATE and DELETE fail",
        table=str(table.name),
        hint="as the owner: " + ", or ".join(ways) if ways else _PLAIN_KEY,
    )


def _publish_stored_sql(catalog: Catalog, names: Collection[TableName]) -> str:
    name, options = catalog.publication.name, "publish_generated_columns = stored"
    if catalog.publication.exists:
        return set_sql(name, options)
    return create_sql(name, [entry(table) for table in names], options)


def _filter_outside_identity(
    catalog: Catalog, table: SourceTable, part: Part, names: Collection[TableName]
) -> ReplicaIdentityError:
    """Refuse a filter that the server can't apply to old rows.

    A full identity has every column, but may have no column list beside it, nor hold a generated
    column that is not published.
    """
    outside = sorted(set(table.published_as.filtered_by) - set(part.identity_columns))
    columns = table.published_as.columns
    full = replace(part, identity="f")
    way = f"ALTER TABLE {part.name.sql} REPLICA IDENTITY FULL"
    if find_fault(full, table.published_as, catalog.version) is not None:
        way = publish_sql(catalog, table, entry(table.called, columns or ()), names)
    return ReplicaIdentityError(
        f"the row filter of {_where(table, part)} uses columns outside its replica identity "
        f"({', '.join(map(repr, outside))}): UPDATE and DELETE fail on the source",
        table=str(table.name),
        hint=f"as the owner: {way}",
    )


def _list_of_full_identity(table: SourceTable, part: Part) -> ReplicaIdentityError:
    return ReplicaIdentityError(
        f"{_where(table, part)} has REPLICA IDENTITY FULL and a column list: UPDATE and DELETE "
        "fail on the source",
        table=str(table.name),
        hint=f"as the owner: {identity_sql(part.name, part.indexes)}",
    )


def _unpublished_key(
    catalog: Catalog, table: SourceTable, columns: list[str], names: Collection[TableName]
) -> ReplicaIdentityError:
    name = str(table.name)
    problem = f"table {name!r} does not publish its key column {columns[0]!r}"
    if set(columns) <= set(table.left_out) and table.published_as.columns is None:
        keys = [one for one in table.indexes if one.is_key and not set(one.columns) & set(columns)]
        way = identity_sql(table.called, keys) if keys else _PLAIN_KEY
        if not keys and catalog.version >= GENERATED_ARE_CHECKED:
            way = _publish_stored_sql(catalog, names)
        return ReplicaIdentityError(
            f"{problem}: it is a generated column, which the stream does not bring",
            table=name,
            hint=f"as the owner: {way}",
        )
    listed = [*table.shape.names, *columns]
    shown = entry(table.called, listed, table.row_filter)
    return ReplicaIdentityError(
        problem, table=name, hint=f"as the owner: {publish_sql(catalog, table, shown, names)}"
    )
