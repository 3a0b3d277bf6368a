"""Conditions are translated where both ends compute them alike, and nowhere else."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from cdc_assets.changes.shape import SourceColumn
from cdc_assets.pgoutput.types import SourceType
from cdc_assets.shaping.predicates import matches
from cdc_assets.shaping.pushdown import NotPushedError, columns_in, sql, stored, translated
from cdc_assets_tests.database import ScratchDatabase

TYPES = {
    "i": "integer",
    "s": "smallint",
    "Big Id": "bigint",
    "n": "numeric(12,3)",
    "ok": "boolean",
    "t": "text",
    "v": "varchar(20)",
    "c": "char(3)",
    "free": "numeric",
    "f": "float8",
    "d": "date",
    "own": 'text COLLATE "C"',
}
_OIDS = {"i": 23, "s": 21, "Big Id": 20, "n": 1700, "ok": 16, "t": 25, "v": 1043, "c": 1042}
_OIDS |= {"free": 1700, "f": 701, "d": 1082, "own": 25}


def _column(name: str) -> SourceColumn:
    typmod = ((12 << 16) | 3) + 4 if name == "n" else -1
    kind = SourceType(TYPES[name], _OIDS[name], typmod, is_array=False, is_enum=False)
    collation = 'pg_catalog."C"' if name == "own" else ""
    return SourceColumn(name, 1, kind, _OIDS[name], typmod, True, collation)


COLUMNS = {name: _column(name) for name in TYPES}
NAMED = {name.casefold(): column for name, column in COLUMNS.items()}
PUSHED = [
    "i > 5",
    "i <> -5",
    "-5 <= i",
    "s = 3 OR s IS NULL",
    '"big id" < 9223372036854775807',
    "n >= 1.5",
    "n = -0.125",
    "n <> 100",
    "n > 0",
    "ok",
    "NOT ok",
    "ok = false",
    "ok <> true",
    "t = 'it''s'",
    "t <> ''",
    "v = '7'",
    "t = '-1.5'",
    "v IN ('a', 'b', 'Zürich')",
    "v NOT IN ('a', 'b')",
    "i IN (1)",
    "i BETWEEN 2 AND 7",
    "i NOT BETWEEN 2 AND 7",
    "i IS NOT NULL AND (t = 'a' OR NOT (v = 'b' AND ok)) AND s > 0",
    "(i = 1 AND (s = 2 AND ok)) OR (i = 2 OR s = 3)",
    "NOT (NOT (i = 1))",
]
REFUSED = {
    "t > 'a'": "order of texts",
    "own = 'a'": "collation of its own",
    "c = 'a'": "compare otherwise",
    "f = 1": "compare otherwise",
    "free > 1": "compare otherwise",
    "d = '2024-01-01'": "compare otherwise",
    "i = 1.5": "can't hold",
    "i = 3000000000": "can't hold",
    "n = 0.0001": "can't hold",
    "n > 1e3": "something else than a number",
    "n > -1e3": "something else than a number",
    "i = '5'": "compare otherwise",
    "i = NULL": "something else than a number",
    "i + 1 > 5": "more than comparisons",
    "i = s": "something else than a number",
    "length(t) > 5": "more than comparisons",
    "t LIKE 'a%'": "uses",
    "t = 'a\\b'": "written otherwise",
    "i::text = '5'": "more than comparisons",
    "n = '1.23456'::decimal": "something else than a number",
    "i": "no truth value",
    "ok IS TRUE": "more than comparisons",
    "i IS DISTINCT FROM 5": "more than comparisons",
    "nothing = 1": "not there",
    "i =": "does not parse",
}


def create(database: ScratchDatabase) -> None:
    """Make a table with each value beside each other's."""
    listed = ", ".join(f'"{name}" {kind}' for name, kind in TYPES.items())
    database.execute(
        f"CREATE TABLE x ({listed}); ALTER TABLE x REPLICA IDENTITY FULL;"
        "INSERT INTO x SELECT i, s, 9223372036854775800 + b, n, ok, t, t FROM"
        " unnest(ARRAY[-5, 1, 2, 5, 7, NULL]) i, unnest(ARRAY[0, 2, 3, NULL]) s,"
        " unnest(ARRAY[1, 7]) b, unnest(ARRAY[-0.125, 0, 1.5, 100, NULL]) n,"
        " unnest(ARRAY[true, false, NULL]) ok,"
        " unnest(ARRAY['a', 'b', '', 'it''s', '7', '-1.5', 'Zürich', NULL]) t"
    )


def assert_alike(database: ScratchDatabase, predicate: str) -> None:
    """Fail unless both ends find the same rows, and the server's print is the same condition."""
    condition = translated(predicate, NAMED)
    database.execute(
        f"DROP PUBLICATION IF EXISTS p;CREATE PUBLICATION p FOR TABLE x WHERE ({sql(condition)})"
    )
    ((shown,),) = database.execute("SELECT pg_get_expr(prqual, prrelid) FROM pg_publication_rel")
    assert stored(shown, COLUMNS) == condition
    kept = database.execute(f"SELECT coalesce({shown}, false), * FROM x")
    types = [column.type.arrow for column in COLUMNS.values()]
    columns = [
        pa.array(values, kind)
        for values, kind in zip(list(zip(*kept, strict=True))[1:], types, strict=True)
    ]
    found = matches(predicate, pa.table(columns, list(COLUMNS)))
    assert found.tolist() == [row[0] for row in kept], predicate
    assert columns_in(condition) <= COLUMNS.keys()


@pytest.mark.parametrize("predicate", PUSHED)
def test_what_is_translated_is_true_of_the_same_rows(
    any_database: ScratchDatabase, predicate: str
) -> None:
    create(any_database)
    assert_alike(any_database, predicate)


LEAVES = [predicate for predicate in PUSHED if " AND " not in predicate and " OR " not in predicate]


def grown(pick: random.Random, depth: int) -> str:
    """Make a condition of others."""
    if depth == 0 or pick.random() < 0.2:
        return pick.choice(LEAVES)
    if pick.random() < 0.3:
        return f"NOT ({grown(pick, depth - 1)})"
    word = pick.choice((" AND ", " OR "))
    parts = [grown(pick, depth - 1) for _ in range(pick.randint(2, 3))]
    return word.join(part if pick.random() < 0.3 else f"({part})" for part in parts)


def test_conditions_of_any_form(any_database: ScratchDatabase) -> None:
    create(any_database)
    pick = random.Random(17)
    for _ in range(25):
        assert_alike(any_database, grown(pick, 3))


@pytest.mark.parametrize(("predicate", "why"), REFUSED.items())
def test_what_is_not_sure_to_be_the_same_is_refused(predicate: str, why: str) -> None:
    with pytest.raises(NotPushedError, match=why):
        translated(predicate, NAMED)


@pytest.mark.parametrize(
    "shown",
    [
        "(i > 5) OR (length(t) > 3)",
        "i = (1.7)::integer",
        "(v)::text = ('abc'::character varying(2))::text",
        "n = ('1.55'::numeric)::numeric(5,1)",
        "(i)::bigint = 5",
    ],
)
def test_other_filters_are_none_of_ours(shown: str) -> None:
    assert stored(shown, COLUMNS) is None
