"""Values that a change does not carry, of rows that a copy reads at the same time."""

from __future__ import annotations

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.progress import TableCompared
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.steps import Step, observers
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, make_small
from cdc_assets_tests.syncs import converge

T = TableName("public", "t")
ROWS = 40
LONG = 200_000
# What befalls a row with a value that is stored apart, without the value itself being written:
# where the row lies in the file, or its key, is another one then
MOVES = {
    "written": "UPDATE t SET n = n + 1",
    "written again and again": "UPDATE t SET n = n + 1 | UPDATE t SET n = n + 1 WHERE id % 3 = 0",
    "to other keys": "UPDATE t SET id = id + 1000 WHERE id % 2 = 0",
    "to the keys of others": "DELETE FROM t WHERE id % 2 = 1; UPDATE t SET id = id - 1",
    "away and back": "UPDATE t SET id = id + 1000 | UPDATE t SET id = id - 1000",
    "written, and the value too": "UPDATE t SET n = n + 1 | UPDATE t SET body = 'short' || n"
    " WHERE id % 2 = 0 | UPDATE t SET n = n + 1",
    "to places before": "DELETE FROM t WHERE id < 10 | VACUUM t | UPDATE t SET n = n + 1",
    "to other files": "UPDATE t SET n = n + 1 | VACUUM FULL t | UPDATE t SET n = n + 1",
}


@pytest.fixture
def config(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> PipelineConfig:
    make_small(monkeypatch.setattr)
    monkeypatch.setattr("cdc_assets.replication.copying.CHUNK_ROWS", 7)
    database.execute("CREATE TABLE t (id int PRIMARY KEY, n int, filler text, body text)")
    database.execute(
        "ALTER TABLE t ALTER body SET STORAGE EXTERNAL, ALTER filler SET STORAGE PLAIN"
    )
    # a few rows a block: a copy has many chunks, and written rows go to other blocks
    database.execute(
        f"INSERT INTO t SELECT i, 0, repeat('f', 1500), repeat(chr(65 + i % 26), {LONG})"
        f" FROM generate_series(1, {ROWS}) i"
    )
    return pipeline("public.t")


def move(database: ScratchDatabase, how: str) -> None:
    for transaction in MOVES[how].split(" | "):
        database.execute(transaction)


@pytest.mark.parametrize(
    ("how", "step"),
    list(zip(MOVES, ["chunk_read", "chunk_committed"] * (len(MOVES) // 2), strict=True)),
)
def test_they_are_there_after_a_first_copy(
    database: ScratchDatabase, config: PipelineConfig, how: str, step: Step
) -> None:
    with at_step(step, 3, lambda: move(database, how)):
        converge(database, config)
    converge(database, config)


def test_a_backfill_and_a_reconcile_find_none_of_them_different(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    left = [how for how in MOVES if "VACUUM" not in how]

    def act(step: Step) -> None:
        if left and step == "chunk_committed":
            move(database, left.pop())

    observers.append(act)
    try:
        before = list(backfill(config, T))[-1]
        (compared,) = [one for one in reconcile(config) if isinstance(one, TableCompared)]
    finally:
        observers.remove(act)
    assert (before.rows_inserted, before.rows_changed, before.rows_removed) == (0, 0, 0)  # type: ignore[union-attr]
    assert compared.equal
    assert left == []
    converge(database, config)
