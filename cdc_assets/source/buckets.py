"""Buckets of keys in Postgres' SQL, and how a table is cut into them without being read.

Text is compared as bytes in UTF-8: the bytes of another server encoding may be in another order,
and a comparison under C would be one of these.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from cdc_assets.changes import buckets
from cdc_assets.changes.buckets import Bucket, cut, orders_keys
from cdc_assets.changes.fence import KeyText
from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.identifiers import quote, quote_literal
from cdc_assets.pgoutput.values import UnfitValueError, decode_text
from cdc_assets.source.catalog import SourceTable
from cdc_assets.source.connection import Connection, bounded_locks, fetch_one, table_errors
from cdc_assets.source.snapshot import parts_of, relation_of
from cdc_assets.source.texts import text_of

ALIAS = "source"
# Rows of neighbouring blocks may be neighbours in the key's order, too: what counts are the blocks
SAMPLE_ROWS = 30_000
SAMPLE_BLOCKS = 5_000

_CASTS: dict[pa.DataType, str] = {
    pa.bool_(): "boolean",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.binary(): "bytea",
    pa.date32(): "date",
    pa.time64("us"): "time",
    pa.timestamp("us"): "timestamp",
    pa.timestamp("us", "UTC"): "timestamptz",
    pa.uuid(): "uuid",
}


def in_bucket(shape: TableShape, bucket: Bucket, relation: str = ALIAS) -> str:
    """Write that a row's key is in a bucket.

    Args:
        shape: The table's.
        bucket: The range.
        relation: The table's alias.
    """
    return buckets.range_condition(bucket, _values(shape, relation), _bound(shape))


def numbered(shape: TableShape, plan: Sequence[Bucket], relation: str = ALIAS) -> str:
    """Write in which bucket of a whole plan a row's key is, from 0."""
    return buckets.bucket_number(plan, _values(shape, relation), _bound(shape))


def plan_buckets(
    connection: Connection, table: SourceTable, names: Sequence[str]
) -> tuple[Bucket, ...]:
    """Cut a table into buckets of about as many rows each, by a sample of its keys.

    Args:
        connection: A pinned session.
        table: The table; some rows of some of its blocks are read, however large it is.
        names: The buckets'.

    Raises:
        TableError: It can't be read.
        SourceBusyError: Somebody keeps it locked.
    """
    if not orders_keys(table.shape):
        return cut(names, [])
    with bounded_locks(connection), table_errors(table.name):
        keys = _quantiles(connection, table, len(names))
    return cut(names, [key for key in dict.fromkeys(keys) if _fits(table.shape, key)])


def _quantiles(connection: Connection, table: SourceTable, parts: int) -> list[KeyText]:
    """Give the keys with which all parts of a sample but the last one end, in their order."""
    shape = table.shape
    relation = relation_of(table)
    texts = ", ".join(
        f"{text_of(column, f'{ALIAS}.{quote(column.name)}')} AS k{at}"
        for at, column in enumerate(shape.key_columns)
    )
    rows = connection.execute(
        f"SELECT {', '.join(f'k{at}' for at in range(len(shape.key)))} FROM ("
        f" SELECT {texts}, count(*) OVER () AS total,"
        f" row_number() OVER (ORDER BY {', '.join(_values(shape, ALIAS))}) AS place"
        f" FROM {relation} AS {ALIAS} {_sample(connection, table, relation)}) AS sampled"
        f" WHERE place < total AND place * {parts} / total > (place - 1) * {parts} / total"
        " ORDER BY place"
    )
    return [tuple(row) for row in rows]


def _sample(connection: Connection, table: SourceTable, relation: str) -> str:
    """Choose how much of a table is read; empty for all of a small one."""
    # the planner goes by the size of the files now, whenever the table was analyzed
    (explained,) = fetch_one(connection, f"EXPLAIN (FORMAT JSON) SELECT FROM {relation}")
    rows = int(explained[0]["Plan"]["Plan Rows"])
    (blocks,) = fetch_one(
        connection,
        "SELECT coalesce(sum(pg_relation_size(relid) / current_setting('block_size')::int), 0)"
        f"::bigint FROM {parts_of(table)} AS part",
    )
    share = min(SAMPLE_ROWS / max(1, rows), SAMPLE_BLOCKS / max(1, blocks))
    return f"TABLESAMPLE SYSTEM ({100 * share:.6f})" if share < 1 else ""


def _fits(shape: TableShape, key: KeyText) -> bool:
    """Whether the warehouse can hold a key: a row filter may leave out those that it can't."""
    try:
        for column, text in zip(shape.key_columns, key, strict=True):
            decode_text(pa.array([text.encode()], pa.binary()), column.type.arrow)
    except UnfitValueError:
        return False
    return True


def _values(shape: TableShape, relation: str) -> list[str]:
    return [_value(column, f"{relation}.{quote(column.name)}") for column in shape.key_columns]


def _value(column: SourceColumn, name: str) -> str:
    """Write a value so that its order is the warehouse's."""
    if _type(column) is not None:
        return name
    return f"convert_to({text_of(column, name)}, 'UTF8')"


def _type(column: SourceColumn) -> str | None:
    """Name the type that both ends compare a column as; None: as text."""
    arrow = column.type.arrow
    return "numeric" if pa.types.is_decimal(arrow) else _CASTS.get(arrow)


def _bound(shape: TableShape) -> buckets.Bound:
    def bound(key: KeyText) -> list[str]:
        return [_literal(column, text) for column, text in zip(shape.key_columns, key, strict=True)]

    return bound


def _literal(column: SourceColumn, text: str) -> str:
    kind = _type(column)
    if kind is not None:
        return f"{quote_literal(text)}::{kind}"
    return f"'\\x{text.encode().hex()}'::bytea"
