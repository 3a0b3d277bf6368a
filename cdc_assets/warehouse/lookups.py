"""Rows of a table by their keys: how one asks for them, and what they are in Arrow."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc_assets.changes.rows import Lookup
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import quote
from cdc_assets.pgoutput.values import decode_text

PLACE = "_cdc_place"


def as_kept(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Give a column that DuckDB has given the Arrow type that it was written with.

    DuckDB gives uuid and JSON as text.
    """
    if values.type == kind:
        return values
    if pa.types.is_list(kind):
        flat = as_kept(pc.list_flatten(values), kind.value_type)
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy()
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        return pa.ListArray.from_arrays(offsets, flat, type=kind, mask=values.is_null())
    if kind == pa.uuid():
        return decode_text(pc.cast(values, pa.binary()), kind)
    if isinstance(kind, pa.JsonType):
        return pa.ExtensionArray.from_storage(kind, pc.cast(values, kind.storage_type))
    return pc.cast(values, kind)


def asking(shape: TableShape, lookup: Lookup) -> pa.Table:
    """Give the rows of a lookup with their places, keys and what they want."""
    staged = lookup.rows.append_column(PLACE, pa.array(np.arange(lookup.rows.num_rows)))
    for name, key in zip(key_names(shape), lookup.keys, strict=True):
        staged = staged.append_column(name, key)
    for at, mask in enumerate(lookup.wanted.values()):
        staged = staged.append_column(f"_cdc_want_{at}", mask)
    return staged


def filling(relation: str, shape: TableShape, lookup: Lookup) -> str:
    """Write the query that fills the rows of `_asking`."""
    marks = {name: f"_cdc_want_{at}" for at, name in enumerate(lookup.wanted)}
    values = ", ".join(
        f"CASE WHEN {marks[name]} THEN mirror.{quote(name)} ELSE _cdc_batch.{quote(name)} END"
        f" AS {quote(name)}"
        if name in marks
        else f"_cdc_batch.{quote(name)}"
        for name in lookup.rows.column_names
    )
    return (
        f"SELECT {values}, {PLACE} FROM _cdc_batch JOIN {relation} AS mirror"
        f" ON {key_matches(shape)}"
    )


def key_names(shape: TableShape) -> list[str]:
    """Name the columns of a batch that hold keys."""
    return [f"_cdc_key_{at}" for at in range(len(shape.key))]


def key_matches(shape: TableShape, relation: str = "mirror") -> str:
    """Write that a row of a relation has the key of one of `_cdc_batch`."""
    return " AND ".join(
        f"{relation}.{quote(name)} = _cdc_batch.{key}"
        for name, key in zip(shape.key, key_names(shape), strict=True)
    )
