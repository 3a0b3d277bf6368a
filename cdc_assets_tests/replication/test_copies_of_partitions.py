"""Partitioned tables are copied, compared and put right while their partitions are written."""

from __future__ import annotations

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.progress import BucketBackfilled, TableCompared
from cdc_assets.replication import beside_syncs
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.steps import Step, observers
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, make_small
from cdc_assets_tests.syncs import converge

# Rows change, come, go, and move from one partition to another
CHANGES = (
    "UPDATE p SET a = a || '!' WHERE id % 17 = {at} % 17",
    "INSERT INTO p VALUES ({at} + 1000, 0, 'new'), ({at} + 1000, 1, 'new')",
    "UPDATE p SET part = 1 - part WHERE id = {at} * 7",
    "DELETE FROM p WHERE id = {at} * 5 + 1",
)


@pytest.fixture(params=[True, False], ids=["via root", "by partition"])
def config(
    request: pytest.FixtureRequest,
    database: ScratchDatabase,
    pipeline: MakePipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> PipelineConfig:
    make_small(monkeypatch.setattr)
    monkeypatch.setattr(beside_syncs, "TURN_SECONDS", 0)
    database.execute(
        "CREATE TABLE p (id int, part int, a text, PRIMARY KEY (id, part))"
        " PARTITION BY LIST (part);"
        "CREATE TABLE p0 PARTITION OF p FOR VALUES IN (0);"
        "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);"
        "INSERT INTO p SELECT i, i % 2, 'a' FROM generate_series(1, 300) i"
    )
    if request.param:
        config = pipeline("public.p")
    else:
        config = pipeline("public.p0", "public.p1")
        name = config.source.publication
        database.execute(f"ALTER PUBLICATION {name} SET (publish_via_partition_root = false)")
    converge(database, config)
    return config


class _Load:
    """At every step of a run the next of the changes is committed."""

    def __init__(self, database: ScratchDatabase) -> None:
        self._database, self._at = database, 0

    def __enter__(self) -> None:
        observers.append(self._change)

    def __exit__(self, *_: object) -> None:
        observers.remove(self._change)

    def _change(self, _: Step) -> None:
        self._at += 1
        self._database.execute(CHANGES[self._at % len(CHANGES)].format(at=self._at))


def counts(config: PipelineConfig, table: TableName) -> tuple[int, int, int, int]:
    (done,) = [event for event in backfill(config, table) if isinstance(event, BucketBackfilled)]
    return done.rows_read, done.rows_inserted, done.rows_changed, done.rows_removed


def test_under_load_they_are_equal_and_what_differs_is_put_right(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    with _Load(database):
        for table in config.table_names:
            assert counts(config, table)[1:] == (0, 0, 0)
        events = list(reconcile(config))
    equal = [event.equal for event in events if isinstance(event, TableCompared)]
    assert equal == [True] * len(config.tables)
    converge(database, config)
    table = config.table_names[0]
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(f"DELETE FROM {table.sql} WHERE id = 200")
        warehouse.execute(f"UPDATE {table.sql} SET a = 'wrong' WHERE id IN (202, 204)")
    assert counts(config, table)[1:] == (1, 2, 0)
    converge(database, config)


@pytest.mark.parametrize(
    "silent",
    [
        "ALTER TABLE p ATTACH PARTITION late FOR VALUES IN (2)",
        "ALTER TABLE p DETACH PARTITION p1",
        "TRUNCATE p1",
        "DROP TABLE p1",
    ],
)
@pytest.mark.parametrize("config", [True], indirect=True, ids=["via root"])
def test_what_partitions_do_without_a_word_while_they_are_copied_is_in_the_copy(
    database: ScratchDatabase, config: PipelineConfig, silent: str
) -> None:
    database.execute(
        "CREATE TABLE late (id int, part int, a text, PRIMARY KEY (id, part));"
        "INSERT INTO late VALUES (1, 2, 'late')"
    )
    with at_step("chunk_committed", 2, lambda: database.execute(silent)):
        counts(config, config.table_names[0])
    converge(database, config)
