"""Which columns may become text where a value does not fit their type, and how.

Text takes every value, so a column becomes text once. What is there already has to become what the
source writes for it. Where the value in the warehouse tells that, the column is altered in place,
as its table goes on; else only the source knows, and the table is copied anew. Who computes with a
column would not be asked: a key, a condition, a function and another table's rows need it as it is.
"""

from __future__ import annotations

import pyarrow as pa

from cdc_assets.changes.shape import TableShape
from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.pgoutput.types import TEXT
from cdc_assets.replication.session import Session
from cdc_assets.shaping.columns import Shaping


def may_be_text(
    config: PipelineConfig, table: TableName, shaping: Shaping, shape: TableShape, name: str
) -> bool:
    """Whether a column becomes text, as the config says it, where a value does not fit its type.

    Args:
        config: The pipeline.
        table: One of its tables.
        shaping: What the config makes of it.
        shape: The source's columns as they are kept.
        name: The column's name on the source.
    """
    column = next((one for one in shape.columns if one.name == name), None)
    if column is None or column.type.arrow == TEXT or not config.table(table).widens(name):
        return False
    if name in shape.key or shape.names.index(name) in shaping.reads(shape):
        return False
    used = {own for one in config.table(table).enrich for own in one.on}
    for other in config.links.dependents(table):
        for one in config.table(other).enrich:
            if one.name == table:
                used |= {*one.on.values(), *one.columns}
    return shaping.name(name) not in used


def is_text_in_place(session: Session, table: TableName, name: str) -> bool:
    """Whether a column may become text where it is: what is kept of it tells the source's text.

    Args:
        session: The run's.
        table: One that has a checkpoint.
        name: The column's name on the source.
    """
    if session.checkpoints[table].phase != "streaming" or not _may_be_text(session, table, name):
        return False
    shape = session.checkpoints[table].shape
    column = shape.columns[shape.names.index(name)]
    own, kept = column.type.own, column.type.arrow
    is_told = own == kept or (pa.types.is_integer(own) and pa.types.is_integer(kept))
    return (
        is_told
        and name not in session.config.table(table).mask
        and session.warehouse.evolutions.has_source_text(kept)
    )


def may_be_copied_as_text(session: Session, table: TableName, name: str) -> bool:
    """Whether a table is copied anew with such a column as text.

    Rows that were deleted on the source can't be read there again.
    """
    if table in session.config.links.tables or not _may_be_text(session, table, name):
        return False
    return session.state.placed_shape(table) is None


def widened_notes(table: TableName, shape: TableShape) -> tuple[str, ...]:
    """Say which columns are text since a value did not fit their type."""
    return tuple(
        f"column {column.name!r} of {str(table)!r} is text since a value did not fit"
        f" {column.type.name}"
        for column in shape.columns
        if column.is_widened
    )


def _may_be_text(session: Session, table: TableName, name: str) -> bool:
    shape = session.checkpoints[table].shape
    return may_be_text(session.config, table, session.shaping(table), shape, name)
