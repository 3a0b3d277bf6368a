"""What lies in a warehouse under a mirror's name, compared with what a mirror is.

Whoever may write the file may alter a mirror. Its columns are written by their order, so an added,
dropped, retyped or moved one stops its table, and a view in its place. Views and indexes beside
it, comments and defaults do no harm; a constraint does where a row breaks it, and only then. Before
version 2.0 DuckDB refuses a key of a unique index that is deleted and inserted in one transaction,
some of them at its commit, when nothing tells which table it was: there such an index stops its
table before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

from cdc_assets.changes.rows import added_columns
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.warehouse.types import column_type
from cdc_assets.warehouse.versions import MAJOR

KEEPS_UNIQUE_INDEXES = MAJOR >= 2
Columns = Sequence[tuple[str, str]]  # names and types, in their order

_STORED = """
SELECT schema_name, table_name, list((column_name, data_type) ORDER BY column_index),
    (schema_name, table_name) IN (
        SELECT (schema_name, view_name) FROM duckdb_views()
        WHERE database_name = current_database()
    ),
    (schema_name, table_name) IN (
        SELECT (schema_name, table_name) FROM duckdb_indexes()
        WHERE database_name = current_database() AND is_unique
    )
FROM duckdb_columns() WHERE database_name = current_database() AND NOT internal
GROUP BY ALL
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """A table, or a view, that is in the warehouse."""

    columns: tuple[tuple[str, str], ...]
    is_view: bool
    has_unique_index: bool


def mirror_columns(shape: TableShape) -> Columns:
    """Give the columns of a mirror, those of its source first."""
    return [
        *zip(shape.names, map(column_type, shape.types), strict=True),
        *((added.name, column_type(added.type)) for added in added_columns(shape)),
    ]


def read_stored(connection: duckdb.DuckDBPyConnection) -> Mapping[tuple[str, str], Stored]:
    """Read all tables and views, by their folded names."""
    rows = connection.execute(_STORED).fetchall()
    return {
        TableName(schema, name).folded: Stored(tuple(columns), bool(is_view), bool(is_unique))
        for schema, name, columns, is_view, is_unique in rows
    }


def difference(stored: Stored | None, expected: Columns) -> str:
    """Say what is wrong about a mirror, or nothing.

    Args:
        stored: What there is under its name.
        expected: The columns that it was made with.
    """
    if stored is None:
        return "is not in the warehouse any more"
    if stored.is_view:
        return "is a view in the warehouse"
    if stored.has_unique_index and not KEEPS_UNIQUE_INDEXES:
        return f"has a unique index, which DuckDB {duckdb.__version__} can't keep: 2.0 can"
    before, after = dict(expected), dict(stored.columns)
    if list(before.items()) == list(after.items()):
        return ""
    found = [
        *(f"has a column {name!r} more" for name in after if name not in before),
        *(f"lacks column {name!r}" for name in before if name not in after),
        *(
            f"has {after[name]} as type of column {name!r}, expected {kind}"
            for name, kind in before.items()
            if after.get(name, kind) != kind
        ),
    ]
    return ", ".join(found) or "has its columns in another order"
