"""Rows of a mirror by their keys, as Arrow columns of a mirror's own types."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from cdc_assets.pgoutput.values import decode_text


def as_kept(values: pa.Array, kind: pa.DataType) -> pa.Array:
    """Give a column that DuckDB has given the Arrow type that it was written with.

    DuckDB gives uuid and JSON as text.
    """
    if values.type == kind:
        return values
    if kind == pa.uuid():
        return decode_text(pc.cast(values, pa.binary()), kind)
    if isinstance(kind, pa.JsonType):
        return pa.ExtensionArray.from_storage(kind, pc.cast(values, kind.storage_type))
    return pc.cast(values, kind)
