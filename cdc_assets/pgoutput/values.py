"""Postgres' text form to Arrow arrays, a whole column at once.

The fast path of each type takes the values whose text Arrow (or a few numpy gathers) reads; what it
refuses goes to `exact`, for those values alone. Nothing is rounded, clamped or nulled: a value that
the Arrow type can't hold raises `UnfitValueError`.

Text forms are those of a session with DateStyle ISO, TimeZone UTC, bytea_output hex and
extra_float_digits 3; see `source.connection`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cdc_assets.pgoutput import exact
from cdc_assets.pgoutput.messages import Bytes
from cdc_assets.pgoutput.tuples import Field
from cdc_assets.pgoutput.types import INTERVAL

UnfitValueError = exact.UnfitValueError

_HEX = np.zeros(256, dtype=np.uint8)
_HEX[np.frombuffer(b"0123456789abcdef", dtype=np.uint8)] = np.arange(16)
_UUID_CHARACTERS = 36
_UUID_DIGITS = np.array([at for at in range(_UUID_CHARACTERS) if at not in (8, 13, 18, 23)])
_DAY_MICROSECONDS = 86_400_000_000
_PLAIN_DATE = r"^\d{4}-\d\d-\d\d$"
_PLAIN_TIMESTAMP = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?(\+00)?$"

_PLAIN_INTERVAL = r"^\d\d:\d\d:\d\d(\.\d+)?$"
_INTERVAL = (
    r"^(?:\+?(?P<years>-?\d+) years? ?)?(?:\+?(?P<months>-?\d+) mons? ?)?"
    r"(?:\+?(?P<days>-?\d+) days? ?)?"
    r"(?:(?P<sign>[+-]?)(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)"
    r"(?:\.(?P<fraction>\d+))?)?$"
)
# Arrow's intervals count nanoseconds in 64 bits
_INTERVAL_MICROSECONDS = (2**63 - 1) // 1000
_INTERVAL_HOURS = _INTERVAL_MICROSECONDS // 3_600_000_000
_SHORT_INTERVAL = f"interval of {_INTERVAL_HOURS} hours at most besides months and days"


def decode_field(field: Field, buffer: Bytes, arrow_type: pa.DataType) -> pa.Array:
    """Decode one column of n rows to n values, null where the field carries no text.

    Raises:
        UnfitValueError: A value that the type can't hold.
    """
    return decode_text(cut_text(field, buffer), arrow_type)


def cut_text(field: Field, buffer: Bytes) -> pa.Array:
    """Cut a column's text out of the buffer that holds all messages, as n binary values.

    The offsets of an Arrow array must only grow and its values must touch. So the array is laid
    over the whole buffer with two elements per row, the value and the gap behind it, and every
    second element is taken: one copy of the text, and no Python object.
    """
    starts, lengths, present = field.starts, field.lengths, field.present
    if not present.all():
        # a row without text must not break the order of the offsets
        starts = np.where(present, starts, 0)
        np.maximum.accumulate(starts, out=starts)
    count = len(starts)
    offsets = np.empty(2 * count + 1, dtype=np.int32)
    offsets[0:-1:2], offsets[1::2] = starts, starts + lengths
    offsets[-1] = len(buffer) if count else 0
    np.maximum.accumulate(offsets, out=offsets)
    laid = pa.Array.from_buffers(
        pa.binary(), 2 * count, [None, pa.py_buffer(offsets), pa.py_buffer(buffer)]
    )
    every_second = np.arange(0, 2 * count, 2, dtype=np.int32)
    mask = None if present.all() else ~present
    return laid.take(pa.array(every_second, mask=mask))


def decode_text(text: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    """Decode n binary values in Postgres' text form; null stays null.

    Raises:
        UnfitValueError: A value that the type can't hold.
    """
    if pa.types.is_list(arrow_type):
        return _lists(text, arrow_type)
    decoder = _DECODERS.get(arrow_type)
    if decoder is not None:
        return decoder(text)
    try:
        return pc.cast(_utf8(text), arrow_type)
    except pa.ArrowInvalid as error:
        raise UnfitValueError(_name(arrow_type)) from error


def _name(arrow_type: pa.DataType) -> str:
    if pa.types.is_decimal(arrow_type):
        return f"numeric({arrow_type.precision},{arrow_type.scale})"
    return str(arrow_type)


def _utf8(text: pa.Array) -> pa.Array:
    try:
        return pc.cast(text, pa.string())
    except pa.ArrowInvalid as error:
        raise UnfitValueError("UTF-8 text") from error


def _booleans(text: pa.Array) -> pa.Array:
    return pc.equal(text, b"t")


def _json(text: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(pa.string()), _utf8(text))


def _bytea(text: pa.Array) -> pa.Array:
    r"""Read `\x` and hex digits: two characters a byte, and `\x` makes one that is left out."""
    characters, offsets = _bytes_and_offsets(text)
    lengths = offsets[1:] - offsets[:-1]
    _expect("hex digits", lengths % 2 == 0, (lengths > 0) | ~_present(text))
    nibbles = _HEX[characters]
    packed = nibbles[0::2] << 4 | nibbles[1::2]
    prefixes = offsets[:-1][lengths > 0] // 2
    before = np.concatenate([[0], np.cumsum(lengths > 0)])
    own = (offsets // 2 - before).astype(np.int32)
    return _rebuilt(
        text, pa.binary(), [pa.py_buffer(own), pa.py_buffer(np.delete(packed, prefixes))]
    )


def _uuids(text: pa.Array) -> pa.Array:
    full = pc.fill_null(text, b"00000000-0000-0000-0000-000000000000")
    digits, offsets = _bytes_and_offsets(full)
    _expect("uuid", offsets[1:] - offsets[:-1] == _UUID_CHARACTERS)
    nibbles = _HEX[digits.reshape(-1, _UUID_CHARACTERS)[:, _UUID_DIGITS]]
    packed = np.ascontiguousarray(nibbles[:, 0::2] << 4 | nibbles[:, 1::2])
    storage = _rebuilt(text, pa.binary(16), [pa.py_buffer(packed)])
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def _times(text: pa.Array) -> pa.Array:
    """Read `HH:MM:SS[.ffffff]`; 24:00:00 is legal and stays what it is."""
    micros = _clock(text)
    _expect("time", micros >= 0, micros <= _DAY_MICROSECONDS)
    return _rebuilt(text, pa.time64("us"), [pa.py_buffer(micros)])


def _clock(text: pa.Array) -> NDArray[np.int64]:
    """Read two digits each of hours, minutes and seconds, and a fraction, as microseconds."""
    full = pc.fill_null(text, b"00:00:00")
    digits, offsets = _bytes_and_offsets(full)
    number = digits.astype(np.int64) - ord("0")
    start, end = offsets[:-1], offsets[1:]
    _expect("time", end - start >= len("00:00:00"))
    _expect("time", *(digits[start + at] == ord(":") for at in (2, 5)))

    def two(at: int) -> NDArray[np.int64]:
        return number[start + at] * 10 + number[start + at + 1]

    micros = ((two(0) * 60 + two(3)) * 60 + two(6)) * 1_000_000
    for place in range(6):
        at = start + 9 + place
        there = at < end
        micros[there] += number[at[there]] * 10 ** (5 - place)
    return micros


def _intervals(text: pa.Array) -> pa.Array:
    """Read `1 year 2 mons -3 days +04:05:06.789`: months, days and nanoseconds of 16 bytes."""
    strings = _utf8(text)
    packed = np.zeros(len(text), dtype=[("months", "i4"), ("days", "i4"), ("nanos", "i8")])
    if pc.all(pc.match_substring_regex(strings, _PLAIN_INTERVAL)).as_py() is not False:
        packed["nanos"] = _clock(text) * 1000
        return _rebuilt(text, INTERVAL, [pa.py_buffer(packed)])
    parts = pc.extract_regex(strings, _INTERVAL)
    _expect("interval", _present(parts) == _present(text))
    years, months, days, hours, minutes, seconds = map(
        partial(_part, parts), ("years", "months", "days", "hours", "minutes", "seconds")
    )
    fractions = _part(parts, "fraction", digits=6)
    micros = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + fractions
    _expect(_SHORT_INTERVAL, hours <= _INTERVAL_HOURS, micros <= _INTERVAL_MICROSECONDS)
    is_back = pc.equal(parts.field("sign"), "-").fill_null(False).to_numpy(zero_copy_only=False)
    packed["months"], packed["days"] = years * 12 + months, days
    packed["nanos"] = np.where(is_back, -micros, micros) * 1000
    return _rebuilt(text, INTERVAL, [pa.py_buffer(packed)])


def _part(parts: pa.StructArray, name: str, digits: int = 0) -> NDArray[np.int64]:
    """Read one number of each interval, 0 where it has none."""
    found = parts.field(name)
    found = pc.utf8_rpad(found, digits, "0") if digits else found
    is_lacking = pc.fill_null(pc.equal(found, ""), True)
    numbers: NDArray[np.int64] = pc.if_else(is_lacking, "0", found).cast(pa.int64()).to_numpy()
    return numbers


def _dates(text: pa.Array) -> pa.Array:
    return _with_exact(text, pa.date32(), pa.int32(), _PLAIN_DATE, exact.date_days)


def _timestamps(text: pa.Array) -> pa.Array:
    kind = pa.timestamp("us")
    return _with_exact(text, kind, pa.int64(), _PLAIN_TIMESTAMP, exact.timestamp_micros)


def _timestamptzs(text: pa.Array) -> pa.Array:
    kind = pa.timestamp("us", "UTC")
    return _with_exact(text, kind, pa.int64(), _PLAIN_TIMESTAMP, exact.timestamp_micros)


def _with_exact(
    text: pa.Array,
    arrow_type: pa.DataType,
    storage: pa.DataType,
    plain: str,
    read: Callable[[str], int],
) -> pa.Array:
    strings = _utf8(text)
    try:
        return pc.cast(strings, arrow_type)
    except pa.ArrowInvalid:
        odd = pc.invert(pc.match_substring_regex(strings, plain))
    values = [read(value) for value in strings.filter(odd).to_pylist() if value is not None]
    plain_only = pc.if_else(odd, pa.scalar(None, pa.string()), strings)
    try:
        numbers = pc.cast(plain_only, arrow_type).view(storage)
    except pa.ArrowInvalid as error:
        raise UnfitValueError(_name(arrow_type)) from error
    return pc.replace_with_mask(numbers, odd.fill_null(False), pa.array(values, storage)).view(
        arrow_type
    )


def _lists(text: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    """Split `{1,2,NULL}`; what has quotes, bounds or nesting is read exactly, value by value."""
    strings = _utf8(text)
    if pa.types.is_list(arrow_type.value_type):
        return _nested(strings, arrow_type)
    odd = pc.fill_null(pc.match_substring_regex(strings, r'^\[|["\\]|^.*\{.*\{'), False)
    if pc.any(odd).as_py():
        parts = [
            None if value is None else exact.array_parts(value) for value in strings.to_pylist()
        ]
        split = pa.array(parts, pa.list_(pa.string()))
        elements = split.values
    else:
        inner = pc.utf8_slice_codeunits(strings, 1, -1)
        split = pc.split_pattern(inner, ",")
        split = pc.if_else(pc.equal(inner, ""), pa.scalar([], split.type), split)
        elements = pc.if_else(
            pc.equal(split.values, "NULL"), pa.scalar(None, pa.string()), split.values
        )
    values = decode_text(pc.cast(elements, pa.binary()), arrow_type.value_type)
    return pa.ListArray.from_arrays(split.offsets, values, type=arrow_type, mask=text.is_null())


def _nested(strings: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    """Read arrays of as many dimensions as the type has."""
    dimensions, parts = 1, pa.list_(pa.string())
    of = arrow_type.value_type
    while pa.types.is_list(of):
        dimensions, parts, of = dimensions + 1, pa.list_(parts), of.value_type
    read = [
        None if value is None else exact.nested_parts(value, dimensions)
        for value in strings.to_pylist()
    ]
    return _retyped(pa.array(read, parts), arrow_type)


def _retyped(split: pa.Array, arrow_type: pa.DataType) -> pa.Array:
    if not pa.types.is_list(arrow_type):
        return decode_text(pc.cast(split, pa.binary()), arrow_type)
    values = _retyped(split.values, arrow_type.value_type)
    return pa.ListArray.from_arrays(split.offsets, values, type=arrow_type, mask=split.is_null())


def _expect(wanted: str, *masks: NDArray[np.bool_]) -> None:
    """Refuse text that the type's output function does not write."""
    if not all(mask.all() for mask in masks):
        raise UnfitValueError(wanted)


