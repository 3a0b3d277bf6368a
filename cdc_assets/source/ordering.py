"""The order in which Postgres compares keys, written as SQL for a pinned session.

Chunks are cut, and changes compared with their ends, by the very same operators: those that a key's
column has in pg_catalog. A type of an extension whose operators are in another schema (ltree,
hstore) has them named with it: the pinned search_path does not show them.
"""

from __future__ import annotations

from collections.abc import Sequence

from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.identifiers import quote

_STRATEGIES = ("<", "<=", "=", ">=", ">")  # of a btree operator class


def key_columns(shape: TableShape, relation: str) -> list[str]:
    """Write a relation's key columns as they are compared.

    An unqualified name in ORDER BY would mean the output column, which is text.
    """
    return [compared_as(column, f"{relation}.{quote(column.name)}") for column in shape.key_columns]


def compared_as(column: SourceColumn, value: str) -> str:
    """Cast a value of the column to what the operators of its order take."""
    return f"{value}::{column.order_type}" if column.order_type else value


def compare(shape: TableShape, left: Sequence[str], operator: str, right: Sequence[str]) -> str:
    """Compare two keys, element by element in the key's order; operator is =, >, or <=.

    As rows where one operator serves all columns: an index serves a comparison of rows best.
    """
    columns = shape.key_columns
    if not any(column.operators for column in columns):
        return f"({', '.join(left)}) {operator} ({', '.join(right)})"
    pairs = list(zip(columns, left, right, strict=True))
    if operator == "=":
        return " AND ".join(_pair(pair, "=") for pair in pairs)
    ways = []
    for at, pair in enumerate(pairs):
        last = operator if at == len(pairs) - 1 else operator[0]
        equal = [_pair(before, "=") for before in pairs[:at]]
        ways.append(" AND ".join([*equal, _pair(pair, last)]))
    return f"({' OR '.join(f'({way})' for way in ways)})"


def _pair(pair: tuple[SourceColumn, str, str], operator: str) -> str:
    column, left, right = pair
    return f"{left} {_operator(operator, column)} {right}"


def _operator(name: str, column: SourceColumn) -> str:
    return f"OPERATOR({column.operators[_STRATEGIES.index(name)]})" if column.operators else name
