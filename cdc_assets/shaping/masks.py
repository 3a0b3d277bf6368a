"""Values that are shown otherwise than they are; null stays null.

What is hashed is the text of the value as the warehouse shows it, in UTF-8 and in UTC, so the same
value gives the same text in every table, by copy and by stream.
"""

from __future__ import annotations

from hashlib import sha256
from typing import assert_never

import pyarrow as pa

from cdc_assets.config.shaping import MaskKind
from cdc_assets.pgoutput.types import TEXT
from cdc_assets.shaping.engine import compute

_BLOCK = 64  # SHA-256's, in bytes
_TEXT = "value::VARCHAR"
_HIDDEN = "***"
_SAMPLE, _FEW = 4096, 512


def masked_type(kind: MaskKind, arrow_type: pa.DataType) -> pa.DataType:
    """Give the type that a masked column has."""
    return arrow_type if kind == "null" else TEXT


def masked(values: pa.Array, kind: MaskKind, key: bytes = b"") -> pa.Array:
    """Mask n values of any type.

    Args:
        values: Of any type.
        kind: How; `hmac` is HMAC-SHA-256 (RFC 2104), in hexadecimal digits like `sha256`.
        key: For `hmac` alone.
    """
    if kind == "null":
        return pa.nulls(len(values), values.type)
    if _repeats(values):
        encoded = values.dictionary_encode()
        return masked(encoded.dictionary, kind, key).take(encoded.indices)
    columns = pa.table([values], ["value"])
    return compute(_expression(kind, key), columns).cast(TEXT)


def _repeats(values: pa.Array) -> bool:
    """Whether they are texts of which few are distinct: a hash costs more than to find them."""
    first = values.slice(0, _SAMPLE)
    return values.type == TEXT and len(first.unique()) * _SAMPLE < len(first) * _FEW


def texts(values: pa.Array) -> pa.Array:
    """Give n values of any type as the warehouse shows them."""
    return compute(_TEXT, pa.table([values], ["value"])).cast(TEXT)


def _expression(kind: MaskKind, key: bytes) -> str:
    match kind:
        case "sha256":
            return f"sha256({_TEXT})"
        case "hmac":
            return _hmac(key)
        case "redact":
            return f"CASE WHEN value IS NOT NULL THEN '{_HIDDEN}' END"
        case "last4":  # of a short value they would show most
            last = f"CASE WHEN length({_TEXT}) < 8 THEN '' ELSE right({_TEXT}, 4) END"
            return f"CASE WHEN value IS NOT NULL THEN '{_HIDDEN}' || {last} END"
        case "null":
            return "NULL"
        case _:
            assert_never(kind)


def _hmac(key: bytes) -> str:
    short = (sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    inner, outer = (f"unhex('{bytes(byte ^ pad for byte in short).hex()}')" for pad in (0x36, 0x5C))
    return f"sha256({outer} || unhex(sha256({inner} || encode({_TEXT}))))"
