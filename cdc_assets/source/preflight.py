"""What must hold on the source before anything is read, each with its fix."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cdc_assets.errors import CdcError, PreflightError, ReplicaIdentityError, TableError
from cdc_assets.identifiers import TableName, nearest
from cdc_assets.source.catalog import SourceTable
from cdc_assets.source.connection import Connection, fetch_one
from cdc_assets.source.managed import RDS_ROLE, log_hint, replication_hint

MIN_VERSION = 150000  # pg_publication_tables has column lists and row filters from 15 on
MUST_PUBLISH = ("insert", "update", "delete", "truncate")


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the checks need to know of the source, read once."""

    publication: str
    tables: Mapping[TableName, SourceTable]
    all_names: tuple[str, ...]


def server_problems(connection: Connection) -> list[CdcError]:
    """Find what keeps every table from being replicated."""
    version, wal_level, may_replicate, role, encoding = fetch_one(
        connection,
        "SELECT current_setting('server_version_num')::int, current_setting('wal_level'),"
        " rolreplication OR rolsuper OR EXISTS (SELECT 1 FROM pg_roles r"
        f"  WHERE r.rolname = '{RDS_ROLE}' AND pg_has_role(r.oid, 'USAGE')), rolname,"
        " current_setting('server_encoding')"
        " FROM pg_roles WHERE rolname = current_user",
    )
    problems: list[CdcError] = []
    if version < MIN_VERSION:
        problems.append(
            PreflightError(
                f"the source is Postgres {version // 10000}, expected 15 or later",
                hint="upgrade the source",
            )
        )
    if encoding == "SQL_ASCII":
        problems.append(
            PreflightError(
                "the source's database has encoding SQL_ASCII: nothing says what its bytes mean",
                hint="move it to a database with an encoding, UTF8 for example",
            )
        )
    if wal_level != "logical":
        problems.append(
            PreflightError(
                f"wal_level is {wal_level!r}, expected 'logical'",
                hint=log_hint(connection),
            )
        )
    if not may_replicate:
        problems.append(
            PreflightError(
                f"role {role!r} lacks the REPLICATION attribute",
                hint=replication_hint(connection, role),
            )
        )
    return problems


def spare_slot_problems(connection: Connection) -> list[CdcError]:
    """Find out whether a run finds a slot to spare for its copy of the pipeline's."""
    used, allowed = fetch_one(
        connection,
        "SELECT (SELECT count(*) FROM pg_replication_slots),"
        " current_setting('max_replication_slots')::int",
    )
    if used < allowed:
        return []
    return [
        PreflightError(
            f"all {allowed} replication slots of the source are in use",
            hint="a run needs one spare slot: raise max_replication_slots",
        )
    ]


def publication_problems(connection: Connection, publication: str) -> list[CdcError]:
    """Find what keeps the publication from carrying every change."""
    row = connection.execute(
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication"
        " WHERE pubname = %s",
        (publication,),
    ).fetchone()
    if row is None:
        return [
            PreflightError(
                f"publication {publication!r} does not exist",
                hint="run 'cdc-assets setup' to create it, or as the owner what "
                "'cdc-assets sql publication' prints",
            )
        ]
    missing = [kind for kind, publishes in zip(MUST_PUBLISH, row, strict=True) if not publishes]
    if not missing:
        return []
    return [
        PreflightError(
            f"publication {publication!r} leaves out {', '.join(missing)}: these would be lost",
            hint=f"ALTER PUBLICATION \"{publication}\" SET (publish = '{', '.join(MUST_PUBLISH)}')",
        )
    ]


def read_all_names(connection: Connection) -> tuple[str, ...]:
    """List every table's name, to find what a mistyped one meant."""
    rows = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
    ).fetchall()
    return tuple(str(TableName(schema, name)) for schema, name in rows)


def table_problems(
    catalog: Catalog, names: Collection[TableName], *, published: bool = True
) -> dict[TableName, TableError]:
    """Find what keeps single tables from being replicated: the first thing of each.

    Args:
        catalog: The source's.
        names: The tables to look at.
        published: Whether they must be in the publication already.
    """
    found = {name: _table_problem(catalog, name, published) for name in names}
    return {name: problem for name, problem in found.items() if problem is not None}


def _table_problem(catalog: Catalog, name: TableName, published: bool) -> TableError | None:
    table = catalog.tables.get(name)
    if table is None:
        meant = nearest(str(name), catalog.all_names)
        return TableError(
            f"table {str(name)!r} does not exist on the source",
            table=str(name),
            hint=f"did you mean {meant!r}?" if meant else "correct it in the config's tables",
        )
    # before it is published: without identity UPDATE and DELETE would fail on the source then
    if (problem := _identity_problem(table)) is not None:
        return problem
    if published and not table.published:
        return TableError(
            f"table {str(name)!r} is not in publication {catalog.publication!r}",
            table=str(name),
            hint="run 'cdc-assets setup', or as the owner: ALTER PUBLICATION"
            f' "{catalog.publication}" ADD TABLE {name.sql}',
        )
    return _column_problem(table)


def _identity_problem(table: SourceTable) -> TableError | None:
    name = str(table.name)
    if not table.shape.key:
        has = "REPLICA IDENTITY FULL but no key" if table.identity == "f" else "no replica identity"
        return ReplicaIdentityError(
            f"table {name!r} has {has}: nothing says which row a change is about",
            table=name,
            hint="add a primary key, or a unique index over NOT NULL columns, in their own "
            "collation and default order, and ALTER TABLE"
            f" {table.name.sql} REPLICA IDENTITY USING INDEX; until then UPDATE and DELETE of a"
            " published table without identity fail on the source",
        )
    if table.has_mixed_identity:
        return ReplicaIdentityError(
            f"a partition of table {name!r} has another replica identity than the table: its "
            "changes would not say which row they are about",
            table=name,
            hint="ALTER TABLE the partition REPLICA IDENTITY as the table's; if it has changed "
            "since, copy the table anew: cdc-assets teardown --table …; cdc-assets sync",
        )
    if table.has_unlogged_part:
        return TableError(
            f"a partition of table {name!r} is unlogged or a foreign table: its changes are not in "
            "the WAL",
            table=name,
            hint="ALTER TABLE the partition SET LOGGED, or replicate the other partitions by name",
        )
    unpublished = set(table.shape.key) - set(table.shape.names)
    if unpublished:
        return ReplicaIdentityError(
            f"table {name!r} does not publish its key column {min(unpublished)!r}",
            table=name,
            hint="add it to the publication's column list",
        )
    return None


def _column_problem(table: SourceTable) -> TableError | None:
    name, seen = str(table.name), dict[str, str]()
    for column in table.shape.names:
        if column.casefold().startswith("_cdc_"):
            return TableError(
                f"column {column!r} of table {name!r} has a reserved name",
                table=name,
                hint="columns that start with _cdc_ are ours: leave it out with a column list",
            )
        other = seen.setdefault(column.casefold(), column)
        if other != column:
            return TableError(
                f"columns {other!r} and {column!r} of table {name!r} are one name in the warehouse",
                table=name,
                hint="leave one of them out with a column list of the publication",
            )
    return None
