"""Which tables' changes are recorded, from where on, and what keeps one from it.

A change table begins with all rows of its mirror as of one LSN, in one transaction, and has every
change after that one exactly once: what is recorded is told by the checkpoint alone, as for the
mirror. Where that can't go on it is set aside as it is, and another one begins.
"""

from __future__ import annotations

import shlex

from cdc_assets.errors import CdcError, TableError
from cdc_assets.identifiers import TableName, change_table
from cdc_assets.replication.session import Session, recopy_hint


def keeps_changes(session: Session, table: TableName) -> bool:
    """Whether the config wants a change table."""
    return session.config.table(table).keeps_changes


def recorded_tables(session: Session) -> set[TableName]:
    """Find the tables whose change tables go on."""
    known = session.change_tables.read() & session.checkpoints.keys()
    return {table for table in known if keeps_changes(session, table)}


def end_recording(session: Session) -> None:
    """End the change tables that the config does not want any more, where their tables are.

    Inside a transaction, before anything else is applied: past it they would lack changes.
    """
    for table in session.change_tables.read() & session.checkpoints.keys():
        if not keeps_changes(session, table):
            session.change_tables.end(table, session.checkpoints[table].lsn)


def begin_recording(session: Session, table: TableName) -> None:
    """Begin a change table with the mirror's rows, which are as of the table's checkpoint.

    Inside a transaction; the caller says in `Session.recorded` that it is durable.
    """
    lsn = session.checkpoints[table].lsn
    session.change_tables.begin(table, session.kept_shape(table), lsn)


def begin_wanted(session: Session) -> None:
    """Begin the change tables that the config wants of mirrors that go on.

    Where rows were read ahead of the stream, it waits until the stream has passed them.
    """
    for table in session.config.table_names:
        checkpoint = session.checkpoints.get(table)
        if (
            checkpoint is not None
            and checkpoint.phase == "streaming"
            and not checkpoint.error
            and not session.fences.get(table)
            and keeps_changes(session, table)
            and table not in session.recorded
            and table not in session.failed
        ):
            with session.warehouse.transaction():
                begin_recording(session, table)
                session.state.renew_stamp()
            session.recorded.add(table)


def is_in_order(session: Session, table: TableName) -> bool:
    """Whether a table has a change table that can go on."""
    kept = session.kept_shape(table)
    return table in session.recorded and not session.change_tables.altered(table, kept)


def change_table_problems(session: Session) -> dict[TableName, CdcError]:
    """Find change tables that somebody else has made, altered or dropped."""
    found: dict[TableName, CdcError] = {}
    for table in session.config.table_names:
        if not keeps_changes(session, table):
            continue
        name = change_table(table)
        is_ours = name in session.change_tables.names(table)
        if not is_ours and session.mirrors.exists(name):
            found[table] = TableError(
                f"table {str(name)!r}, where the changes of {str(table)!r} are to be kept, exists "
                "in the warehouse and is not of this pipeline",
                table=str(table),
                hint="rename or drop it (cdc-assets teardown --drop-tables --table "
                f"{shlex.quote(str(table))} drops it with the mirror), then run 'cdc-assets sync' "
                "again",
            )
            continue
        if table not in session.recorded or session.is_copied_anew(table):
            continue
        if what := session.change_tables.altered(table, session.kept_shape(table)):
            found[table] = TableError(
                f"the change table of {str(table)!r} {what}",
                table=str(table),
                hint="somebody else altered it: undo that, or begin another one, which sets it "
                "aside: " + recopy_hint(table),
            )
    return found
