"""Buckets: a table cut into ranges of keys that both ends find alike.

The order is that of the warehouse's values: types that both ends keep as values are compared as
these, and what the warehouse keeps as text is compared by the bytes of its UTF-8 text. No
collation has a part in it, and two keys that Postgres calls equal may lie in two buckets if their
texts differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa

from cdc_assets.changes.fence import KeyText
from cdc_assets.changes.shape import TableShape

PLAN_LASTS = timedelta(days=1)

# Where a range starts and ends that no key is in
_NOWHERE: KeyText = ("",)
# boolean, numbers, times, uuid, pg_lsn, xid8, bits. Anything else may be made of letters, or be an
# address.
_SHOWN_TYPES = frozenset(
    {16, 20, 21, 23, 26, 700, 701, 1082, 1083, 1114, 1184, 1186, 1266, 1560, 1562, 1700}
) | {2950, 3220, 5069}


@dataclass(frozen=True, slots=True)
class Bucket:
    """Keys in `(low, high]`, as texts of Postgres, one per key column.

    Attributes:
        name: As the config has it.
        low: The key behind which it starts; None: before the first.
        high: The key with which it ends; None: with the last.
    """

    name: str
    low: KeyText | None
    high: KeyText | None

    @property
    def is_empty(self) -> bool:
        """Whether no key can be in it."""
        return self.low is not None and self.low == self.high


@dataclass(frozen=True, slots=True)
class BucketPlan:
    """How a table is cut.

    Attributes:
        buckets: From the first key to the last, then empty ones.
        key: What the key was, by `key_declaration`.
        planned_at: When the table was looked at.
    """

    buckets: tuple[Bucket, ...]
    key: str
    planned_at: datetime

    def serves(
        self, shape: TableShape, names: Sequence[str], now: datetime, *, under_way: bool
    ) -> bool:
        """Say whether it can be used again.

        Args:
            shape: The table's.
            names: Of the buckets that are wanted.
            now: To tell its age.
            under_way: Whether a backfill of the table is: then it stays, however old.
        """
        return (
            [bucket.name for bucket in self.buckets] == list(names)
            and self.key == key_declaration(shape)
            and (under_way or now - self.planned_at < PLAN_LASTS)
        )


def cut(names: Sequence[str], cuts: Sequence[KeyText]) -> tuple[Bucket, ...]:
    """Make a bucket for each name of the keys with which all but the last one end.

    Args:
        names: All buckets.
        cuts: Ascending and different, fewer than names; where they are fewer than could be, the
            last buckets are empty.
    """
    ranges = list(zip([None, *cuts], [*cuts, None], strict=True))
    empty = [(_NOWHERE, _NOWHERE)] * (len(names) - len(ranges))
    return tuple(
        Bucket(name, *bounds) for name, bounds in zip(names, [*ranges, *empty], strict=True)
    )


def orders_keys(shape: TableShape) -> bool:
    """Whether both ends order the keys alike; if not, all keys are in the first bucket.

    Lists are compared by their elements' own order on the source, and nobody has shown that the
    warehouse's is the same.
    """
    return not any(pa.types.is_list(column.type.arrow) for column in shape.key_columns)


def key_may_be_shown(shape: TableShape) -> bool:
    """Whether no key can name somebody: no column of it is, or may hold, text."""
    return all(
        column.type.oid in _SHOWN_TYPES and not column.type.is_array and not column.type.is_enum
        for column in shape.key_columns
    )


def key_declaration(shape: TableShape) -> str:
    """Give what must stay for a plan's keys to mean what they did."""
    columns = [
        (column.name, column.attnum, column.type_oid, column.typmod) for column in shape.key_columns
    ]
    return json.dumps([shape.oid, columns])


Bound = Callable[[KeyText], Sequence[str]]


def range_condition(bucket: Bucket, values: Sequence[str], bound: Bound) -> str:
    """Write that a key is in a bucket, in the SQL that both ends understand.

    Args:
        bucket: The range.
        values: SQL of the key's columns as this end compares them.
        bound: Gives SQL of a key likewise.
    """
    if bucket.is_empty:
        return "false"
    ends = []
    if bucket.low is not None:
        ends.append(f"NOT {_up_to(values, bound(bucket.low))}")
    if bucket.high is not None:
        ends.append(_up_to(values, bound(bucket.high)))
    return f"({' AND '.join(ends)})" if ends else "true"


def bucket_number(buckets: Sequence[Bucket], values: Sequence[str], bound: Bound) -> str:
    """Write in which bucket of a whole plan a key is, from 0; takes log2 of them comparisons.

    Args:
        buckets: All of them, in their order.
        values: SQL of the key's columns as this end compares them.
        bound: Gives SQL of a key likewise.
    """
    highs = [bucket.high for bucket in buckets if not bucket.is_empty]

    def among(first: int, last: int) -> str:
        if first == last:
            return str(first)
        middle = (first + last) // 2
        high = highs[middle]
        assert high is not None  # of all but the last
        return (
            f"CASE WHEN {_up_to(values, bound(high))} THEN {among(first, middle)}"
            f" ELSE {among(middle + 1, last)} END"
        )

    return among(0, len(highs) - 1)


def _up_to(values: Sequence[str], bounds: Sequence[str]) -> str:
    """Compare element by element: rows would be compared by each end's own rules for rows."""
    ways = []
    for at, (value, bound) in enumerate(zip(values, bounds, strict=True)):
        last = at == len(values) - 1
        equal = [f"{one} = {other}" for one, other in zip(values[:at], bounds[:at], strict=True)]
        ways.append(" AND ".join([*equal, f"{value} {'<=' if last else '<'} {bound}"]))
    return f"({' OR '.join(f'({way})' for way in ways)})" if len(ways) > 1 else f"({ways[0]})"
