"""Makes and removes what a pipeline needs on the source: its publication and its slot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import psycopg

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ReplicationError, SlotInvalidatedError, SlotNotFoundError
from cdc_assets.identifiers import TableName, quote, quote_literal
from cdc_assets.source.catalog import MUST_PUBLISH, Catalog, read_catalog
from cdc_assets.source.connection import (
    Connection,
    bounded_locks,
    complete_conninfo,
    connect,
    fetch_one,
    translated,
)
from cdc_assets.source.identities import identity_notes
from cdc_assets.source.lock import lock_pipeline
from cdc_assets.source.ownership import forget_served
from cdc_assets.source.preflight import missing_publication, server_problems
from cdc_assets.source.publishing import add_sql, create_sql, drop_sql, set_sql
from cdc_assets.source.pushing import entries, entry_problem, other_entry, recopied
from cdc_assets.source.renamed import with_renamed
from cdc_assets.source.slot import (
    PLUGIN,
    oldest_writer,
    read_slot,
    wait_for_open_transactions,
    wait_until_free,
)
from cdc_assets.source.tables import setup_problem, table_problems, widening_problems
from cdc_assets.wording import counted

_SLOT_TIMEOUT_SECONDS = 60.0
_COMMIT_SECONDS = 1.0


def conninfo_of(config: PipelineConfig) -> str:
    """Give the pipeline's complete connection string.

    Raises:
        ConfigError: The DSN is missing or is none.
    """
    return complete_conninfo(config.source.conninfo(), application=f"cdc-assets {config.name}")


def setup(config: PipelineConfig, oids: Mapping[TableName, int] | None = None) -> list[str]:
    """Create the publication and then the slot, and what is missing of them; safe to repeat.

    The publication comes first: the slot decodes a change with the catalog as it was then, so a
    publication that is younger than the slot does not exist for its first changes.

    Args:
        config: The pipeline.
        oids: Of tables that are known, whatever the source calls them now.

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
        exists = connection.execute(
            "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", (slot,)
        ).fetchone()
        if exists:
            read_slot(connection, slot)  # before anything is made: it may be of no use
        with bounded_locks(connection):
            done = _publish(connection, config, oids or {})
        if exists:
            return done
        forget_served(connection, slot)  # of an earlier slot of this name, or of a restored copy
        with translated(slot, about="slot"):
            _create_slot(connection, slot)
        return [*done, f"created slot {slot!r}"]


def _publish(
    connection: Connection, config: PipelineConfig, oids: Mapping[TableName, int]
) -> list[str]:
    """Create or complete the publication, once nothing of it makes a writer fail."""
    name, names = config.source.publication, config.table_names
    catalog = with_renamed(connection, read_catalog(connection, name, names), config, oids)
    done = list(_replace_entries(connection, catalog, config))  # it may be what makes them fail
    if done:
        catalog = with_renamed(connection, read_catalog(connection, name, names), config, oids)
    unmirrored = config.unmirrored
    found = table_problems(catalog, names, published=False, unmirrored=unmirrored)
    for problem in found.values():
        raise problem
    missing = [table for table in names if not catalog.tables[table].published]
    said = [
        f"note: {line}"
        for table in missing
        if table in unmirrored
        for line in identity_notes(catalog, catalog.tables[table])
    ]
    if not catalog.publication.exists:
        for table in missing:
            if not (catalog.publication.owned and catalog.tables[table].owned):
                raise missing_publication(catalog, names)
        connection.execute(create_sql(name, entries(catalog, config, missing)))
        return [f"created publication {name!r} for {counted(len(missing), 'table')}", *said]
    for table in missing:
        if (refused := setup_problem(catalog, table)) is not None:
            raise refused
    if catalog.publication.leaves_out:
        for problem in widening_problems(connection, catalog, names):
            raise problem
        kinds = ", ".join(MUST_PUBLISH)
        connection.execute(set_sql(name, f"publish = {quote_literal(kinds)}"))
        done.append(f"set publication {name!r} to publish {kinds}")
    if missing:
        connection.execute(add_sql(name, entries(catalog, config, missing)))
        done += [f"added {table.sql} to publication {name!r}" for table in missing]
    return [*done, *said]


