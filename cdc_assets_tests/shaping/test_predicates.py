"""What is a condition over one row, and what is none."""

from __future__ import annotations

import pyarrow as pa
import pytest

from cdc_assets.shaping.predicates import (
    PredicateError,
    RowError,
    check_types,
    columns_of,
    matches,
)

ROWS = pa.table({"a": [1, 2, None], "b": ["x", None, "z"]})


@pytest.mark.parametrize(
    ("predicate", "columns"),
    [
        ("true", set()),
        ("a = 1 -- of old", {"a"}),
        ("lower(b) LIKE 'x%' AND a BETWEEN 1 AND 2", {"a", "b"}),
        ('"B" IS NULL', {"B"}),
        ("nullif(a, 1) IN (2, 3)", {"a"}),
    ],
)
def test_the_columns_that_a_condition_reads(predicate: str, columns: set[str]) -> None:
    assert columns_of(predicate) == columns
    check_types(predicate, ROWS.schema)


@pytest.mark.parametrize(
    ("predicate", "said"),
    [
        ("a >", "does not parse: it ends too early"),
        ("a > > 1", 'does not parse: syntax error at or near ">"'),
        ("a = 1; SELECT 2", "does not parse"),
        ("a) , (b", "more than one"),
        ("a IN (SELECT 1)", "subquery"),
        ("sum(a) > 1", "many rows"),
        ("row_number() OVER () = 1", "window"),
        ("random() < 0.5", "something else each time"),
        ("now() > '2024-01-01'", "something else each time"),
        ("t.a = 1", "no column"),
    ],
)
def test_what_is_no_condition_over_a_row(predicate: str, said: str) -> None:
    with pytest.raises(PredicateError, match=said):
        columns_of(predicate)


@pytest.mark.parametrize(
    ("predicate", "said"),
    [("a + 1", "neither true nor false"), ("frobnicate(a)", "name frobnicate does not")],
)
def test_what_does_not_fit_the_columns(predicate: str, said: str) -> None:
    with pytest.raises(PredicateError, match=said):
        check_types(predicate, ROWS.schema)


def test_a_row_is_kept_where_it_is_true() -> None:
    assert matches("a > 1", ROWS).tolist() == [False, True, False]
    assert matches("b <> 'x'", ROWS).tolist() == [False, False, True]
    assert matches("true", ROWS.select(["a"])).tolist() == [True, True, True]
    assert matches("a > 1", ROWS.slice(0, 0)).tolist() == []


def test_an_error_does_not_show_the_row() -> None:
    with pytest.raises(RowError) as raised:
        matches("b::int = 1", ROWS)
    assert str(raised.value) == "ConversionException"
