"""Which rows are kept: a condition over the row, in DuckDB's SQL.

It has to give the same for the same row whenever it is asked, after a crash too: what depends on
the time, on chance or on other rows is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import Mask
from cdc_assets.shaping.engine import compute, session

_CLASSES = {
    "SUBQUERY": "it has a subquery",
    "WINDOW": "it has a window function",
    "STAR": "it names no column with *",
    "PARAMETER": "it has a parameter",
}
# A function's text where it is a macro
_UNSTEADY = """
SELECT DISTINCT function_name FROM duckdb_functions()
WHERE coalesce(stability, 'CONSISTENT') <> 'CONSISTENT'
   OR regexp_matches(coalesce(macro_definition, ''), 'current_|now\\(|random|uuid')
"""
# What SQL spells like a column where there is none of this name
_CLOCKS = frozenset(
    {"current_time", "current_timestamp", "current_user", "localtime", "localtimestamp"}
)
_OTHERWISE = (
    "gives something else each time, and a condition has to give the same for the same row whenever"
    " it is asked"
)
_AGGREGATES = (
    "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type = 'aggregate'"
)


class PredicateError(ValueError):
    """A text is no condition over one row; says why."""


class RowError(ValueError):
    """A condition can't be computed for a row; says what kind of error it was, without the row."""


@cache
def columns_of(predicate: str) -> frozenset[str]:
    """Find the columns that a condition reads, as it spells them.

    Raises:
        PredicateError: It is not one expression, or not one over a row alone.
    """
    names = set()
    for node in _nodes(expression_of(predicate)):
        kind = node["class"]
        if kind in _CLASSES:
            raise PredicateError(_CLASSES[kind])
        if kind == "COLUMN_REF":
            if len(node["column_names"]) > 1:
                raise PredicateError(f"it names {'.'.join(node['column_names'])!r}: no column")
            names.add(str(node["column_names"][0]))
        elif kind == "FUNCTION":
            _check_function(str(node["function_name"]))
    return frozenset(names)


def expression_of(predicate: str) -> Any:
    """Parse a text to DuckDB's tree of it.

    Raises:
        PredicateError: It is not one expression.
    """
    start = "SELECT ("
    parsed = _parsed(f"{start}{predicate}\n)")
    if parsed["error"]:
        is_cut = int(parsed.get("position") or 0) > len(start) + len(predicate.encode())
        why = "it ends too early" if is_cut else parsed["error_message"]
        raise PredicateError(f"it does not parse: {why}")
    (statement,) = parsed["statements"]
    expressions = statement["node"]["select_list"]
    if len(expressions) != 1:
        raise PredicateError("it is more than one expression")
    return expressions[0]


def sql_of(expression: Any) -> str:
    """Print a tree, as `expression_of` gives them, as SQL."""
    statement = _parsed("SELECT 1")
    statement["statements"][0]["node"]["select_list"] = [expression]
    text = json.dumps(statement)
    ((sql,),) = session().execute("SELECT json_deserialize_sql(?::JSON)", [text]).fetchall()
    return str(sql).removeprefix("SELECT ")


def _parsed(text: str) -> Any:
    ((serialized,),) = session().execute("SELECT json_serialize_sql(?)", [text]).fetchall()
    return json.loads(serialized)


def _nodes(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        if "class" in part:
            yield part
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from _nodes(one)


def missing(name: str) -> str:
    """Say what is wrong with a name that is no column's."""
    if name.casefold() in _names(_UNSTEADY) | _CLOCKS:
        return f"{name} {_OTHERWISE}"
    return f"column {name!r} is not there"


def _check_function(name: str) -> None:
    if name in _names(_AGGREGATES):
        raise PredicateError(f"{name}() is of many rows")
    if name in _names(_UNSTEADY):
        raise PredicateError(f"{name}() {_OTHERWISE}")


@cache
def _names(sql: str) -> frozenset[str]:
    return frozenset(str(name) for (name,) in session().execute(sql).fetchall())


def check_types(predicate: str, columns: pa.Schema) -> None:
    """Check that a condition can be computed from columns.

    Raises:
        PredicateError: It does not fit their types, or gives no truth value.
    """
    try:
        found = compute(f"({predicate}\n)", columns.empty_table())
    except duckdb.Error as error:
        raise PredicateError(f"DuckDB does not take it: {_first_line(error)}") from error
    if not pa.types.is_boolean(found.type):
        raise PredicateError("it is neither true nor false")


def _first_line(error: duckdb.Error) -> str:
    """Give what DuckDB says of a condition over no rows, which can quote the condition alone."""
    return str(error).partition("\n")[0].rstrip(".")


def matches(predicate: str, columns: pa.Table) -> Mask:
    """Find the rows of which a condition is true; where it is null it is not.

    Args:
        predicate: The condition.
        columns: n rows, with one column at least.

    Raises:
        RowError: It can't be computed for a row.
    """
    try:
        found = compute(f"coalesce(({predicate}\n), false)", columns)
    except duckdb.Error as error:  # its message may quote a value
        raise RowError(type(error).__name__) from error
    return np.asarray(found.to_numpy(zero_copy_only=False), dtype=bool)
