"""One normal form for a value's text from Postgres and its text from DuckDB.

`from_source` and `from_warehouse` give functions that turn either side's text into the same Python
value, exactly when the values are the same: numbers by value, floats by their bits, so that -0 is
not 0, intervals by their months, days and microseconds, and everything else by its text.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import re
import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any, assert_never

from cdc_assets.config.shaping import MaskKind

Value = str | int | bytes | Decimal | tuple[Any, ...] | None

_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^{},]+)')
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ERA = " (BC)"
_INTERVAL = re.compile(r"([+-]?\d+) (year|mon|day)|([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d+))?")
_INTERVAL_UNITS = {"year": (12, 0), "mon": (1, 0), "day": (0, 1)}


def warehouse_expression(column: str, kind: str) -> str:
    """Write the SQL that makes text of a quoted column; a list becomes a list of texts."""
    match kind:
        case "BLOB":
            return f"lower(hex({column}))"
        case "BLOB[]":
            return f"[lower(hex(element)) FOR element IN {column}]"
        case _ if kind.endswith("[]"):
            return f"CAST({column} AS VARCHAR[])"
        case _:
            return f"CAST({column} AS VARCHAR)"


def from_source(kind: str) -> Callable[[str], Value]:
    """Give the reader of Postgres' text for a mirror column of type `kind`."""
    if kind.endswith("[]"):
        read = from_source(kind.removesuffix("[]"))
        return lambda text: _array(text, read)
    match kind:
        case "BOOLEAN":
            return lambda text: {"t": "true", "f": "false"}.get(text, text)
        case "BLOB":
            return lambda text: text.removeprefix("\\x")
        case _:
            return _number_or_text(kind)


def masked(kind: MaskKind, secret: bytes) -> Callable[[str], Value]:
    """Give what a mask makes of Postgres' text, of a type whose text the warehouse shows alike."""
    match kind:
        case "sha256":
            return lambda text: hashlib.sha256(text.encode()).hexdigest()
        case "hmac":
            return lambda text: hmac.digest(secret, text.encode(), "sha256").hex()
        case "redact":
            return lambda _text: "***"
        case "last4":
            return lambda text: "***" + (text[-4:] if len(text) >= 8 else "")
        case "null":
            return lambda _text: None
        case _:
            assert_never(kind)


def from_warehouse(kind: str) -> Callable[[Any], Value]:
    """Give the reader of what `warehouse_expression` fetches."""
    if kind.endswith("[]"):
        read = from_warehouse(kind.removesuffix("[]"))
        return lambda texts: tuple(None if text is None else read(text) for text in texts)
    if kind.startswith(("DATE", "TIMESTAMP")):
        return _era_last
    return _number_or_text(kind)


def _number_or_text(kind: str) -> Callable[[str], Value]:
    match kind:
        case "SMALLINT" | "INTEGER" | "BIGINT":
            return int
        case "FLOAT":
            return lambda text: _bits(text, "<f")
        case "DOUBLE":
            return lambda text: _bits(text, "<d")
        case "INTERVAL":
            return _interval
        case _ if kind.startswith("DECIMAL"):
            return Decimal
        case _:
            return str


def _bits(text: str, layout: str) -> bytes:
    number = float(text)
    return b"NaN" if math.isnan(number) else struct.pack(layout, number)


def _interval(text: str) -> Value:
    months, days, micros = 0, 0, 0
    for number, unit, sign, hours, minutes, seconds, fraction in _INTERVAL.findall(text):
        if unit:
            of_months, of_days = _INTERVAL_UNITS[unit]
            months, days = months + int(number) * of_months, days + int(number) * of_days
        else:
            whole = (int(hours) * 60 + int(minutes)) * 60 + int(seconds)
            micros = int(f"{sign}1") * (whole * 1_000_000 + int(fraction.ljust(6, "0")))
    return (months, days, micros)


def _era_last(text: str) -> str:
    return text.replace(_ERA, "") + " BC" if _ERA in text else text


def _array(text: str, read: Callable[[str], Value]) -> Value:
    """Read an array's text; bounds and further dimensions are no list and stay text."""
    if not text.startswith("{") or text.startswith("{{"):
        return text
    return tuple(
        None if bare == "NULL" else read(bare or _ESCAPED.sub(r"\1", quoted))
        for quoted, bare in _ELEMENT.findall(text)
    )
