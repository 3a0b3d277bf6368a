"""Which DuckDB type keeps every value of an Arrow type."""

from __future__ import annotations

import pyarrow as pa

from cdc_assets.identifiers import quote

_SCALARS: dict[pa.DataType, str] = {
    pa.bool_(): "BOOLEAN",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint64(): "UBIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.date32(): "DATE",
    pa.time64("us"): "TIME",
    pa.month_day_nano_interval(): "INTERVAL",
    pa.timestamp("us"): "TIMESTAMP",
    pa.timestamp("us", "UTC"): "TIMESTAMP WITH TIME ZONE",
    pa.uuid(): "UUID",
    pa.json_(pa.string()): "JSON",
}


def column_type(arrow_type: pa.DataType) -> str:
    """Name the DuckDB type that keeps every value of an Arrow type."""
    if pa.types.is_decimal(arrow_type):
        return f"DECIMAL({arrow_type.precision},{arrow_type.scale})"
    if pa.types.is_list(arrow_type):
        return f"{column_type(arrow_type.value_type)}[]"
    if pa.types.is_struct(arrow_type):
        listed = (f"{quote(field.name)} {column_type(field.type)}" for field in arrow_type)
        return f"STRUCT({', '.join(listed)})"
    return _SCALARS[arrow_type]
