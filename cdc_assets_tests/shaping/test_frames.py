"""Columns go into a frame and come back the same, or are refused."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cdc_assets.config.types import type_name
from cdc_assets.pgoutput.types import named_type
from cdc_assets.shaping.frames import UnfitError, arrow_of, fitted, shown, to_frame
from cdc_assets.shaping.kept_types import kept_type

JSON = pa.json_(pa.string())
NAN = float("nan")


def extension(of: pa.DataType, values: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(of, pa.array(values, of.storage_type))


ARRAYS = [
    pa.array([True, None]),
    pa.array([1, None, -(2**63)]),
    pa.array([1.5, NAN, None, -0.0, float("inf")]),
    pa.array([1.5, NAN, None], pa.float32()),
    pa.array([Decimal("1.20"), None], pa.decimal128(38, 2)),
    pa.array(["", None, "ä\x00"]),
    pa.array([b"", None, b"\x00"]),
    pa.array([2**31 - 1, None, -(2**31)], pa.int32()).view(pa.date32()),
    pa.array([2**63 - 1, None, -(2**63) + 1]).view(pa.timestamp("us", "UTC")),
    pa.array([2**63 - 1, None, 0]).view(pa.timestamp("us")),
    pa.array([86_400_000_000, None, 0]).view(pa.time64("us")),
    pa.array([[1, None], [], None], pa.list_(pa.int32())),
    extension(pa.uuid(), [uuid.uuid4().bytes, None]),
    extension(JSON, ['{"a":  1}', None, "null"]),
    pa.ListArray.from_arrays([0, 1, 1], extension(JSON, ["[]"])),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.type))
def test_what_a_function_leaves_comes_back(array: pa.Array) -> None:
    for values in (array, array.slice(1)):
        frame = to_frame(pa.table([values], ["a"]))
        back = fitted(arrow_of(frame["a"]), values.type, values)
        assert back.type == values.type
        assert str(back) == str(values)  # NaN is NaN there
        assert back.is_null().equals(values.is_null())
        picked = fitted(arrow_of(frame["a"].iloc[:1]), values.type, values.slice(0, 1))
        assert str(picked) == str(values.slice(0, 1))


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (pa.array([1, None]), pa.int16()),
        (pa.array([2.0, None]), pa.int64()),
        (pa.array([5]), pa.decimal128(18, 6)),
        (pa.array([Decimal("1.5")]), pa.float64()),
        (pa.array([NAN], pa.float32()), pa.float64()),
        (pa.array(["a"], pa.large_string()), pa.string()),
        (pa.array(["a", None]).dictionary_encode(), pa.string()),
        (pa.array([1000], pa.timestamp("ns", "Europe/Berlin")), pa.timestamp("us", "UTC")),
        (pa.nulls(2), pa.list_(pa.int32())),
        (pa.array([[1]], pa.large_list(pa.int64())), pa.list_(pa.int32())),
        (pa.array(["{}", None]), JSON),
        (pa.array([str(uuid.UUID(int=7)).upper()]), pa.uuid()),
    ],
)
def test_a_value_is_taken_where_it_stays_the_same(values: pa.Array, wanted: pa.DataType) -> None:
    found = fitted(values, wanted, None)
    assert found.type == wanted
    assert found.null_count == values.null_count


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (pa.array([2**15]), pa.int16()),
        (pa.array([2**60 + 1]), pa.float64()),
        (pa.array([1.5]), pa.int64()),
        (pa.array([NAN]), pa.int64()),
        (pa.array([1.1]), pa.float32()),
        (pa.array([1 / 3]), pa.decimal128(18, 6)),
        (pa.array([2**62]), pa.decimal128(18, 6)),
        (pa.array([1], pa.timestamp("ns")), pa.timestamp("us")),
        (pa.array([1], pa.timestamp("us")), pa.timestamp("us", "UTC")),
        (pa.array(["1"]), pa.int64()),
        (pa.array([True]), pa.int64()),
        (pa.array([1]), pa.string()),
        (pa.array(["{"]), JSON),
        (pa.array(["no uuid"]), pa.uuid()),
        (pa.array([{"canary": 1}]), pa.string()),
    ],
)
def test_what_would_be_another_value_is_refused(values: pa.Array, wanted: pa.DataType) -> None:
    with pytest.raises(UnfitError) as raised:
        fitted(values, wanted, None)
    assert "canary" not in str(raised.value)


def test_nan_of_numpy_is_null() -> None:
    assert arrow_of(pd.Series(np.array([1.5, NAN]))).to_pylist() == [1.5, None]
    with pytest.raises(UnfitError, match="not of one kind"):
        arrow_of(pd.Series([1, "x"], dtype=object))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("double", pa.float64()),
        ("FLOAT", pa.float32()),
        ("varchar", pa.string()),
        ("Decimal( 18 , 6 )", pa.decimal128(18, 6)),
        ("numeric(38,0)[]", pa.list_(pa.decimal128(38, 0))),
        ("timestamp  with time zone", pa.timestamp("us", "UTC")),
        ("bigint[]", pa.list_(pa.int64())),
        ("uuid", pa.uuid()),
        ("json", JSON),
    ],
)
def test_declared_types(text: str, wanted: pa.DataType) -> None:
    assert named_type(type_name(text)).arrow == wanted


@pytest.mark.parametrize("text", ["dobule", "decimal", "decimal(39,0)", "decimal(2,3)", "uuid[]"])
def test_what_is_no_type(text: str) -> None:
    with pytest.raises(ValueError, match=r"no type|1 to 38 digits"):
        type_name(text)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (pa.uint8(), pa.int16()),
        (pa.uint32(), pa.int64()),
        (pa.uint64(), pa.decimal128(20, 0)),
        (pa.float16(), pa.float32()),
        (pa.large_string(), pa.string()),
        (pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("us", "UTC")),
        (pa.time32("s"), pa.time64("us")),
        (pa.date64(), pa.date32()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.large_list(pa.int64()), pa.list_(pa.int64())),
        (pa.null(), None),
        (pa.struct([("a", pa.int64())]), None),
        (pa.decimal256(50, 2), None),
        (pa.list_(pa.list_(pa.int64())), None),
    ],
)
def test_types_that_an_empty_frame_tells(found: pa.DataType, wanted: pa.DataType | None) -> None:
    kept = kept_type(found)
    assert (kept and kept.arrow) == wanted
    assert "struct<" not in shown(found)
