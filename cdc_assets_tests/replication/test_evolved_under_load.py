"""Alterations while a run reads, drains and places: it ends well, and the next ones come right."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cdc_assets.identifiers import TableName
from cdc_assets.progress import BucketBackfilled
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.rebuilding import rebuild
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, make_small
from cdc_assets_tests.replication.test_evolved_random import (
    KEEPS,
    TABLE,
    RandomTable,
    assert_followed,
    create,
    write,
)
from cdc_assets_tests.syncs import converge, kept, sync_all


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch.setattr)


@pytest.mark.parametrize("number", [1, 6])  # in the middle, and behind the last chunk
@pytest.mark.parametrize("altered", ["ALTER b TYPE int USING b + 1", "ADD c int", "DROP a"])
def test_a_table_that_is_altered_while_it_is_copied(
    database: ScratchDatabase, pipeline: MakePipeline, number: int, altered: str
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b int)")
    database.execute("INSERT INTO t SELECT i, 'a' || i, i FROM generate_series(1, 200) i")
    config = pipeline("public.t")

    alter = f"SET lock_timeout = '5s'; ALTER TABLE t {altered}"
    with at_step("chunk_committed", number, lambda: database.execute(alter)):
        sync_all(config)

    sync_all(config)
    converge(database, config)


@contextmanager
def altering(database: ScratchDatabase, table: RandomTable) -> Iterator[None]:
    """Inside the block somebody changes and alters the table all the time."""
    is_over, failures = threading.Event(), list[BaseException]()

    def alter() -> None:
        try:
            while not is_over.wait(table.random.random() * 0.15):
                write(database, table)
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=alter)
    writer.start()
    try:
        yield
    finally:
        is_over.set()
        writer.join()
    assert not failures


@pytest.mark.parametrize("seed", range(2))
def test_a_mirror_follows_while_its_table_is_altered_all_the_time(
    database: ScratchDatabase, pipeline: MakePipeline, seed: int
) -> None:
    table = RandomTable(random.Random(seed))
    keep = KEEPS[seed + 1]
    create(database, rows=400)
    config = kept(pipeline(TABLE), keep, unfit_values="text")
    for _ in range(3):
        with altering(database, table):
            for _ in range(4):
                sync_all(config)
        for _ in range(3):  # one finds what was altered, one copies it, one has nothing to do
            sync_all(config)
        assert_followed(database, config, table, keep)

    for event in backfill(config, TableName.parse(TABLE)):
        if isinstance(event, BucketBackfilled):
            assert (event.rows_inserted, event.rows_changed, event.rows_removed) == (0, 0, 0)
    list(rebuild(config, TableName.parse(TABLE)))
    assert_followed(database, config, table, keep)
