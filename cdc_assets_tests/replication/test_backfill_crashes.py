"""A backfill, a resync or a copy that is killed anywhere leaves nothing wrong or behind."""

from __future__ import annotations

import random
import subprocess
from contextlib import suppress

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.progress import BucketBackfilled, TableCompared
from cdc_assets.replication import begun
from cdc_assets.replication import sync as syncing
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.replication.resync import find_losses, resync
from cdc_assets.steps import Step
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import kill_at, make_small, start_sync
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, sync_once
from cdc_assets_tests.waiting import wait_until_unlocked

ACCOUNTS = TableName("public", "accounts")
STEPS: tuple[Step, ...] = (
    "chunk_read",
    "chunk_staged",
    "chunk_committed",
    "window_committed",
    "copy_staged",
    "copy_placed",
)


@pytest.fixture
def ledger(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> PipelineConfig:
    make_small(monkeypatch.setattr)
    create_ledger(database)
    return pipeline(*TABLES, schema_changes="stop")


def left_behind(config: PipelineConfig) -> list[str]:
    """Find what a copy that has ended must not leave in the warehouse."""
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        stages = warehouse.execute(
            "SELECT table_name FROM duckdb_tables() WHERE contains(table_name, '__cdc_copy')"
        ).fetchall()
        rows = [
            (name,)
            for name in ("copies", "chunks", "gaps")
            if warehouse.execute(f"SELECT count(*) FROM _cdc.{name}").fetchall() != [(0,)]
        ]
    return [name for (name,) in [*stages, *rows]]


def written(config: PipelineConfig, sql: str) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(f"SET search_path = 'public'; {sql}")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("work", ["backfill accounts", "backfill accounts 00 05"])
def test_a_backfill_that_is_killed_is_done_by_the_next(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step, work: str
) -> None:
    sync_once(ledger)
    written(ledger, "UPDATE accounts SET owner = 'wrong' WHERE id % 5 = 0")
    with Writer(database, 1).running():
        kill_at(ledger, step, 1, work=work)
    wait_until_unlocked(database)
    sync_once(ledger)
    for _ in backfill(ledger, ACCOUNTS, buckets=["00", "05"] if "05" in work else None):
        continue
    for _ in backfill(ledger, ACCOUNTS):
        continue
    converge(database, ledger)
    assert left_behind(ledger) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_table_that_is_made_anew_is_gone_on_with(
    database: ScratchDatabase,
    ledger: PipelineConfig,
    monkeypatch: pytest.MonkeyPatch,
    step: Step,
) -> None:
    monkeypatch.setattr(syncing, "_LEFT_SECONDS", 0)
    sync_once(ledger)
    database.execute("ALTER TABLE accounts ADD COLUMN more int DEFAULT 3")
    with Writer(database, 2).running():
        sync_once(ledger)
        kill_at(ledger, step, 1, work="backfill accounts")
    wait_until_unlocked(database)
    converge(database, ledger)  # the sync does what is left of it
    assert left_behind(ledger) == []


@pytest.mark.parametrize("step", STEPS)
def test_a_resync_that_is_killed_is_done_by_the_next_sync(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    sync_once(ledger)
    database.execute(f"SELECT pg_drop_replication_slot('{ledger.source.slot}')")
    Writer(database, 3).commit(20)
    assert find_losses(ledger).found
    with Writer(database, 3).running():
        assert kill_at(ledger, step, 1, work="resync")
    wait_until_unlocked(database)
    converge(database, ledger)
    assert left_behind(ledger) == []
    assert find_losses(ledger).found == ()


def test_a_resync_copies_all_tables_in_place(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    sync_once(ledger)
    database.execute(f"SELECT pg_drop_replication_slot('{ledger.source.slot}')")
    Writer(database, 4).commit(20)
    for _ in resync(ledger):
        continue
    converge(database, ledger)


def test_a_copy_that_nobody_goes_on_with_is_given_up(
    database: ScratchDatabase, ledger: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_once(ledger)
    assert kill_at(ledger, "chunk_committed", 1, work="backfill accounts 03")
    wait_until_unlocked(database)
    assert left_behind(ledger)
    monkeypatch.setattr(begun, "_ABANDONED_SECONDS", 0)
    converge(database, ledger)
    assert left_behind(ledger) == []


def test_syncs_go_on_while_a_table_is_backfilled(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    database.execute("INSERT INTO lines VALUES (9000, 0, 0)")
    events = backfill(ledger, ACCOUNTS)
    next(events)
    with start_sync(ledger) as process:  # waits for this chunk
        done = [event for event in events if isinstance(event, BucketBackfilled)]
        _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert [one.rows_changed for one in done] == [0]
    converge(database, ledger)
    assert left_behind(ledger) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_random_kills_over_syncs_backfills_and_reconciles_together(
    database: ScratchDatabase,
    ledger: PipelineConfig,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    pick = random.Random(seed)
    works = ["", "", "backfill accounts", "backfill Notes 01 02", "backfill lines", "resync"]
    works += ["reconcile", "reconcile repair"]
    with Writer(database, seed).running(), Writer(database, seed + 7).running():
        for _ in range(10):
            process = start_sync(ledger, work=pick.choice(works))
            # a moment within the run is what is asked for: no event marks it
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=pick.uniform(0.5, 3.0))
            process.kill()
            process.communicate()
            wait_until_unlocked(database)
    for table in ledger.table_names:
        for _ in backfill(ledger, table):
            continue
    compared = [event for event in reconcile(ledger) if isinstance(event, TableCompared)]
    assert [table.equal for table in compared] == [True, True, True]
    monkeypatch.setattr(begun, "_ABANDONED_SECONDS", 0)
    converge(database, ledger)
    assert left_behind(ledger) == []
