"""A mask gives the same output for the same value, and null for null."""

from __future__ import annotations

import hashlib
import hmac

import pyarrow as pa
import pytest

from cdc_assets.config.shaping import MaskKind
from cdc_assets.shaping.masks import masked, masked_type

TEXTS = ["", "a", "ada@example.com", "zoë \u2603", "x" * 10_000, None]


@pytest.mark.parametrize("length", [0, 1, 64, 65, 200])
def test_hmac_is_that_of_the_standard_library(length: int) -> None:
    key = bytes(range(256))[:length]
    wanted = [text and hmac.digest(key, text.encode(), "sha256").hex() for text in TEXTS if text]
    assert masked(pa.array(TEXTS[1:-1]), "hmac", key).to_pylist() == wanted


def test_sha256_is_that_of_the_standard_library() -> None:
    wanted = [None if text is None else hashlib.sha256(text.encode()).hexdigest() for text in TEXTS]
    assert masked(pa.array(TEXTS), "sha256").to_pylist() == wanted


@pytest.mark.parametrize("distinct", [3, 5000])
def test_values_that_repeat_are_masked_like_others(distinct: int) -> None:
    texts = [None if at % 5 == 4 else f"é {at % distinct}" for at in range(10_000)]
    wanted = [None if text is None else hashlib.sha256(text.encode()).hexdigest() for text in texts]
    assert masked(pa.array(texts), "sha256").to_pylist() == wanted
    assert masked(pa.array(texts)[5_001:], "sha256").to_pylist() == wanted[5_001:]


def test_what_is_hashed_is_the_values_text() -> None:
    numbers = masked(pa.array([7, -1], pa.int16()), "sha256")
    assert numbers == masked(pa.array(["7", "-1"]), "sha256")
    noon = pa.array([43_200_000_000], pa.timestamp("us", "UTC"))
    assert masked(noon, "sha256") == masked(pa.array(["1970-01-01 12:00:00+00"]), "sha256")


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("redact", ["***", "***", "***", "***", "***", None]),
        ("last4", ["***", "***", "***.com", "***", "***xxxx", None]),
        ("null", [None] * 6),
    ],
)
def test_what_hides_a_value(kind: MaskKind, texts: list[str | None]) -> None:
    assert masked(pa.array(TEXTS), kind).to_pylist() == texts


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, None], pa.int64()),
        pa.array([b"\x00\xff", None], pa.binary()),
        pa.array([[1, None], None], pa.list_(pa.int32())),
        pa.array(["{}", None], pa.json_(pa.string())),
        pa.array([b"0123456789abcdef", None], pa.uuid()),
        pa.array([1.5, None], pa.float32()),
    ],
)
@pytest.mark.parametrize("kind", ["sha256", "hmac", "redact", "null", "last4"])
def test_any_type_can_be_masked(kind: MaskKind, values: pa.Array) -> None:
    found = masked(values, kind, b"key")
    assert found.type == masked_type(kind, values.type)
    assert found.is_null().to_pylist() == [kind == "null", True]
    assert len(masked(values[:0], kind, b"key")) == 0
