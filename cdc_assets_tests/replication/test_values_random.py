"""Random rows of a wide table, inserted, updated, moved and deleted, converge."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import LiteralString, cast

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdc_assets.config import PipelineConfig
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets_tests.conftest import make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.random_values import typed_value, values
from cdc_assets_tests.slices import cut_small
from cdc_assets_tests.syncs import converge, query, sync_all
from cdc_assets_tests.values import KINDS, TYPES_SQL

# A row of more than 1600 columns is impossible, of these some 70 is not
COLUMNS = {f"c{number}": kind for number, kind in enumerate(KINDS)}
TABLE = [TableName("public", "wide")]
COPIED, STREAMED = 100, 200  # where ids start


@dataclass(frozen=True)
class Statement:
    """Insert, update, move (to another key) or delete one row; `texts` by column."""

    op: str
    key: int
    other: int
    texts: dict[str, str | None]
    ends_transaction: bool


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    op = draw(st.sampled_from(["insert", "insert", "update", "update", "move", "delete"]))
    chosen = (
        list(COLUMNS)
        if op == "insert"
        else draw(st.lists(st.sampled_from(list(COLUMNS)), max_size=5, unique=True))
    )
    if op == "insert":
        chosen = draw(st.lists(st.sampled_from(chosen), min_size=10, max_size=40, unique=True))
    kinds = {name: COLUMNS[name] for name in chosen}
    texts = {name: draw(values(kind)) for name, kind in kinds.items()}
    key, other = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    return Statement(op, key, other, texts, draw(st.booleans()))


@st.composite
def rows(draw: st.DrawFn) -> dict[str, str | None]:
    some = st.lists(st.sampled_from(list(COLUMNS)), min_size=20, max_size=40, unique=True)
    return {name: draw(values(COLUMNS[name])) for name in draw(some)}


class Wide:
    """The table and its pipeline; statements that break the key are left out."""

    def __init__(self, database: ScratchDatabase, config: PipelineConfig) -> None:
        self.database, self.config = database, config

    def play(self, played: list[Statement]) -> None:
        with closing(self.database.connect()) as connection:
            connection.execute("BEGIN")
            for statement in played:
                self._execute(connection, statement)
                if statement.ends_transaction:
                    connection.execute("COMMIT")
                    connection.execute("BEGIN")
            connection.execute("COMMIT")

    def _execute(self, connection: psycopg.Connection, statement: Statement) -> None:
        texts = {"big": "x" * 3000 if statement.key % 2 else "", **statement.texts}
        typed = [
            ("%s::text", text) if name == "big" else typed_value(COLUMNS[name].type, text)
            for name, text in texts.items()
        ]
        names, parameters = list(texts), [parameter for _, parameter in typed]
        expressions = [expression for expression, _ in typed]
        key, other = statement.key, statement.other
        assignments = [
            f"{name} = {expression}"
            for name, expression in zip(names, expressions, strict=True)
            if name != "big"
        ]
        match statement.op:
            case "insert":
                sql = (
                    f"INSERT INTO wide (id, {', '.join(names)})"
                    f" VALUES ({key}, {', '.join(expressions)}) ON CONFLICT DO NOTHING"
                )
            case "delete":
                sql, parameters = f"DELETE FROM wide WHERE id = {key}", []
            case "move":
                free = f"NOT EXISTS (SELECT FROM wide WHERE id = {other})"
                sql = f"UPDATE wide SET {', '.join(['id = ' + str(other), *assignments])}"
                sql, parameters = f"{sql} WHERE id = {key} AND {free}", parameters[1:]
            case _:
                sql = f"UPDATE wide SET {', '.join(['n = n + 1', *assignments])} WHERE id = {key}"
                parameters = parameters[1:]
        connection.execute(cast("LiteralString", sql), parameters or None)


@pytest.fixture(scope="module")
def wide(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wide]:
    database = ScratchDatabase(postgres, "values_random")
    database.create()
    try:
        database.execute(TYPES_SQL)
        listed = ", ".join(f"{name} {kind.type}" for name, kind in COLUMNS.items())
        database.execute(
            f"CREATE TABLE wide (id int PRIMARY KEY, n int DEFAULT 0, big text, {listed})"
        )
        database.execute("ALTER TABLE wide ALTER big SET STORAGE EXTERNAL")
        config = make_pipeline(database, tmp_path_factory.mktemp("random"), "public.wide")
        yield Wide(database, config)
    finally:
        database.drop()


MANY = st.lists(statements(), min_size=12, max_size=20)
COMMON = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": [
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
}


@settings(max_examples=12, **COMMON)
@given(before=st.lists(statements(), min_size=4, max_size=8), played=MANY)
def test_random_changes_converge(
    wide: Wide, before: list[Statement], played: list[Statement]
) -> None:
    """The table goes on from example to example: each starts from what the last one left."""
    wide.play(before)
    converge(wide.database, wide.config)
    wide.play(played)
    converge(wide.database, wide.config)


@settings(max_examples=6, **COMMON)
@given(unseen=MANY, seen=MANY)
def test_random_rows_are_copied_as_they_are(
    wide: Wide,
    monkeypatch: pytest.MonkeyPatch,
    unseen: list[Statement],
    seen: list[Statement],
) -> None:
    """A new copy, while the slot still has changes that the copy has seen already."""
    cut_small(monkeypatch)
    wide.play(unseen)
    forget_tables(wide.config, TABLE)
    wide.play(seen)
    converge(wide.database, wide.config)


@settings(max_examples=5, **COMMON)
@given(written=st.lists(rows(), min_size=5, max_size=9))
def test_copy_and_stream_give_the_same_values(
    wide: Wide, written: list[dict[str, str | None]]
) -> None:
    """The same in the warehouse, by its own text: what the source makes of both is no question."""

    def insert(first: int) -> None:
        wide.play(
            [Statement("insert", first + at, 0, texts, False) for at, texts in enumerate(written)]
        )

    def found(first: int, *, is_copied: bool) -> list[tuple[object, ...]]:
        texts = ", ".join(f"{name}::VARCHAR" for name in ("big", *COLUMNS))
        got = query(
            wide.config,
            f"SELECT _cdc_commit_ts IS NULL, {texts} FROM public.wide"
            f" WHERE id >= {first} AND id < {first + len(written)} ORDER BY id",
        )
        assert [row[0] for row in got] == [is_copied] * len(written)
        return [row[1:] for row in got]

    wide.database.execute("DELETE FROM wide")
    forget_tables(wide.config, TABLE)
    insert(COPIED)
    sync_all(wide.config)
    insert(STREAMED)
    sync_all(wide.config)
    assert found(STREAMED, is_copied=False) == found(COPIED, is_copied=True)
