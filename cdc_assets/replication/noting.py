"""What a backfill or a comparison leaves word of in the journal, beside what the last sync left."""

from __future__ import annotations

from cdc_assets.identifiers import TableName
from cdc_assets.replication.journal import (
    TableRecord,
    Turn,
    digest,
    read_journal,
    write_journal,
)
from cdc_assets.replication.session import Session


def note_well(session: Session, table: TableName) -> None:
    """Write down that a table is well again, beside what the last run has left.

    The session has the pipeline's lock, so nobody else writes the journal now.
    """
    journal = read_journal(session.config)
    if journal is None:
        return
    name, point = str(table), session.checkpoints[table]
    before = journal.tables.get(name, TableRecord(phase="missing"))
    record = before.model_copy(
        update={
            "phase": point.phase,
            "lsn": point.lsn,
            "rows": session.mirrors.row_count(session.kept_name(table)),
            "oid": point.shape.oid,
            "shape": digest(point.shape),
            "error": None,
        }
    )
    failed = tuple(other for other in journal.run.failed_tables if other != name)
    write_journal(
        session.config,
        journal.model_copy(
            update={
                "tables": {**journal.tables, name: record},
                "run": journal.run.model_copy(update={"failed_tables": failed}),
            }
        ),
    )


def note_under_way(session: Session, doing: Turn) -> None:
    """Write down what is done now; the session has the pipeline's lock.

    Nobody takes it back: it is over when the session lets go of the lock.
    """
    journal = read_journal(session.config)
    if journal is not None:
        write_journal(session.config, journal.model_copy(update={"beside": doing}))
