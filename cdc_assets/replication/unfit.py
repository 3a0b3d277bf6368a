"""Which columns may become text where a value does not fit their type, and how.

Text takes every value, so a column becomes text once. What is there already has to become what the
source writes for it. Where the value in the warehouse tells that, the column is altered in place,
as its table goes on; else only the source knows, and the table is copied anew. Who computes with a
column would not be asked: a key, a condition, a function and another table's rows need it as it is.
"""

from __future__ import annotations

import pyarrow as pa

from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ValueConversionError
from cdc_assets.identifiers import TableName
from cdc_assets.pgoutput.types import TEXT
from cdc_assets.replication.session import Session
from cdc_assets.shaping.columns import Shaping


def may_be_text(
    config: PipelineConfig,
    shaping: Shaping,
    shape: TableShape,
    column: SourceColumn,
    *,
    of: TableName,
) -> bool:
    """Whether a column becomes text, as the config says it, where a value does not fit its type.

    Args:
        config: The pipeline.
        shaping: What the config makes of the table.
        shape: The source's columns as they are kept.
        column: One of them.
        of: The table.
    """
    name = column.name
    if column.type.arrow == TEXT or not config.table(of).widens(name):
        return False
    if name in shape.key or shape.names.index(name) in shaping.reads(shape):
        return False
    used = {own for one in config.table(of).enrich for own in one.on}
    for other in config.links.dependents(of):
        for one in config.table(other).enrich:
            if one.name == of:
                used |= {*one.on.values(), *one.columns}
    return shaping.name(name) not in used


def is_text_in_place(session: Session, error: ValueConversionError) -> bool:
    """Whether a column may become text where it is: what is kept of it tells the source's text.

    Args:
        session: The run's.
        error: Names a table that has a checkpoint, and the column.
    """
    table = TableName.parse(error.table)
    checkpoint, shaping = session.checkpoints[table], session.shaping(table)
    column = checkpoint.shape.numbered(error.attnum)
    if checkpoint.phase != "streaming" or column is None:
        return False
    own, kept = column.type.own, column.type.arrow
    is_told = own == kept or (pa.types.is_integer(own) and pa.types.is_integer(kept))
    return (
        is_told
        and column.name not in session.config.table(table).mask
        and session.warehouse.evolutions.has_source_text(kept)
        and may_be_text(session.config, shaping, checkpoint.shape, column, of=table)
    )


def may_be_copied_as_text(session: Session, table: TableName, error: ValueConversionError) -> bool:
    """Whether a table is copied anew with such a column as text, under the name that it has now.

    Rows that were deleted on the source can't be read there again.
    """
    if table in session.config.links.tables or session.state.placed_shape(table) is not None:
        return False
    shaping, shape = session.shaping(table), session.source_shape(table)
    column = shape.numbered(error.attnum)
    if column is None:  # dropped since
        shape = session.checkpoints[table].shape
        column = shape.numbered(error.attnum)
    if column is None:
        return False
    return may_be_text(session.config, shaping, shape, column, of=table)


def widened_notes(table: TableName, shape: TableShape) -> tuple[str, ...]:
    """Say which columns are text since a value did not fit their type."""
    return tuple(
        f"column {column.name!r} of {str(table)!r} is text since a value did not fit"
        f" {column.type.name}"
        for column in shape.columns
        if column.is_widened
    )
