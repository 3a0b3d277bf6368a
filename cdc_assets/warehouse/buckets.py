"""Buckets of keys in DuckDB's SQL."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from cdc_assets.changes import buckets
from cdc_assets.changes.buckets import Bucket
from cdc_assets.changes.fence import KeyText
from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.identifiers import quote, quote_literal
from cdc_assets.pgoutput.exact import (
    DATE_INFINITY,
    TIMESTAMP_INFINITY,
    date_days,
    timestamp_micros,
)

_JSON = pa.json_(pa.string())
_CASTS: dict[pa.DataType, str] = {
    pa.bool_(): "BOOLEAN",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.time64("us"): "TIME",
    pa.uuid(): "UUID",
}


def in_bucket(shape: TableShape, bucket: Bucket, relation: str = "") -> str:
    """Write that a row's key is in a bucket.

    Args:
        shape: The mirror's.
        bucket: The range.
        relation: The mirror's alias, where a name alone could mean another column.
    """
    return buckets.range_condition(bucket, _values(shape, relation), _bound(shape))


def numbered(shape: TableShape, plan: Sequence[Bucket], relation: str = "") -> str:
    """Write in which bucket of a whole plan a row's key is, from 0."""
    return buckets.bucket_number(plan, _values(shape, relation), _bound(shape))


def _values(shape: TableShape, relation: str) -> list[str]:
    prefix = f"{relation}." if relation else ""
    return [
        # a JSON column would make JSON of what it is compared with
        f"{prefix}{quote(column.name)}" + ("::VARCHAR" if column.type.arrow == _JSON else "")
        for column in shape.key_columns
    ]


def _bound(shape: TableShape) -> buckets.Bound:
    def bound(key: KeyText) -> list[str]:
        return [_literal(column, text) for column, text in zip(shape.key_columns, key, strict=True)]

    return bound


def _literal(column: SourceColumn, text: str) -> str:
    """Write a value that Postgres has written as text."""
    arrow = column.type.arrow
    if arrow in _CASTS:
        return f"{quote_literal(text)}::{_CASTS[arrow]}"
    if pa.types.is_decimal(arrow):
        return f"{quote_literal(text)}::DECIMAL({arrow.precision},{arrow.scale})"
    if arrow == pa.binary():
        return f"unhex('{text[2:]}')"
    if arrow == pa.date32():
        return _instant(date_days(text), DATE_INFINITY, "DATE", "make_date")
    if pa.types.is_timestamp(arrow):
        tz = "tz" if arrow.tz else ""
        micros = timestamp_micros(text)
        return _instant(micros, TIMESTAMP_INFINITY, f"TIMESTAMP{tz}", f"make_timestamp{tz}")
    return quote_literal(text)


def _instant(number: int, infinity: int, kind: str, made: str) -> str:
    if abs(number) == infinity:
        return f"'{'-' if number < 0 else ''}infinity'::{kind}"
    return f"{made}({number})"
