"""Which type keeps what a function gives: by what is declared, or by what its frame has.

Columns of the warehouse have the types of the source's columns, so these are named likewise.
"""

from __future__ import annotations

import pyarrow as pa

from cdc_assets.pgoutput.types import MAX_DECIMAL_PRECISION, SourceType
from cdc_assets.shaping.frames import is_any_list, kind_of


def kept_type(found: pa.DataType) -> SourceType | None:
    """Give the type that keeps all values of a frame's column; None where it does not tell one."""
    if pa.types.is_dictionary(found):
        return kept_type(found.value_type)
    if is_any_list(found):
        element = kept_type(found.value_type)
        if element is None or element.is_array:
            return None
        return declared_type(f"{element.name}[]")
    name = _kept_name(found)
    return declared_type(name) if name else None


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
        "bool": "boolean",
    }.get(kind, "")


_OIDS = {
    "boolean": 16,
    "bytea": 17,
    "bigint": 20,
    "smallint": 21,
    "integer": 23,
    "text": 25,
    "json": 114,
    "real": 700,
    "double precision": 701,
    "date": 1082,
    "time without time zone": 1083,
    "timestamp without time zone": 1114,
    "timestamp with time zone": 1184,
    "uuid": 2950,
}
_NUMERIC_OID = 1700


def declared_type(name: str) -> SourceType:
    """Give a type by Postgres' name of it, one that `config.transforms.type_name` gives."""
    element = name.removesuffix("[]")
    oid, typmod = _OIDS.get(element, _NUMERIC_OID), -1
    if oid == _NUMERIC_OID:
        precision, scale = map(int, element.removeprefix("numeric(").removesuffix(")").split(","))
        typmod = (precision << 16 | scale) + 4
    return SourceType(name, oid, typmod, is_array=element != name, is_enum=False)
