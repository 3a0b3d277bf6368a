"""What must hold of the server and the publication before anything is read, each with its fix."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from cdc_assets.errors import CdcError, PreflightError
from cdc_assets.identifiers import TableName
from cdc_assets.source.catalog import MUST_PUBLISH, Catalog
from cdc_assets.source.connection import Connection, fetch_one
from cdc_assets.source.managed import RDS_ROLE, log_hint, replication_hint
from cdc_assets.source.publishing import create_sql, entry, set_sql

MIN_VERSION = 150000  # pg_publication_tables has column lists and row filters from 15 on
# A run's own session, one that reads a chunk or a window, and one that reads rows anew
SESSIONS = 3


def is_standby(connection: Connection) -> bool:
    """Say whether the server is in recovery."""
    return bool(fetch_one(connection, "SELECT pg_is_in_recovery()")[0])


def server_problems(connection: Connection) -> list[CdcError]:
    """Find what keeps every table from being replicated.

    A standby is told apart first: much of what a run asks can't even be asked there.
    """
    if is_standby(connection):
        return [
            PreflightError(
                "the source is a standby: it only reads, and a run needs the server that writes",
                hint="name the primary in source.dsn; where it lists several hosts, add "
                "target_session_attrs=read-write",
            )
        ]
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


_LIMITS = """
SELECT 'the source has', current_setting('max_connections')::int
         - CASE WHEN rolsuper THEN 0
                ELSE current_setting('superuser_reserved_connections')::int
                     + coalesce(current_setting('reserved_connections', true)::int, 0) END,
       (SELECT sum(numbackends)::int FROM pg_stat_database),
       'as an administrator: raise max_connections; then restart the source'
FROM pg_roles WHERE rolname = current_user
UNION ALL
SELECT format('role %L may have', rolname), rolconnlimit,
       (SELECT count(*)::int FROM pg_stat_activity WHERE usesysid = r.oid),
       format('as an administrator: ALTER ROLE %I CONNECTION LIMIT ', rolname)
FROM pg_roles r WHERE rolname = current_user AND rolconnlimit >= 0 AND NOT rolsuper
UNION ALL
SELECT format('database %L has', datname), datconnlimit,
       (SELECT numbackends FROM pg_stat_database s WHERE s.datid = d.oid),
       format('as its owner: ALTER DATABASE %I CONNECTION LIMIT ', datname)
FROM pg_database d, pg_roles r WHERE datname = current_database() AND datconnlimit >= 0
  AND rolname = current_user AND NOT rolsuper
"""


def connection_problems(connection: Connection) -> Iterator[CdcError]:
    """Find out whether a run finds room for its sessions; this one is the first of them."""
    for who, allowed, used, way in connection.execute(_LIMITS):
        lacking = SESSIONS - 1 - (allowed - used)
        if lacking > 0:
            more = allowed + lacking if way.endswith("LIMIT ") else ""
            yield PreflightError(
                f"{who} room for {allowed} sessions, and {used} are open: a run needs"
                f" {SESSIONS} of them",
                hint=f"{way}{more}, or end sessions that idle",
            )


def publication_problems(catalog: Catalog, names: Collection[TableName]) -> list[CdcError]:
    """Find what keeps the publication from carrying every change of the config's tables."""
    publication = catalog.publication
    if not publication.exists:
        return [missing_publication(catalog, names)]
    if not publication.leaves_out:
        return []
    kinds = ", ".join(MUST_PUBLISH)
    return [
        PreflightError(
            f"publication {publication.name!r} leaves out {', '.join(publication.leaves_out)}: "
            "these would be lost",
            hint="as its owner: " + set_sql(publication.name, f"publish = '{kinds}'"),
        )
    ]


def missing_publication(catalog: Catalog, names: Collection[TableName]) -> CdcError:
    """Say that there is no publication, and who may make it."""
    publication = catalog.publication.name
    foreign = [name for name in names if name in catalog.tables and not catalog.tables[name].owned]
    what = f"publication {publication!r} does not exist"
    if len(names) > 1:
        what += f": {len(names)} tables are not published"
    lacks = []
    if not catalog.publication.owned:
        lacks.append(f"CREATE on database {catalog.database!r}")
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        lacks.append(f"ownership of {str(foreign[0])!r}{more}")
    if not lacks:
        return PreflightError(what, hint="run 'cdc-assets setup'")
    sql = create_sql(publication, [entry(name) for name in names])
    return PreflightError(
        f"{what}; role {catalog.role!r} may not create it: it lacks {' and '.join(lacks)}",
        hint=f"as the tables' owner: {sql}; then run 'cdc-assets setup'",
    )
