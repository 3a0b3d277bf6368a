"""Copies that were begun: which of them go on, and where a mirror does beside them."""

from __future__ import annotations

from cdc_assets.identifiers import TableName
from cdc_assets.replication.session import Session, shape_error

# A copy that nobody got on with for so long is nobody's
_ABANDONED_SECONDS = 900.0


def mirror_goes_on(session: Session, table: TableName) -> bool:
    """Whether a table's mirror can go on while a part of the table is copied."""
    checkpoint = session.checkpoints.get(table)
    return (
        checkpoint is not None
        and checkpoint.phase == "streaming"
        and not checkpoint.error
        and table not in session.failed
        and shape_error(session, table) is None
    )


def is_begun_anew(session: Session, table: TableName) -> bool:
    """Whether a copy that will take the mirror's place was begun, and can go on."""
    checkpoint = session.checkpoints.get(table)
    return (
        checkpoint is not None
        and checkpoint.phase == "copying"
        and (table, "") in session.copies
        and not checkpoint.shape.altered_to(session.source_shape(table))
        and session.slot.confirmed_lsn <= checkpoint.lsn
    )


def drop_stale_copies(session: Session) -> None:
    """Give up copies that can't be finished, or that nobody finishes."""
    abandoned = session.copy_state.abandoned(_ABANDONED_SECONDS)
    for (table, part), copy in list(session.copies.items()):
        if session.checkpoints[table].phase == "copying":
            is_stale = table not in session.catalog.tables or not is_begun_anew(session, table)
        else:
            is_stale = (table, part) in abandoned
        if is_stale:
            with session.warehouse.transaction():
                session.drop_copy(copy)
