"""When two values, or two rows, are the same: no value is taken for another one.

Null is null, NaN is NaN, and -0.0, which SQL calls equal to 0.0, is another one. So are intervals
that last as long by its rules: a month, 30 days, 720 hours.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import Mask
from cdc_assets.pgoutput.types import INTERVAL
from cdc_assets.shaping.engine import compute


def differs(left: str, right: str, kind: pa.DataType) -> str:
    """Write in DuckDB's SQL whether two values of a type differ."""
    distinct = f"{left} IS DISTINCT FROM {right}"
    depth, values = 0, kind
    while pa.types.is_list(values):
        depth, values = depth + 1, values.value_type
    if values == INTERVAL:
        text = "VARCHAR" + "[]" * depth
        return f"{left}::{text} IS DISTINCT FROM {right}::{text}"
    if not pa.types.is_floating(values):
        return distinct
    return f"({distinct} OR {_signs(left, depth)} IS DISTINCT FROM {_signs(right, depth)})"


def _signs(value: str, depth: int) -> str:
    """Write which floats of a value, or of its lists, have a minus; a NaN's says nothing."""
    if not depth:
        return f"(signbit({value}) AND NOT isnan({value}))"
    of_each = _signs(f"v{depth}", depth - 1)
    return f"list_transform({value}, lambda v{depth}: {of_each})"


def same_rows(left: list[pa.Array], right: list[pa.Array]) -> Mask:
    """Compare n pairs of rows, given column by column."""
    if not left or not len(left[0]):
        return np.zeros(0, dtype=bool)
    columns = pa.table(
        [*left, *right],
        [f"{side}{at}" for side in ("left", "right") for at in range(len(left))],
    )
    listed = (differs(f"left{at}", f"right{at}", one.type) for at, one in enumerate(left))
    found = compute(f"NOT ({' OR '.join(listed)})", columns)
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)
