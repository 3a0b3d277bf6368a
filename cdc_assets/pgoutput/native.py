"""Arrow columns of a binary read to the arrays that the stream's text would give, bit for bit.

A read takes a column in one of two forms (`source.native` chooses): as its output function's text,
or as the type's own binary form, which the driver has brought into Arrow. What the driver does on
the way is undone here:

- Dates and timestamps count from 2000 in Postgres. The driver adds the years since 1970 and lets
  the sum wrap around: infinity, and timestamps past the year 294247, arrive as numbers before any
  date that Postgres has. No two values arrive as the same number.
- A NaN that was computed may have a sign and a payload, which its text has not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cdc_assets.pgoutput.exact import DATE_INFINITY, TIMESTAMP_INFINITY, UnfitValueError
from cdc_assets.pgoutput.values import decode_text

_FIRST_JULIAN_DAY = -2_451_545  # 4714-11-24 BC, counted from 2000: Postgres has no date before it
_EPOCH_DAYS = 10_957  # from 1970 to 2000
_DAY_MICROSECONDS = 86_400_000_000


def decode_read(values: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    """Decode a column of a read to n values of the mirror's type; null stays null.

    Args:
        values: Strings are the value's text; everything else is its binary form.
        arrow_type: The mirror's.

    Raises:
        UnfitValueError: A value that the type can't hold, as its text would.
    """
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_string(values.type) and pa.types.is_decimal(arrow_type):
        return _decimals(values, arrow_type)
    if pa.types.is_string(values.type) or arrow_type == pa.string():
        return decode_text(pc.cast(values, pa.binary()), arrow_type)
    decoder = _DECODERS.get(arrow_type)
    return decoder(values) if decoder is not None else pc.cast(values, arrow_type)


def _decimals(text: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    """Read digits without a look at their encoding: what is not ASCII is no number."""
    try:
        return pc.cast(text, arrow_type)
    except pa.ArrowInvalid:
        return decode_text(pc.cast(text, pa.binary()), arrow_type)


def _floats(values: pa.Array) -> pa.Array:
    found = pc.is_nan(values)
    if not pc.any(found).as_py():
        return values
    return pc.if_else(found, pa.scalar(float("nan"), values.type), values)


def _uuids(values: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.uuid(), pc.cast(values, pa.binary(16)))


def _dates(values: pa.Array) -> pa.Array:
    first = _FIRST_JULIAN_DAY + _EPOCH_DAYS
    numbers, is_odd = _numbers(values, pa.int32(), first)
    if not is_odd.any():
        return values
    odd = numbers[is_odd] - np.int32(_EPOCH_DAYS)  # wraps back
    fixed = _infinities(odd, DATE_INFINITY, wanted="date")
    return _with_odd(values, is_odd, fixed)


def _timestamps(values: pa.Array) -> pa.Array:
    wanted = "timestamp of 64-bit microseconds since 1970"
    first = (_FIRST_JULIAN_DAY + _EPOCH_DAYS) * _DAY_MICROSECONDS
    numbers, is_odd = _numbers(values, pa.int64(), first)
    if (numbers == TIMESTAMP_INFINITY).any():
        raise UnfitValueError(wanted)  # a moment in time whose number is that of infinity
    if not is_odd.any():
        return values
    odd = numbers[is_odd] - np.int64(_EPOCH_DAYS * _DAY_MICROSECONDS)  # wraps back
    return _with_odd(values, is_odd, _infinities(odd, TIMESTAMP_INFINITY, wanted=wanted))


def _numbers(
    values: pa.Array, storage: pa.DataType, first: int
) -> tuple[NDArray[np.signedinteger], NDArray[np.bool_]]:
    """Give the numbers of all rows, 0 for null, and which of them are before the first date."""
    numbers = pc.fill_null(values.view(storage), 0).to_numpy()
    return numbers, numbers < first


def _infinities(
    odd: NDArray[np.signedinteger], infinity: int, *, wanted: str
) -> NDArray[np.signedinteger]:
    """Give the mirror's infinities for Postgres' own, which are the ends of the integer's range.

    Raises:
        UnfitValueError: Another number: a moment past the range.
    """
    is_late = odd == infinity
    if not (is_late | (odd == -infinity - 1)).all():
        raise UnfitValueError(wanted)
    return np.where(is_late, infinity, -infinity).astype(odd.dtype)


def _with_odd(
    values: pa.Array, is_odd: NDArray[np.bool_], fixed: NDArray[np.signedinteger]
) -> pa.Array:
    mask, storage = pa.array(is_odd), pa.array(fixed)
    return pc.replace_with_mask(values.view(storage.type), mask, storage).view(values.type)


_DECODERS: dict[pa.DataType, Callable[[pa.Array], pa.Array]] = {
    pa.float32(): _floats,
    pa.float64(): _floats,
    pa.uuid(): _uuids,
    pa.date32(): _dates,
    pa.timestamp("us"): _timestamps,
    pa.timestamp("us", "UTC"): _timestamps,
}
