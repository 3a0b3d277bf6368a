"""What is kept beside mirrors, from where on, and what keeps one from it.

A change table or a history begins with all rows of its mirror as of one LSN, in one transaction,
and takes in every change after that one exactly once: what it has is told by the checkpoint alone,
as for the mirror. Where that can't go on it is set aside as it is, and another one begins.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator

from cdc_assets.config.tables import RECORDS
from cdc_assets.errors import CdcError, TableError
from cdc_assets.identifiers import TableName, record_table
from cdc_assets.lsn import LSN
from cdc_assets.replication.left_records import ended_note
from cdc_assets.replication.session import Session, recopy_hint
from cdc_assets.replication.tracing import Tracing


def wanted_records(session: Session, table: TableName) -> tuple[str, ...]:
    """Give what the config wants beside a table's mirror."""
    return session.config.table(table).records


def recorded_tables(session: Session) -> dict[str, set[TableName]]:
    """Find the tables whose own goes on, for each kind of record."""
    return {
        keep: {
            table
            for table in records.read() & session.checkpoints.keys()
            if keep in wanted_records(session, table)
        }
        for keep, records in session.warehouse.records.items()
    }


def end_recording(session: Session) -> list[str]:
    """End what the config does not want any more, where its tables are; give what to say of it.

    Inside a transaction, before anything else is applied: past it they would lack changes.
    """
    notes = []
    for keep, records in session.warehouse.records.items():
        for table in records.read() & session.checkpoints.keys():
            if keep not in wanted_records(session, table):
                records.end(table, session.checkpoints[table].known_moment)
                notes.append(ended_note(table, records.name(table), keep))
                if session.is_mirrored(table):
                    session.warehouse.moments.show(table, session.kept_shape(table))
    return notes


def begin_recording(session: Session, table: TableName, keeps: Collection[str]) -> None:
    """Begin records with the mirror's rows, which are as of the table's checkpoint.

    Inside a transaction; the caller says in `Session.recorded` that they are durable.
    """
    for keep in keeps:
        records = session.warehouse.records[keep]
        records.begin(table, session.kept_shape(table), session.moment(table))
    if keeps:
        session.warehouse.moments.show(table, session.kept_shape(table))


def begin_wanted(session: Session) -> None:
    """Begin what the config wants beside mirrors that go on.

    Where rows were read ahead of the stream, it waits until the stream has passed them.
    """
    for table in session.config.table_names:
        checkpoint = session.checkpoints.get(table)
        going_on = session.records_of(table)
        lacking = [keep for keep in wanted_records(session, table) if keep not in going_on]
        if (
            lacking
            and session.is_mirrored(table)
            and checkpoint is not None
            and checkpoint.phase == "streaming"
            and not checkpoint.error
            and not session.fences.get(table)
            and table not in session.failed
        ):
            tracing = Tracing(session)
            with session.warehouse.transaction():
                begin_recording(session, table, lacking)
                for keep in lacking:
                    rows = session.mirrors.row_count(record_table(table, keep))
                    tracing.recorded(table, keep, rows)
                tracing.write(checkpoint.lsn, checkpoint.lsn)
                session.state.renew_stamp()
            note_begun(session, table, lacking)


def note_begun(session: Session, table: TableName, keeps: Collection[str]) -> None:
    """Say that what has begun is durable."""
    for keep in keeps:
        session.recorded[keep].add(table)


def note_reached(session: Session, end: LSN, micros: int) -> None:
    """Keep that all which committed up to a time is before an LSN, for the tables that are there.

    Args:
        session: The run's.
        end: The LSN.
        micros: The time, by the source's clock in Unix microseconds.
    """
    there = [
        table
        for table, point in session.checkpoints.items()
        if point.lsn >= end and point.phase == "streaming" and session.records_of(table)
    ]
    if there:
        with session.warehouse.transaction():
            session.state.note_reached(there, micros)


def records_in_order(session: Session, table: TableName) -> tuple[str, ...]:
    """Give what is kept beside a table and can go on."""
    kept, records = session.kept_shape(table), session.warehouse.records
    return tuple(
        keep for keep in session.records_of(table) if not records[keep].altered({table: kept})
    )


def record_problems(session: Session) -> dict[TableName, CdcError]:
    """Find change tables and histories that somebody else has made, altered or dropped."""
    found: dict[TableName, CdcError] = {}
    for keep in session.warehouse.records:
        tables = [
            table for table in session.config.table_names if keep in wanted_records(session, table)
        ]
        if tables:
            found.update(_problems(session, keep, tables))
    return found


def _ended(session: Session, table: TableName) -> CdcError | None:
    """Say of a table without a mirror that its changes were not kept for a while."""
    if session.is_mirrored(table) or table not in session.checkpoints:
        return None
    return TableError(
        f"the change table of {str(table)!r} has ended, and there is no mirror to begin another "
        "one with",
        table=str(table),
        hint="begin another one, which sets it aside: " + recopy_hint(table),
    )


def _problems(
    session: Session, keep: str, tables: Collection[TableName]
) -> Iterator[tuple[TableName, CdcError]]:
    records, there = session.warehouse.records[keep], session.mirrors.there()
    names = records.names(tables)
    going_on = {
        table: session.kept_shape(table)
        for table in tables
        if keep in session.records_of(table) and not session.is_copied_anew(table)
    }
    altered = records.altered(going_on)
    for table in tables:
        name = records.name(table)
        if name not in names[table] and name.folded in there:
            yield table, _foreign_error(table, name, keep)
        elif table in altered:
            yield table, _altered_error(table, keep, altered[table])
        elif table not in going_on and not session.is_copied_anew(table):
            ended = _ended(session, table)
            if ended is not None:
                yield table, ended


def _foreign_error(table: TableName, name: TableName, keep: str) -> TableError:
    return TableError(
        f"table {str(name)!r}, where the {RECORDS[keep]} of {str(table)!r} is to be, exists in "
        "the warehouse and is not of this pipeline",
        table=str(table),
        hint="rename or drop it (cdc-assets teardown --drop-tables --table "
        f"{shlex.quote(str(table))} drops it with the mirror), then run 'cdc-assets sync' again",
    )


def _altered_error(table: TableName, keep: str, what: str) -> TableError:
    return TableError(
        f"the {RECORDS[keep]} of {str(table)!r} {what}",
        table=str(table),
        hint="somebody else altered it: undo that, or begin another one, which sets it "
        "aside: " + recopy_hint(table),
    )
