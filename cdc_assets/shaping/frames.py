"""Arrow tables as pandas frames, and back without a value lost.

Every column of a frame has its Arrow type (`pd.ArrowDtype`), so NULL stays apart from NaN, and a
number, a date or a text is what it was. What pandas has no type for comes as its text: UUID, JSON,
intervals.

What comes back is taken as it is, or cast to the wanted type where every value comes back the same
from there; else it is refused. So nothing is rounded, cut or made NULL on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cdc_assets.pgoutput.types import INTERVAL, TEXT
from cdc_assets.shaping.engine import compute

if TYPE_CHECKING:
    import pandas as pd

# Not where a new index begins: rows whose index was made anew are none of the frame's
FIRST = 1_000_000_000_000
_JSON: pa.DataType = pa.json_(TEXT)


class UnfitError(ValueError):
    """Values are not of the wanted type; says what they are, without a value."""


def plain_type(arrow_type: pa.DataType) -> pa.DataType:
    """Give the type that a column has in a frame."""
    if pa.types.is_list(arrow_type):
        return pa.list_(plain_type(arrow_type.value_type))
    return TEXT if arrow_type in (_JSON, pa.uuid(), INTERVAL) else arrow_type


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Make a frame of n rows, whose index is unlike one that pandas makes by itself."""
    import pandas as pd

    columns = [_plain(column.combine_chunks()) for column in table.columns]
    frame: pd.DataFrame = pa.table(columns, table.column_names).to_pandas(
        types_mapper=pd.ArrowDtype
    )
    frame.index = pd.RangeIndex(FIRST, FIRST + table.num_rows)
    return frame


def _plain(values: pa.Array) -> pa.Array:
    wanted = plain_type(values.type)
    if wanted == values.type:
        return values
    if values.type == _JSON:
        return values.storage
    text, of = "VARCHAR", wanted
    while pa.types.is_list(of):
        text, of = f"{text}[]", of.value_type
    return compute(f"value::{text}", pa.table([values], ["value"])).cast(wanted)


def arrow_of(series: pd.Series[Any]) -> pa.Array:
    """Give a column of a frame as Arrow sees it; what NumPy calls NaN is null.

    Raises:
        UnfitError: It has objects of several kinds.
    """
    try:
        found = pa.array(series)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise UnfitError(f"objects that are not of one kind ({type(error).__name__})") from None
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def fitted(values: pa.Array, wanted: pa.DataType, before: pa.Array | None) -> pa.Array:
    """Give values in the wanted type, each of them the same.

    Args:
        values: Of a frame.
        wanted: A type of the warehouse.
        before: The column of this name that the function got, of the same rows.

    Raises:
        UnfitError: They are of another kind, or one of them would be another.
    """
    if values.type == wanted:
        return values
    plain = _lossless(values, plain_type(wanted))
    if plain_type(wanted) == wanted:
        return plain
    if before is not None and before.type == wanted and _plain(before).equals(plain):
        return before
    table = pa.table([plain], ["value"])
    if wanted == _JSON and pc.all(compute("json_valid(value)", table)).as_py() is not False:
        return pa.ExtensionArray.from_storage(_JSON, plain)
    if wanted == pa.uuid():
        try:
            storage = compute("unhex(replace(value::UUID::VARCHAR, '-', ''))", table)
            return pa.ExtensionArray.from_storage(wanted, storage.cast(pa.binary(16)))
        except duckdb.Error:
            pass
    if wanted == INTERVAL:
        try:
            found = compute("value::INTERVAL", table)
            texts = compute("value::VARCHAR", pa.table([found], ["value"]))
            if texts.equals(compute("value::INTERVAL::VARCHAR", table)):  # else it wrapped around
                return found
        except duckdb.Error:
            pass
    raise UnfitError(f"texts that are no {wanted}")


def _lossless(values: pa.Array, wanted: pa.DataType) -> pa.Array:
    found = values.type
    if found == wanted:
        return values
    if pa.types.is_dictionary(found):
        return _lossless(values.dictionary_decode(), wanted)
    if pa.types.is_null(found):
        return pa.nulls(len(values), wanted)
    if kind_of(found) != kind_of(wanted):
        raise UnfitError(shown(found))
    try:
        cast = _cast(values, wanted)
        if kind_of(found) in ("text", "bytes") or _same(_cast(cast, found), values):
            return cast
    except pa.ArrowException:
        pass
    raise UnfitError(f"{shown(found)} with values that are others as {wanted}")


def _cast(values: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_integer(values.type) and pa.types.is_decimal(wanted):
        # Arrow refuses by the types where a smaller number would fit
        values = values.cast(pa.decimal256(76, wanted.scale))
    return values.cast(wanted)


def _same(these: pa.Array, those: pa.Array) -> bool:
    if not these.is_null().equals(those.is_null()):
        return False
    if is_any_list(these.type):
        return bool(these.equals(those))
    equal = pc.equal(these, those)
    if pa.types.is_floating(these.type):
        equal = pc.or_(equal, pc.and_(pc.is_nan(these), pc.is_nan(those)))
    return bool(pc.all(equal).as_py() is not False)


def shown(arrow_type: pa.DataType) -> str:
    """Name a type; a struct's fields may be named by values."""
    is_nested = pa.types.is_nested(arrow_type) and not is_any_list(arrow_type)
    if is_any_list(arrow_type):
        return f"list of {shown(arrow_type.value_type)}"
    return "struct" if is_nested else str(arrow_type)


def is_any_list(arrow_type: pa.DataType) -> bool:
    """Whether it is a list, with offsets of any width."""
    return bool(pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type))


def kind_of(arrow_type: pa.DataType) -> str:
    """Say which types may hold the same values."""
    of, kinds = arrow_type, pa.types
    if is_any_list(of):
        return f"list of {kind_of(of.value_type)}"
    if kinds.is_integer(of) or kinds.is_floating(of) or kinds.is_decimal(of):
        return "number"
    if kinds.is_string(of) or kinds.is_large_string(of) or kinds.is_string_view(of):
        return "text"
    if kinds.is_binary(of) or kinds.is_large_binary(of) or kinds.is_binary_view(of):
        return "bytes"
    if kinds.is_timestamp(of):
        return "moment" if of.tz else "timestamp"
    if kinds.is_date(of):
        return "date"
    if kinds.is_interval(of):
        return "interval"
    return "time" if kinds.is_time(of) else str(of)
