"""Which changes the fences of chunks keep out: Postgres itself compares the keys.

Ranges were cut in the order of the table's own index, with its types and collations. Nobody but
Postgres compares keys in that order for certain, so it is asked; only while fences stand, and only
for changes that one of them may keep out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import Mask
from cdc_assets.changes.fence import Fence, KeyText, shown_everywhere
from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.pgoutput.messages import Ints
from cdc_assets.source.connection import Connection
from cdc_assets.source.ordering import compare, compared_as


def fenced(
    connection: Connection,
    shape: TableShape,
    fences: Sequence[Fence],
    *,
    keys: list[pa.Array],
    xids: Ints,
) -> Mask:
    """Say for n keys, each changed by one transaction, whether a chunk keeps the change out.

    Args:
        connection: A pinned session.
        shape: For the key's columns.
        fences: Those of the table's chunks, in the order of their ranges.
        keys: Text arrays of n, one per key column; a row with null is not asked about.
        xids: 32-bit xid per key.
    """
    out = shown_everywhere(fences, xids)
    shown = np.array([fence.snapshot.shows(xids) for fence in fences]).reshape(-1, len(xids))
    asked = np.flatnonzero(shown.any(axis=0) & ~out & keys[0].is_valid().to_numpy(False))
    if not len(asked):
        return out
    texts = [key.take(pa.array(asked)).to_pylist() for key in keys]
    at, within = _ranges_of(connection, shape, fences, texts)
    hits = shown[within, asked[at]]
    out[asked[at[hits]]] = True
    return out


def _ranges_of(
    connection: Connection, shape: TableShape, fences: Sequence[Fence], keys: list[list[str]]
) -> tuple[Ints, Ints]:
    """Ask which keys lie in which ranges; gives pairs of indexes from 0."""
    key = [f"k{at}" for at in range(len(keys))]
    low, high = [f"l{at}" for at in range(len(keys))], [f"h{at}" for at in range(len(keys))]
    sql = f"""
        WITH keys AS MATERIALIZED (
            SELECT {_typed(shape, key)}, place FROM unnest({_arrays(key)}) WITH ORDINALITY
            AS key({", ".join(key)}, place)
        ), ranges AS MATERIALIZED (
            SELECT {_typed(shape, low)}, {_typed(shape, high)}, from_low, to_high, place
            FROM unnest({_arrays(low + high)}, %s::bool[], %s::bool[]) WITH ORDINALITY
            AS range({", ".join(low + high)}, from_low, to_high, place)
        )
        SELECT keys.place - 1, ranges.place - 1 FROM keys, ranges
        WHERE (NOT from_low OR {_compare(shape, key, ">", low)})
          AND (NOT to_high OR {_compare(shape, key, "<=", high)})
    """
    parameters = [
        *keys,
        *_bounds([fence.low for fence in fences], len(keys)),
        *_bounds([fence.high for fence in fences], len(keys)),
        [fence.low is not None for fence in fences],
        [fence.high is not None for fence in fences],
    ]
    pairs = np.array(connection.execute(sql, parameters).fetchall(), dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def _typed(shape: TableShape, names: list[str]) -> str:
    """Cast texts to the key's types; an open end is null, which a domain may refuse."""
    return ", ".join(
        f"CASE WHEN {name} IS NOT NULL THEN {name}::{_literally(column.type.name)} END AS {name}"
        for name, column in zip(names, shape.key_columns, strict=True)
    )


def _arrays(names: list[str]) -> str:
    return ", ".join("%s::text[]" for _ in names)


def _compare(shape: TableShape, left: list[str], operator: str, right: list[str]) -> str:
    sides = (
        [_collated(name, column) for name, column in zip(names, shape.key_columns, strict=True)]
        for names in (left, right)
    )
    one, other = sides
    return _literally(compare(shape, one, operator, other))


def _collated(name: str, column: SourceColumn) -> str:
    value = compared_as(column, name)
    return f"{value} COLLATE {column.collation}" if column.collation else value


def _literally(name: str) -> str:
    """Write a name into a statement that has parameters."""
    return name.replace("%", "%%")


def _bounds(keys: list[KeyText | None], columns: int) -> list[list[str | None]]:
    return [[key[at] if key else None for key in keys] for at in range(columns)]