def _replace_entries(
    connection: Connection, catalog: Catalog, config: PipelineConfig
) -> Iterator[str]:
    """Publish tables as the config wants, each in one transaction, so that none is left out.

    `ALTER PUBLICATION … SET TABLE` would take all entries, those of others too.
    """
    name = config.source.publication
    for table in config.table_names:
        problem = entry_problem(catalog, config, table)
        shown = other_entry(catalog, config, table)
        if problem is None or shown is None:
            continue
        if not (catalog.publication.owned and catalog.tables[table].owned):
            raise problem
        with connection.transaction():
            connection.execute(drop_sql(name, catalog.tables[table].called))
            connection.execute(add_sql(name, [shown]))
        yield (
            f"publication {name!r} publishes {shown}: if it was copied before, "
            + recopied(config, table)
        )


def _create_slot(connection: Connection, slot: str) -> None:
    """Create the slot once every change before its start is shown to whoever copies a table.

    A commit that waits for a synchronous standby has its record in the WAL and is shown to nobody.
    The server counts it among the running transactions, and starts a slot behind its record all the
    same if it began late (SnapBuildFindSnapshot, snapbuild.c): neither the slot nor a copy made
    then would have it. So such commits are waited for, and only then the slot gets its name: a
    setup that is killed leaves none behind. Without synchronous standbys a commit is shown at once.
    """
    first = f"{slot[:40]}_setup_{connection.info.backend_pid}"
    try:
        connection.execute(f"SET statement_timeout = '{_SLOT_TIMEOUT_SECONDS}s'")
        connection.execute(
            "SELECT pg_create_logical_replication_slot(%s, %s, true)", (first, PLUGIN)
        )
    except psycopg.errors.QueryCanceled as error:
        raise _open_transaction(slot, oldest_writer(connection)) from error
    names = fetch_one(connection, "SELECT current_setting('synchronous_standby_names')")[0]
    seconds = _SLOT_TIMEOUT_SECONDS if names else _COMMIT_SECONDS
    pid = wait_for_open_transactions(connection, seconds=seconds)
    if names and pid is not None:
        raise _open_transaction(slot, pid)
    connection.execute(
        "SELECT pg_copy_logical_replication_slot(%s, %s, false)",
        (first, slot),
    )
    connection.execute("SELECT pg_drop_replication_slot(%s)", (first,))


def _open_transaction(slot: str, pid: int) -> ReplicationError:
    return ReplicationError(
        f"slot {slot!r} could not be created within {_SLOT_TIMEOUT_SECONDS:.0f} s: a transaction "
        "stays open, or its commit waits for a standby",
        hint=f"end the session with pid {pid}"
        if pid
        else "COMMIT PREPARED or ROLLBACK PREPARED what pg_prepared_xacts shows",
    )


def what_exists(config: PipelineConfig) -> tuple[bool, bool]:
    """Say whether the pipeline's slot, and a publication of the role's own, are on the source.

    Raises:
        CdcError: The source can't be asked, or the slot is not one that a pipeline reads.
    """
    slot, publication = config.source.slot, config.source.publication
    with connect(conninfo_of(config)) as connection, translated(slot):
        exists = True
        try:
            read_slot(connection, slot)
        except SlotInvalidatedError:
            pass
        except SlotNotFoundError:
            exists = False
        own = connection.execute(
            "SELECT FROM pg_publication WHERE pubname = %s AND pg_has_role(pubowner, 'USAGE')",
            (publication,),
        ).fetchone()
    return exists, own is not None


def drop_slot(connection: Connection, slot: str) -> bool:
    """Drop the slot, whatever became of it, and say whether there was one.

    Raises:
        CdcError: It is in use, or no slot of ours.
    """
    exists = connection.execute(
        "SELECT plugin = %s AND database = current_database(), wal_status"
        " FROM pg_replication_slots WHERE slot_name = %s",
        (PLUGIN, slot),
    ).fetchone()
    if exists is None:
        return False
    if not exists[0] or exists[1] != "lost":
        wait_until_free(connection, slot)  # refuses another plugin's slot, too
    connection.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
    return True


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
        if drop_slot(connection, slot):
            done.append(f"dropped slot {slot!r}")
        forget_served(connection, slot)
        found = connection.execute(
            "SELECT pg_has_role(pubowner, 'USAGE'), pg_get_userbyid(pubowner) FROM pg_publication"
            " WHERE pubname = %s",
            (publication,),
        ).fetchone()
        if found is not None and found[0]:
            connection.execute(f"DROP PUBLICATION {quote(publication)}")
            done.append(f"dropped publication {publication!r}")
        elif found is not None:
            done.append(
                f"left publication {publication!r} to its owner {found[1]!r}:"
                f" DROP PUBLICATION {quote(publication)}"
            )
    return done
