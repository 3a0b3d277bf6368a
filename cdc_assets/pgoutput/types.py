"""The type table: which Arrow type keeps a Postgres type's every value.

One place for snapshot and stream, decoder and warehouse: the decoder is chosen by the Arrow type,
and so is the warehouse's column type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

TEXT: pa.DataType = pa.string()
TIMESTAMP: pa.DataType = pa.timestamp("us")
TIMESTAMPTZ: pa.DataType = pa.timestamp("us", "UTC")
TIME: pa.DataType = pa.time64("us")
INTERVAL: pa.DataType = pa.month_day_nano_interval()
MAX_DECIMAL_PRECISION = 38

_INTERVAL_OID, _NUMERIC_OID = 1186, 1700
_BOX_OID = 603  # whose arrays have semicolons between their elements
SCALARS: Mapping[int, pa.DataType] = {
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
    1186: INTERVAL,
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
        kept: As which type its values are kept instead of the one that the table has for it, by
            Postgres' name; empty: as that.
    """

    name: str
    oid: int
    typmod: int
    is_array: bool
    is_enum: bool
    kept: str = ""

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type that columns of this type are decoded to."""
        if not self.kept:
            return self.own
        element, dimensions = _dimensions(self.kept)
        found = named_type(element).own
        for _ in range(dimensions):
            found = pa.list_(found)
        return found

    @property
    def is_unbounded_number(self) -> bool:
        """Whether it is a numeric without a precision."""
        return self.oid == _NUMERIC_OID and self.typmod < 0 and not self.is_array

    @property
    def own(self) -> pa.DataType:
        """The one that keeps every value, whatever is said."""
        scalar = TEXT if self.is_enum else _scalar(self.oid, self.typmod)
        if scalar is None:
            return TEXT
        return pa.list_(scalar) if self.is_array else scalar


_NAMED: Mapping[str, int] = {
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
    "interval": _INTERVAL_OID,
    "uuid": 2950,
}


def named_type(name: str) -> SourceType:
    """Give a type by Postgres' name of it, one that `config.transforms.type_name` gives."""
    element = name.removesuffix("[]")
    oid, typmod = _NAMED.get(element, _NUMERIC_OID), -1
    if oid == _NUMERIC_OID:
        precision, scale = map(int, element.removeprefix("numeric(").removesuffix(")").split(","))
        typmod = (precision << 16 | scale) + 4
    return SourceType(name, oid, typmod, is_array=element != name, is_enum=False)


def _dimensions(name: str) -> tuple[str, int]:
    element = name.rstrip("[]")
    return element, (len(name) - len(element)) // 2


def can_be_kept_as(kind: SourceType, name: str) -> bool:
    """Whether values of a type can be kept as another one: all of them, or those that fit it.

    Args:
        kind: The type.
        name: Postgres' name of the other, with as many dimensions as its values have.
    """
    element, dimensions = _dimensions(name)
    if kind.is_array != bool(dimensions):
        return name == "text"
    if kind.is_array and kind.oid == _BOX_OID:
        return False
    if element == "text":
        return True
    own = TEXT if kind.is_enum else _scalar(kind.oid, kind.typmod)
    chosen = named_type(element).own
    if kind.oid == _NUMERIC_OID:
        return bool(pa.types.is_decimal(chosen))
    is_integer = own is not None and pa.types.is_integer(own)
    if is_integer and (pa.types.is_integer(chosen) or pa.types.is_decimal(chosen)):
        return True
    return bool(own == chosen)


def intervals_as_text(kind: SourceType) -> SourceType:
    """Keep intervals as texts: keys, as two that are equal are two texts, and older mirrors."""
    if kind.oid != _INTERVAL_OID:
        return kind
    return replace(kind, kept="text[]" if kind.is_array else "text")


def _scalar(oid: int, typmod: int) -> pa.DataType | None:
    """Find a scalar's Arrow type; None is a type that is kept as its whole text."""
    return _numeric(typmod) if oid == _NUMERIC_OID else SCALARS.get(oid)


def _numeric(typmod: int) -> pa.DataType:
    """Read precision and scale (`numerictypmodin`, numeric.c); what a DECIMAL can't be is text."""
    if typmod < 4:
        return TEXT
    precision = (typmod - 4) >> 16 & 0xFFFF
    scale = ((typmod - 4 & 0x7FF) ^ 1024) - 1024  # signed 11 bits since Postgres 15
    if precision > MAX_DECIMAL_PRECISION or not 0 <= scale <= precision:
        return TEXT
    return pa.decimal128(precision, scale)
