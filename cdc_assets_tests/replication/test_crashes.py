"""A crash at any step repeats work; it never loses, doubles or alters a change."""

from __future__ import annotations

import random
import subprocess
from contextlib import suppress

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.operations.removal import forget_tables
from cdc_assets.steps import Step
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import kill_at, make_small, start_sync
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge
from cdc_assets_tests.waiting import wait_for_row, wait_until_unlocked

RUNNING = (
    "SELECT 1 FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name LIKE 'cdc-assets%'"
)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch.setattr)


@pytest.fixture
def ledger(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    create_ledger(database)
    return pipeline(*TABLES)


@pytest.mark.parametrize("step", ["chunk_read", "chunk_staged", "chunk_committed"])
def test_a_kill_while_copying_goes_on_behind_the_last_chunk(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    writer = Writer(database, seed=1)
    # one copy, killed again and again: at its first chunk, within a table, at another one's edge
    for number in (1, 2, 4):
        writer.commit(10)
        assert kill_at(ledger, step, number)
        wait_until_unlocked(database)
    writer.commit(10)

    converge(database, ledger)


@pytest.mark.parametrize(
    "step",
    ["window_read", "table_applied", "before_commit", "window_committed", "window_confirmed"],
)
def test_a_kill_while_draining_goes_on_at_the_checkpoint(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    converge(database, ledger)
    writer = Writer(database, seed=2)

    for number in (1, 2, 3):
        writer.commit(100)
        assert kill_at(ledger, step, number)
        wait_until_unlocked(database)
    converge(database, ledger)
    writer.commit(20)

    converge(database, ledger)


@pytest.mark.parametrize("step", ["window_read", "before_commit", "window_committed"])
def test_a_kill_while_fences_stand_keeps_them_standing(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    writer = Writer(database, seed=3)
    for number in (1, 2):
        if number > 1:
            forget_tables(ledger, ledger.table_names)
        with writer.running():
            assert kill_at(ledger, step, number)
        wait_until_unlocked(database)

        converge(database, ledger)


def test_kills_at_any_moment_beside_a_live_load_lose_nothing(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    pick = random.Random(4)
    writer = Writer(database, seed=4)
    with writer.running():
        for _ in range(6):
            process = start_sync(ledger)
            wait_for_row(database, RUNNING, "a sync's session")
            # a moment within the run is what is asked for: no event marks it
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=pick.uniform(0.0, 0.6))
            process.kill()
            process.communicate()
            wait_until_unlocked(database)

    converge(database, ledger)
