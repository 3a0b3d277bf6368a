"""Conditions that DuckDB and Postgres compute alike, from the one's SQL to the other's.

Only what is provably the same is translated: columns of a few types against literals that their
types hold exactly, `IS NULL`, and what AND, OR and NOT make of these. Text is compared for equality
alone, by its bytes, which is what both do under a deterministic collation.

A condition has one form, whoever wrote it and whichever version of DuckDB parsed it. So what a
publication has is read by the same rules and compared with what it is to have, however the server
prints it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal, assert_never

import pyarrow as pa

from cdc_assets.changes.shape import SourceColumn
from cdc_assets.identifiers import fold, quote, quote_literal
from cdc_assets.shaping.predicates import PredicateError, expression_of, sql_of

Value = bool | Decimal | str
_INTEGERS = {21: ("smallint", 16), 23: ("integer", 32), 20: ("bigint", 64)}
_BOOLEAN, _NUMERIC, _TEXT, _VARCHAR = 16, 1700, 25, 1043
_EQUALITIES = ("=", "<>")
_OPERATORS = {
    "COMPARE_EQUAL": "=",
    "COMPARE_NOTEQUAL": "<>",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}
_MIRRORED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_NEGATED = {"=": "<>", "<>": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
_NUMBER = re.compile(r"(-?)\(?(\d+(?:\.\d+)?)\)?")
_STRING = re.compile(r"'((?:[^']|'')*)'")
_TRUTHS = {
    "true": True,
    "false": False,
    "CAST('t' AS BOOLEAN)": True,
    "CAST('f' AS BOOLEAN)": False,
}
_CAST = re.compile(
    r"CAST\((.*) AS (?:TEXT|VARCHAR|SMALLINT|INTEGER|BIGINT|DECIMAL(?:\(18, ?3\))?)\)",
    re.IGNORECASE | re.DOTALL,
)
_NO_LITERAL = "it compares with something else than a number, a text or a truth"


class NotPushedError(ValueError):
    """A condition is not one that Postgres is sure to compute alike; says why."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A column against a value that its type holds."""

    column: SourceColumn
    operator: str
    value: Value


@dataclass(frozen=True, slots=True)
class IsNull:
    """Whether a column is null."""

    column: SourceColumn


@dataclass(frozen=True, slots=True)
class IsTrue:
    """A column of truth values by itself."""

    column: SourceColumn


@dataclass(frozen=True, slots=True)
class Not:
    """The contrary."""

    part: Condition


@dataclass(frozen=True, slots=True)
class Several:
    """Two parts at least, none of which is joined by the same word."""

    word: Literal["AND", "OR"]
    parts: tuple[Condition, ...]


Condition = Comparison | IsNull | IsTrue | Not | Several


def translated(predicate: str, columns: Mapping[str, SourceColumn]) -> Condition:
    """Translate a condition of the config.

    Args:
        predicate: In DuckDB's SQL.
        columns: By the names that they have in it, case folded.

    Raises:
        NotPushedError: It is not sure to be the same in Postgres.
    """
    condition = _read(predicate, lambda name: columns.get(fold(name)), stored=False)
    known = {column.name: column for column in columns.values()}
    if stored(sql(condition), known) != condition:
        raise NotPushedError("DuckDB reads its translation otherwise")
    return condition


def stored(row_filter: str, columns: Mapping[str, SourceColumn]) -> Condition | None:
    """Read a publication's row filter as the server prints it; None where it is none of ours."""
    try:
        return _read(row_filter, columns.get, stored=True)
    except NotPushedError:
        return None


def columns_in(condition: Condition) -> frozenset[str]:
    """Find the columns that a condition reads, by their names on the source."""
    match condition:
        case Comparison() | IsNull() | IsTrue():
            return frozenset({condition.column.name})
        case Not():
            return columns_in(condition.part)
        case Several():
            return frozenset().union(*map(columns_in, condition.parts))
        case _:
            assert_never(condition)


