"""What managed servers call what Postgres itself calls otherwise.

Their administrators have no superuser: a setting is made on the provider's page, and a role gets
a membership in place of an attribute. Which provider it is shows in settings and roles of theirs.
"""

from __future__ import annotations

from cdc_assets.identifiers import quote
from cdc_assets.source.connection import Connection, fetch_one

RDS_ROLE = "rds_replication"  # its members may use slots without the attribute
_LOG_SETTINGS = {"rds.logical_replication": "1", "cloudsql.logical_decoding": "on"}


def log_hint(connection: Connection) -> str:
    """Say how the server's log becomes a logical one."""
    for name, value in _LOG_SETTINGS.items():
        if fetch_one(connection, "SELECT current_setting(%s, true)", (name,))[0] is not None:
            return f"set {name} = {value} in the server's parameters, then restart the source"
    return (
        "ALTER SYSTEM SET wal_level = logical, or the same in a managed server's parameters;"
        " then restart the source"
    )


def replication_hint(connection: Connection, role: str) -> str:
    """Say how a role gets the right to use replication slots."""
    found = fetch_one(
        connection, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = %s)", (RDS_ROLE,)
    )
    how = (
        f"GRANT {RDS_ROLE} TO {quote(role)}"
        if found[0]
        else f"ALTER ROLE {quote(role)} REPLICATION"
    )
    return f"as an administrator: {how}"
