"""A teardown asks before it takes a pipeline away."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets_tests.command_line import answer_command, assert_readable, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import PROJECT, config_path
from cdc_assets_tests.syncs import converge, mirror_rows
from cdc_assets_tests.warehouse.test_bad_warehouse import held

WHAT_IS_THERE = """
    SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()),
        (SELECT count(*) FROM pg_publication)
"""
TABLES = [f"public.t{number}" for number in range(7)]


@pytest.fixture
def synced(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    for table in TABLES:
        database.execute(
            f"CREATE TABLE {table} (id int PRIMARY KEY); INSERT INTO {table} VALUES (1)"
        )
    config = pipeline(*TABLES)
    converge(database, config)
    return config


def at_a_terminal(config: PipelineConfig, *options: str, answer: str) -> tuple[int, str]:
    """Run a teardown that is answered; give its code and what it printed."""
    done = answer_command(config, "teardown", *options, answer=answer)
    return done.code, done.err + done.out


@pytest.mark.parametrize("answer", ["", "n", "yesterday"])
def test_whoever_does_not_say_yes_keeps_everything(
    database: ScratchDatabase, synced: PipelineConfig, answer: str
) -> None:
    code, said = at_a_terminal(synced, answer=answer)

    assert code == 1
    assert said.endswith("nothing was removed\n")
    assert database.execute(WHAT_IS_THERE) == [(1, 1)]
    converge(database, synced)


def test_what_goes_and_what_stays_is_said_before_it_is_asked(
    database: ScratchDatabase, synced: PipelineConfig
) -> None:
    slot = synced.source.slot
    code, said = at_a_terminal(synced, answer="y")

    assert code == 0, said
    said, done = said.split("[y/N] ")
    goes, stays = said.split("and leaves, ")
    assert f"slot '{slot}'" in goes
    assert f"publication '{slot}'" in goes
    assert "'public.t0', 'public.t1', 'public.t2', 'public.t3', 'public.t4' and 2 more" in stays
    assert f"dropped slot '{slot}'" in done
    assert database.execute(WHAT_IS_THERE) == [(0, 0)]
    assert mirror_rows(synced, "public.t6", "id") == [(1,)]


def test_tables_that_would_be_dropped_are_said_to_go(synced: PipelineConfig) -> None:
    code, said = at_a_terminal(synced, "--drop-tables", answer="no")

    assert code == 1
    assert "'public.t0'" in said
    assert "leaves" not in said


def test_without_a_terminal_it_is_refused(
    database: ScratchDatabase, synced: PipelineConfig
) -> None:
    for options in ((), ("--drop-tables",)):
        done = run_command(synced, "teardown", *options)
        assert_readable(done, says="no terminal to ask on", hint="--yes", code=2)
    assert database.execute(WHAT_IS_THERE) == [(1, 1)]
    converge(database, synced)


def test_a_table_alone_is_not_asked_for_and_keeps_the_slot(
    database: ScratchDatabase, synced: PipelineConfig
) -> None:
    assert run_command(synced, "teardown", "--table", "public.t0").code == 0

    assert database.execute(WHAT_IS_THERE) == [(1, 1)]
    converge(database, synced)


def test_a_run_that_holds_the_warehouse_is_waited_for(
    database: ScratchDatabase, synced: PipelineConfig
) -> None:
    command = [sys.executable, "-m", "cdc_assets.cli", "teardown", "--table", "public.t0"]
    with held(synced.warehouse_path):
        asked = subprocess.Popen(
            [*command, "--config", config_path(synced)],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert asked.stderr is not None
        assert "which another process holds" in asked.stderr.readline()
    out, err = asked.communicate(timeout=120)
    assert (asked.returncode, out) == (0, "dropped mirror and checkpoint of 'public.t0'\n"), err
    converge(database, synced)


def test_where_there_is_nothing_nothing_is_asked(pipeline: MakePipeline) -> None:
    done = run_command(pipeline("public.t", create=False), "teardown")

    assert (done.code, done.out) == (0, "there was nothing to remove\n")
