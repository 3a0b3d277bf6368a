"""Which deleted rows of a mirror stay when the table is copied anew.

They can't be read again, nor shaped anew. So they stay where they are what a copy of now would have
made of them: the same table with the same key, shaped alike. A column that was added since they
have as NULL, as it was not there; one that was dropped goes with all rows' values.
"""

from __future__ import annotations

from cdc_assets.identifiers import TableName
from cdc_assets.replication.session import Session


def carried_columns(session: Session, table: TableName) -> tuple[str, ...]:
    """Name the columns that deleted rows of a table's mirror keep; empty where none of them stay.

    Args:
        session: The run's.
        table: Copied as a whole; its checkpoint has the copy's shape.
    """
    now, before = session.checkpoints[table].shape, session.state.placed_shape(table)
    if before is None or not now.keeps_deleted:
        return ()
    if (before.oid, before.shaping) != (now.oid, now.shaping):
        return ()
    old, new = session.shaping(table).kept(before), session.kept_shape(table)
    if session.mirrors.altered({table: old}):
        return ()  # what somebody else made of it nobody knows
    known = {(column.name, column.attnum, column.type.arrow) for column in old.columns}
    both = tuple(
        column.name
        for column in new.columns
        if (column.name, column.attnum, column.type.arrow) in known
    )
    return both if old.key == new.key and set(new.key) <= set(both) else ()
