"""Which type keeps what a function gives: by what is declared, or by what its frame has.

Columns of the warehouse have the types of the source's columns, so these are named likewise.
"""

from __future__ import annotations

import pyarrow as pa

from cdc_assets.pgoutput.types import MAX_DECIMAL_PRECISION, SourceType, named_type
from cdc_assets.shaping.frames import is_any_list, kind_of


def kept_type(found: pa.DataType) -> SourceType | None:
    """Give the type that keeps all values of a frame's column; None where it does not tell one."""
    if pa.types.is_dictionary(found):
        return kept_type(found.value_type)
    if is_any_list(found):
        element = kept_type(found.value_type)
        if element is None or element.is_array:
            return None
        return named_type(f"{element.name}[]")
    name = _kept_name(found)
    return named_type(name) if name else None


def _kept_name(found: pa.DataType) -> str:
    kind = kind_of(found)
    if pa.types.is_integer(found):
        bits = found.bit_width * (2 if pa.types.is_unsigned_integer(found) else 1)
        names = {8: "smallint", 16: "smallint", 32: "integer", 64: "bigint", 128: "numeric(20,0)"}
        return names[bits]
    if pa.types.is_floating(found):
        return "double precision" if found == pa.float64() else "real"
    if pa.types.is_decimal(found):
        fits = found.precision <= MAX_DECIMAL_PRECISION and 0 <= found.scale <= found.precision
        return f"numeric({found.precision},{found.scale})" if fits else ""
    return {
        "text": "text",
        "bytes": "bytea",
        "date": "date",
        "time": "time without time zone",
        "timestamp": "timestamp without time zone",
        "moment": "timestamp with time zone",
        "interval": "interval",
        "bool": "boolean",
    }.get(kind, "")
