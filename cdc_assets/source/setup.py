"""Makes and removes what a pipeline needs on the source: its publication and its slot."""

from __future__ import annotations

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ReplicationError
from cdc_assets.identifiers import quote
from cdc_assets.source.catalog import read_tables
from cdc_assets.source.connection import (
    Connection,
    complete_conninfo,
    connect,
    lock_pipeline,
    translated,
)
from cdc_assets.source.preflight import (
    Catalog,
    read_all_names,
    server_problems,
    table_problems,
)
from cdc_assets.source.slot import PLUGIN, read_slot, wait_until_free

_SLOT_TIMEOUT = "60s"


def conninfo_of(config: PipelineConfig) -> str:
    """Give the pipeline's complete connection string.

    Raises:
        ConfigError: The DSN is missing or is none.
    """
    return complete_conninfo(config.source.conninfo(), application=f"cdc-assets {config.name}")


def setup(config: PipelineConfig) -> list[str]:
    """Create the publication and then the slot, and what is missing of them; safe to repeat.

    The publication comes first: the slot decodes a change with the catalog as it was then, so a
    publication that is younger than the slot does not exist for its first changes.

    Returns:
        What was done, a line each; empty when nothing was missing.

    Raises:
        CdcError: The source is not fit, or refuses.
    """
    slot = config.source.slot
    with connect(conninfo_of(config)) as connection, translated(slot):
        lock_pipeline(connection, slot)
        for problem in server_problems(connection):
            raise problem
        done = _publish(connection, config)
        exists = connection.execute(
            "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", (slot,)
        ).fetchone()
        if exists:
            read_slot(connection, slot)
            return done
        _create_slot(connection, slot)
        return [*done, f"created slot {slot!r}"]


def _publish(connection: Connection, config: PipelineConfig) -> list[str]:
    name = config.source.publication
    tables = read_tables(connection, name, config.table_names)
    catalog = Catalog(name, tables, read_all_names(connection))
    for problem in table_problems(catalog, config.table_names, published=False).values():
        raise problem
    missing = [table.sql for table in config.table_names if not tables[table].published]
    exists = connection.execute("SELECT 1 FROM pg_publication WHERE pubname = %s", (name,))
    if exists.fetchone() is None:
        connection.execute(
            f"CREATE PUBLICATION {quote(name)} FOR TABLE {', '.join(missing)}"
            " WITH (publish_via_partition_root = true)"
        )
        return [f"created publication {name!r} for {len(missing)} tables"]
    if missing:
        connection.execute(f"ALTER PUBLICATION {quote(name)} ADD TABLE {', '.join(missing)}")
        return [f"added {table} to publication {name!r}" for table in missing]
    return []


def _create_slot(connection: Connection, slot: str) -> None:
    """Create the slot; the server waits for every transaction that runs now."""
    connection.execute(f"SET statement_timeout = '{_SLOT_TIMEOUT}'")
    try:
        connection.execute("SELECT pg_create_logical_replication_slot(%s, %s)", (slot, PLUGIN))
    except Exception as error:
        if getattr(error, "sqlstate", None) != "57014":
            raise
        row = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_xid IS NOT NULL"
            " ORDER BY xact_start LIMIT 1"
        ).fetchone()
        raise ReplicationError(
            f"slot {slot!r} could not be created within {_SLOT_TIMEOUT}: a transaction stays open",
            hint=f"end the session with pid {row[0]}" if row else "try again",
        ) from error


def teardown(config: PipelineConfig) -> list[str]:
    """Drop the slot and then the publication; safe to repeat.

    Returns:
        What was done, a line each.

    Raises:
        CdcError: The slot is in use, or the source refuses.
    """
    slot, publication = config.source.slot, config.source.publication
    done = []
    with connect(conninfo_of(config)) as connection, translated(slot):
        lock_pipeline(connection, slot)
        exists = connection.execute(
            "SELECT plugin = %s AND database = current_database(), wal_status"
            " FROM pg_replication_slots WHERE slot_name = %s",
            (PLUGIN, slot),
        ).fetchone()
        if exists is not None:
            if not exists[0] or exists[1] != "lost":
                wait_until_free(connection, slot)  # refuses another plugin's slot, too
            connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
            done.append(f"dropped slot {slot!r}")
        found = connection.execute(
            "SELECT 1 FROM pg_publication WHERE pubname = %s", (publication,)
        )
        if found.fetchone() is not None:
            connection.execute(f"DROP PUBLICATION {quote(publication)}")
            done.append(f"dropped publication {publication!r}")
    return done
