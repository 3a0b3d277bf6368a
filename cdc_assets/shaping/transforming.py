"""Changes and rows of copies, put through a transform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import ChangeBatch, Chosen, Mask
from cdc_assets.changes.leaving import of_kept_rows
from cdc_assets.changes.shape import TableShape
from cdc_assets.pgoutput.messages import Ints
from cdc_assets.shaping.functions import FunctionError
from cdc_assets.shaping.transforms import Transform


def transformed(
    batch: ChangeBatch, chosen: Chosen, given: TableShape, transform: Transform
) -> ChangeBatch:
    """Put the new rows of changes through a function, those that are known and kept.

    Args:
        batch: The changes.
        chosen: Of their new rows, as far as anything else tells.
        given: Their shape.
        transform: The function.

    Returns:
        The batch with the columns of the kept shape.

    Raises:
        FunctionError: It fails.
    """
    made, is_kept = _put_through(batch.columns, chosen.kept, given, transform)
    return replace(
        batch,
        # keys of rows that are not kept stay: they tell which rows leave
        columns=_with_keys(made, batch.columns, given, transform),
        unchanged={},  # a row that lacks a value is not kept
        chosen=Chosen(is_kept, chosen.unsure),
    )


def refuse_lacking(batch: ChangeBatch) -> None:
    """Check that all changes have all values, where there is no reading a row anew.

    Raises:
        FunctionError: One lacks a value.
    """
    if batch.unchanged:
        raise FunctionError(
            "it can't be called for a change that does not carry all values",
            hint="the change was made before the table had REPLICA IDENTITY FULL",
        )


def dropped_rows() -> FunctionError:
    """Say that a function has dropped rows by what nobody will know any more."""
    return FunctionError(
        "dropped a row of a table that takes columns of others",
        hint="what a row that is not kept has taken is not known later, so whether it belongs there"
        " could not be told: keep all rows, and leave some out by 'where'",
    )


def transformed_with_old(
    batch: ChangeBatch, chosen: Chosen, given: TableShape, transform: Transform
) -> ChangeBatch:
    """Put new and old rows of changes through a function; of these all have to be whole.

    Args:
        batch: The changes, with all old values.
        chosen: Of their new rows, all that there are.
        given: Their shape.
        transform: The function.

    Returns:
        The changes of a table that has only the rows which the function keeps.

    Raises:
        FunctionError: It fails.
    """
    done = transformed(batch, chosen, given, transform)
    old, whole = np.zeros(len(batch), dtype=bool), list[pa.Array]()
    if len(batch.old_rows):
        before = [batch.old_values[at] for at in range(len(given.columns))]
        every = np.ones(len(batch.old_rows), dtype=bool)
        made, old[batch.old_rows] = _put_through(before, every, given, transform)
        whole = _with_keys(made, before, given, transform)
    if done.record is not None:
        done = replace(done, record=replace(done.record, before=whole))
    new = chosen.kept if done.chosen is None else done.chosen.kept
    return of_kept_rows(replace(done, chosen=None, old_values={}), new=new, old=old)


def _put_through(
    columns: Sequence[pa.Array], mask: Mask, given: TableShape, transform: Transform
) -> tuple[list[pa.Array], Mask]:
    """Put some of n rows through; gives columns of n rows, null in all others, and which came."""
    rows = np.flatnonzero(mask)
    if len(rows) < len(mask):
        columns = [column.take(pa.array(rows)) for column in columns]
    done = transform.apply(pa.table(list(columns), given.names), given)
    at, is_kept = rows[done.places], np.zeros(len(mask), dtype=bool)
    is_kept[at] = True
    return _spread(done.columns, at, len(mask)), is_kept


def _spread(columns: list[pa.Array], rows: Ints, count: int) -> list[pa.Array]:
    if len(rows) == count:
        return columns
    places, lacks = np.zeros(count, dtype=np.int64), np.ones(count, dtype=bool)
    places[rows], lacks[rows] = np.arange(len(rows)), False
    at = pa.array(places, mask=lacks)
    return [column.take(at) for column in columns]


def _with_keys(
    made: Sequence[pa.Array], before: Sequence[pa.Array], given: TableShape, transform: Transform
) -> list[pa.Array]:
    keys = {given.names[at]: before[at] for at in given.key_indexes}
    names = transform.kept(given).names
    return [keys.get(name, column) for name, column in zip(names, made, strict=True)]


def transformed_rows(
    columns: Sequence[pa.Array], added: pa.Table, given: TableShape, transform: Transform
) -> pa.Table:
    """Put rows of a copy through a function.

    Args:
        columns: Of the given shape.
        added: Columns that we add, of the same rows.
        given: The shape of what the function gets.
        transform: The function.

    Raises:
        FunctionError: It fails.
    """
    done = transform.apply(pa.table(list(columns), given.names), given)
    beside = added if len(done.places) == len(added) else added.take(pa.array(done.places))
    names = [*transform.kept(given).names, *added.column_names]
    return pa.table([*done.columns, *beside.columns], names)
