"""The type table: which Arrow type keeps a Postgres type's every value.

One place for snapshot and stream, decoder and warehouse: the decoder is chosen by the Arrow type,
and so is the warehouse's column type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

TEXT: pa.DataType = pa.string()
TIMESTAMP: pa.DataType = pa.timestamp("us")
TIMESTAMPTZ: pa.DataType = pa.timestamp("us", "UTC")
TIME: pa.DataType = pa.time64("us")
MAX_DECIMAL_PRECISION = 38

_NUMERIC_OID = 1700
_SCALARS: Mapping[int, pa.DataType] = {
    16: pa.bool_(),
    17: pa.binary(),  # bytea
    18: TEXT,  # "char"
    19: TEXT,  # name
    20: pa.int64(),
    21: pa.int16(),
    23: pa.int32(),
    25: TEXT,
    114: pa.json_(TEXT),
    700: pa.float32(),
    701: pa.float64(),
    1042: TEXT,  # char(n), padding kept
    1043: TEXT,  # varchar
    1082: pa.date32(),
    1083: TIME,
    1114: TIMESTAMP,
    1184: TIMESTAMPTZ,
    1186: TEXT,  # interval: months, days and seconds do not add up to one number
    2950: pa.uuid(),
    3802: pa.json_(TEXT),  # jsonb
}


@dataclass(frozen=True, slots=True)
class SourceType:
    """A column's type as the catalog resolves it.

    Attributes:
        name: As `format_type` prints it, typmod included.
        oid: Of the base type under all domains; of the element's base type for an array.
        typmod: Of that base type, -1 for none.
        is_array: Whether it is an array of `oid`.
        is_enum: Whether `oid` is an enum.
    """

    name: str
    oid: int
    typmod: int
    is_array: bool
    is_enum: bool

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type that columns of this type are decoded to."""
        scalar = TEXT if self.is_enum else _scalar(self.oid, self.typmod)
        if scalar is None:
            return TEXT
        return pa.list_(scalar) if self.is_array else scalar


def _scalar(oid: int, typmod: int) -> pa.DataType | None:
    """Find a scalar's Arrow type; None is a type that is kept as its whole text."""
    return _numeric(typmod) if oid == _NUMERIC_OID else _SCALARS.get(oid)


def _numeric(typmod: int) -> pa.DataType:
    """Read precision and scale (`numerictypmodin`, numeric.c); what a DECIMAL can't be is text."""
    if typmod < 4:
        return TEXT
    precision = (typmod - 4) >> 16 & 0xFFFF
    scale = ((typmod - 4 & 0x7FF) ^ 1024) - 1024  # signed 11 bits since Postgres 15
    if precision > MAX_DECIMAL_PRECISION or not 0 <= scale <= precision:
        return TEXT
    return pa.decimal128(precision, scale)