def sql(condition: Condition) -> str:
    """Write a condition in Postgres' SQL."""
    match condition:
        case Comparison():
            return _comparison_sql(condition)
        case IsNull():
            return f"{quote(condition.column.name)} IS NULL"
        case IsTrue():
            return quote(condition.column.name)
        case Not():
            return f"NOT ({sql(condition.part)})"
        case Several():
            return f" {condition.word} ".join(f"({sql(part)})" for part in condition.parts)
        case _:
            assert_never(condition)


def _comparison_sql(comparison: Comparison) -> str:
    value, oid, name = comparison.value, comparison.column.type.oid, quote(comparison.column.name)
    if isinstance(value, bool):
        shown = str(value).lower()
    elif isinstance(value, str):
        shown, name = f"{quote_literal(value)}::text", name + "::text" * (oid == _VARCHAR)
    else:
        kind = _INTEGERS[oid][0] if oid in _INTEGERS else "numeric"
        shown = f"'{value:f}'::{kind}"
    return f"{name} {comparison.operator} {shown}"


_Find = Callable[[str], SourceColumn | None]


def _read(text: str, find: _Find, *, stored: bool) -> Condition:
    try:
        node = expression_of(text)
    except PredicateError as error:
        raise NotPushedError(str(error)) from error
    return _Reader(find, stored=stored).condition(node)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads DuckDB's parse trees.

    Attributes:
        find: Gives the column of a name.
        stored: Whether it is what Postgres printed: with types behind literals and columns.
    """

    find: _Find
    stored: bool

    def condition(self, node: Any) -> Condition:
        match node["class"], node["type"]:
            case "COMPARISON", kind if kind in _OPERATORS:
                return self._comparison(node["left"], _OPERATORS[kind], node["right"])
            case "BETWEEN", _:
                bounds = ((">=", node["lower"]), ("<=", node["upper"]))
                return _joined(
                    "AND", [self._comparison(node["input"], how, at) for how, at in bounds]
                )
            case "CONJUNCTION", kind:
                word: Literal["AND", "OR"] = "AND" if kind == "CONJUNCTION_AND" else "OR"
                return _joined(word, [self.condition(part) for part in node["children"]])
            case "OPERATOR", kind:
                return self._operator(kind, node["children"])
            case "COLUMN_REF", _:
                column = self._column(node)
                if column.type.oid != _BOOLEAN:
                    raise NotPushedError(f"column {column.name!r} is no truth value")
                return IsTrue(column)
            case "FUNCTION", _:
                raise NotPushedError(f"it uses {str(node['function_name'])!r}")
        raise NotPushedError("it is more than comparisons of columns with literals")

    def _operator(self, kind: str, children: Sequence[Any]) -> Condition:
        match kind:
            case "OPERATOR_NOT":
                return _negated(self.condition(children[0]))
            case "OPERATOR_IS_NULL":
                return IsNull(self._column(children[0]))
            case "OPERATOR_IS_NOT_NULL":
                return _negated(IsNull(self._column(children[0])))
            case "COMPARE_IN":
                return self._one_of(children)
            case "COMPARE_NOT_IN":
                return _negated(self._one_of(children))
        raise NotPushedError("it is more than comparisons of columns with literals")

    def _one_of(self, children: Sequence[Any]) -> Condition:
        column, *values = children
        return _joined("OR", [self._comparison(column, "=", value) for value in values])

    def _comparison(self, left: Any, operator: str, right: Any) -> Comparison:
        if left["class"] == "CONSTANT":
            left, right, operator = right, left, _MIRRORED.get(operator, operator)
        column = self._column(left)
        return Comparison(column, operator, _value(column, operator, self._literal(right)))

    def _column(self, node: Any) -> SourceColumn:
        is_cast = self.stored and node["class"] == "CAST" and _CAST.fullmatch(sql_of(node))
        if is_cast:
            node = node["child"]
        if node["class"] != "COLUMN_REF":
            raise NotPushedError("it is more than comparisons of columns with literals")
        name = str(node["column_names"][-1])
        column = self.find(name)
        if column is None or len(node["column_names"]) > 1:
            raise NotPushedError(f"column {name!r} is not there")
        if column.type_oid != column.type.oid or column.type.is_array or column.type.is_enum:
            raise NotPushedError(f"column {name!r} has a type that only Postgres knows")
        if is_cast and column.type.oid != _VARCHAR:
            raise NotPushedError(f"column {name!r} is cast")
        return column

    def _literal(self, node: Any) -> Value:
        text = sql_of(node)
        if _is_rounded(node):
            raise NotPushedError(_NO_LITERAL)
        if self.stored and (cast := _CAST.fullmatch(text)):
            text = cast[1]
            if (string := _STRING.fullmatch(text)) and _NUMBER.fullmatch(string[1]):
                return _Unquoted(string[1])
        if text in _TRUTHS:
            return _TRUTHS[text]
        if number := _NUMBER.fullmatch(text):
            return Decimal(number[1] + number[2])
        if string := _STRING.fullmatch(text):
            return string[1].replace("''", "'")
        raise NotPushedError(_NO_LITERAL)


def _is_rounded(node: Any) -> bool:
    """Whether it is a number that DuckDB 1.5 has made a float as it parsed it."""
    return bool(node["class"] == "CONSTANT" and "value" in node) and (
        node["value"]["type"]["id"] == "DOUBLE"
    )


class _Unquoted(str):
    """A number that the server prints in quotes, or a text that looks like one."""

    __slots__ = ()


def _value(column: SourceColumn, operator: str, value: Value) -> Value:
    """Check that both ends compare a column with a value alike."""
    name, kind = column.name, column.type.arrow
    oid = column.type.oid
    if isinstance(value, _Unquoted):
        value = str(value) if oid in (_TEXT, _VARCHAR) else Decimal(value)
    if oid in _INTEGERS and isinstance(value, Decimal):
        limit = 2 ** (_INTEGERS[oid][1] - 1)
        if value.as_tuple().exponent == 0 and -limit <= value < limit:
            return value
        raise NotPushedError(f"column {name!r} can't hold a number that it compares with")
    if oid == _NUMERIC and pa.types.is_decimal(kind) and isinstance(value, Decimal):
        digits, scale = len(str(abs(int(value)))), -int(value.as_tuple().exponent)
        if scale <= kind.scale and (digits <= kind.precision - kind.scale or not int(value)):
            return value
        raise NotPushedError(f"column {name!r} can't hold a number that it compares with")
    if oid == _BOOLEAN and isinstance(value, bool) and operator in _EQUALITIES:
        return value
    if oid in (_TEXT, _VARCHAR) and isinstance(value, str):
        return _text(column, operator, value)
    raise NotPushedError(f"column {name!r} is {column.type.name}, which the two compare otherwise")


def _text(column: SourceColumn, operator: str, value: str) -> str:
    if operator not in _EQUALITIES:
        raise NotPushedError(f"the order of texts in column {column.name!r} is Postgres' own")
    if column.collation:
        raise NotPushedError(f"column {column.name!r} has a collation of its own")
    if "\\" in value or not value.isprintable():
        raise NotPushedError("it has a text with characters that are written otherwise")
    return value


def _negated(condition: Condition) -> Condition:
    """Give the contrary; where the one is null, so is the other."""
    match condition:
        case Comparison():
            return replace(condition, operator=_NEGATED[condition.operator])
        case Not():
            return condition.part
        case _:
            return Not(condition)


def _joined(word: Literal["AND", "OR"], parts: Sequence[Condition]) -> Condition:
    flat: list[Condition] = []
    for part in parts:
        flat += part.parts if isinstance(part, Several) and part.word == word else [part]
    return flat[0] if len(flat) == 1 else Several(word, tuple(flat))
