"""From a chunk of a table to rows of its mirror, and what keeps a row from becoming one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from cdc_assets.changes.rows import with_added
from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.errors import SchemaChangeError, TableError, TransformError, ValueConversionError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pages import page
from cdc_assets.pgoutput.native import decode_read
from cdc_assets.pgoutput.values import UnfitValueError
from cdc_assets.replication.session import Session, recopy_hint
from cdc_assets.shaping.functions import FunctionError
from cdc_assets.shaping.predicates import RowError
from cdc_assets.source.snapshot import Chunk

_LOG = logging.getLogger("cdc_assets.transform")


def altered_while_copied(table: TableName, altered: str) -> SchemaChangeError:
    """Say that a table's copy can't be finished."""
    return SchemaChangeError(
        f"table {str(table)!r} was altered while it was copied: {altered}",
        table=str(table),
        hint="the next sync copies it anew",
    )


def shaped(session: Session, chunk: Chunk, table: TableName) -> Iterator[pa.Table]:
    """Decode a chunk to rows of the mirror, batch by batch.

    Raises:
        SchemaChangeError: The table is not the one of the shape any more.
        ValueConversionError: A value that its column's type can't hold.
    """
    if chunk.is_altered:
        raise altered_while_copied(table, "its columns or its row filter are others")
    shape, shaping = session.checkpoints[table].shape, session.shaping(table)
    for batch in chunk.batches:
        rows = source_rows(batch, shape, table, chunk.lsn)
        try:
            yield shaping.rows(rows, shape)
        except RowError as error:
            raise no_truth(table, str(error), chunk.lsn) from error
        except FunctionError as error:
            raise not_transformed(table, error, chunk.lsn) from None


def source_rows(batch: pa.RecordBatch, shape: TableShape, table: TableName, lsn: LSN) -> pa.Table:
    """Decode a batch of a chunk to rows of the source's shape, with the columns that we add.

    Raises:
        ValueConversionError: A value that its column's type can't hold.
    """
    columns = []
    for values, column in zip(batch.columns, shape.columns, strict=True):
        try:
            columns.append(decode_read(values, column.type.arrow))
        except UnfitValueError as error:
            raise unfit_value(table, column, error.wanted, lsn) from error
    return with_added(
        columns,
        shape,
        end_lsn=np.full(batch.num_rows, int(lsn), dtype=np.uint64),
        commit=pa.nulls(batch.num_rows, pa.int64()),
    )


def no_truth(table: TableName, kind: str, lsn: LSN) -> TableError:
    """Say that a table's condition can't be computed for a row, without the row."""
    return ValueConversionError(
        f"the condition 'where' of table {str(table)!r} can't be computed for a row, at {lsn}: "
        f"{kind}",
        table=str(table),
        lsn=str(lsn),
        hint="write it so that it is true, false or null for every row (try_cast, nullif), then "
        + recopy_hint(table),
    )


def not_transformed(table: TableName, error: FunctionError, lsn: LSN) -> TableError:
    """Say that a table's function has failed; its traceback goes to the log, without a message."""
    if error.trace:
        _LOG.error("the transform of table %r failed:\n%s", str(table), "\n".join(error.trace))
    return TransformError(
        f"the transform of table {str(table)!r} failed at {lsn}: {error}",
        table=str(table),
        lsn=str(lsn),
        hint=(error.hint or "correct the function") + ", then " + recopy_hint(table),
    )


def unfit_value(
    table: TableName, column: SourceColumn, wanted: str, lsn: LSN
) -> ValueConversionError:
    """Say which column holds a value that can't be kept, without the value."""
    return ValueConversionError(
        f"column {column.name!r} of table {str(table)!r} holds a value that does not fit {wanted}, "
        f"at {lsn}",
        table=str(table),
        lsn=str(lsn),
        hint="let such a column become text (unfit_values: text, where nothing is computed of it "
        "and its rows can be read again); or correct the value on the source, or choose another "
        f"type (columns.types: {{{column.name}: text}} takes any), then "
        + recopy_hint(table)
        + f"; {page('types')} lists what each type can hold",
        attnum=column.attnum,
    )