def _present(text: pa.Array) -> NDArray[np.bool_]:
    present: NDArray[np.bool_] = text.is_valid().to_numpy(zero_copy_only=False)
    return present


def _bytes_and_offsets(text: pa.Array) -> tuple[Bytes, NDArray[np.int32]]:
    """Give an array's own bytes and its offsets from 0, in place when nothing is sliced off."""
    _, offsets_buffer, bytes_buffer = text.buffers()
    offsets = np.frombuffer(offsets_buffer, dtype=np.int32)
    offsets = offsets[text.offset : text.offset + len(text) + 1]
    if not len(offsets):
        return np.empty(0, dtype=np.uint8), np.zeros(1, dtype=np.int32)
    content = np.frombuffer(bytes_buffer or b"", dtype=np.uint8)[offsets[0] : offsets[-1]]
    return content, offsets - offsets[0]


def _rebuilt(text: pa.Array, arrow_type: pa.DataType, buffers: list[pa.Buffer]) -> pa.Array:
    """Build an array whose nulls are those of `text`."""
    validity = None
    if text.null_count:
        validity = pa.py_buffer(np.packbits(_present(text), bitorder="little"))
    return pa.Array.from_buffers(arrow_type, len(text), [validity, *buffers])


_DECODERS: dict[pa.DataType, Callable[[pa.Array], pa.Array]] = {
    pa.bool_(): _booleans,
    pa.string(): _utf8,
    pa.binary(): _bytea,
    pa.uuid(): _uuids,
    pa.json_(pa.string()): _json,
    pa.time64("us"): _times,
    INTERVAL: _intervals,
    pa.date32(): _dates,
    pa.timestamp("us"): _timestamps,
    pa.timestamp("us", "UTC"): _timestamptzs,
}
