"""status answers whatever goes on: while a run holds the file, without a source, without a slot."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import duckdb
import pytest
from psycopg.conninfo import make_conninfo

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import ProtocolError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.status import read_status
from cdc_assets.replication.backfill import backfill
from cdc_assets_tests.command_line import assert_readable, rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import PROJECT, at_step, config_path, held_at, kill_at
from cdc_assets_tests.shaping import functions
from cdc_assets_tests.syncs import converge, errors_of, sync_once
from cdc_assets_tests.waiting import wait_for, wait_until_unlocked

DOWN = "postgresql://u:SECRET@127.0.0.1:1/d"


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    database.execute("INSERT INTO a SELECT generate_series(1, 200); INSERT INTO b VALUES (1)")
    database.execute("ANALYZE a")
    return pipeline("public.a", "public.b", schema_changes="stop")


def test_a_status_of_a_healthy_pipeline(database: ScratchDatabase, config: PipelineConfig) -> None:
    converge(database, config)
    done = run_command(config, "status")
    assert done.code == 0
    first, *_, header, row_of_a, row_of_b = done.out.splitlines()
    assert first == "pipeline   shop: healthy"
    assert "last sync  ok, " in done.out
    assert "0 changes, 201 rows copied" in done.out
    assert header.split() == ["table", "phase", "at", "behind", "lag", "rows"]
    assert (row_of_a.split()[0], row_of_a.split()[-1]) == ("public.a", "200")
    assert (row_of_b.split()[0], row_of_b.split()[-1]) == ("public.b", "1")

    plain = run_command(config, "status", "--json").json
    assert (plain["healthy"], plain["sync"], plain["run"]["state"]) == (True, "none", "ok")
    assert [check["passed"] for check in plain["checks"]] == [True] * len(plain["checks"])


def test_a_run_that_goes_on_is_well_and_says_what_it_does(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    with held_at(config, "chunk_read", 2):
        done = run_command(config, "status")
    assert done.code == 0, done
    assert "pipeline   shop: healthy" in done.out
    assert "copies public.a, chunk " in done.out
    assert "of about 200 rows" in done.out
    assert "is in use, by the sync" in done.out

    wait_until_unlocked(database)
    converge(database, config)
    database.execute("INSERT INTO a VALUES (0)")
    with held_at(config, "before_commit", 1):
        done = run_command(config, "status")
    assert done.code == 0, done
    assert "last sync  ok, " in done.out
    assert "applies the window from " in done.out
    assert "MB to go up to " in done.out


def test_a_run_that_died_is_not_taken_for_one_that_goes_on(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("INSERT INTO a VALUES (0)")
    assert kill_at(config, "before_commit", 1)
    wait_until_unlocked(database)
    wait_for(lambda: read_status(config).evidence.life == "died", "the lack of a last word")
    done = run_command(config, "status")
    assert done.code == 1
    assert "last sync  died, last heard of " in done.out
    assert "hint: nothing is lost: the next sync goes on from the checkpoint" in done.out


def test_without_a_source_each_table_has_its_line(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    done = run_command(rewrite(config, source__dsn=DOWN), "status")
    assert done.code == 1
    assert "source     can't be asked" in done.out
    assert "error: source: the source can't be reached" in done.out
    assert done.out.count("error: ") == 1, "what can't be asked is said once"
    assert [line.split()[0] for line in done.out.splitlines() if "streaming" in line] == [
        "public.a",
        "public.b",
    ]
    assert "SECRET" not in done.out + done.err


def test_without_a_slot_each_table_has_its_line(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("SELECT pg_drop_replication_slot(%s)", [config.source.slot])
    done = run_command(config, "status")
    assert done.code == 1
    assert f"slot       {config.source.slot} does not exist" in done.out
    assert "error: wal_safe: slot " in done.out
    assert done.out.count(" streaming ") == 2


def test_what_ended_the_last_run_is_shown_with_its_way_out(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("INSERT INTO a VALUES (0)")

    def fail() -> None:
        raise ProtocolError("unknown kind", kind="?", offset=7)

    with at_step("before_commit", 1, fail), pytest.raises(ProtocolError):
        sync_once(config)

    done = run_command(config, "status")
    assert done.code == 1
    assert "error: last_sync: the last sync failed " in done.out
    assert "malformed pgoutput message '?' at byte 7" in done.out
    assert "hint: report this with the server's version" in done.out
    checked = run_command(config, "check")
    assert_readable(checked, says="the last sync failed: malformed pgoutput", hint="report this")
    converge(database, config)
    assert run_command(config, "check").code == 0
    assert run_command(config, "status").code == 0


def test_a_check_does_not_hold_against_a_pipeline_what_is_over(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    wrong = rewrite(config, source__dsn=make_conninfo(database.dsn, password="SECRET"))
    assert run_command(wrong, "sync").code == 1
    assert run_command(config, "check").code == 0
    status = run_command(config, "status")
    assert status.code == 1
    assert "refuses the connection" in status.out
    assert "SECRET" not in status.out


def test_a_table_that_was_left_behind_has_its_hint(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("ALTER TABLE a ADD x int; INSERT INTO a VALUES (0)")
    sync_once(config)
    done = run_command(config, "status")
    assert done.code == 1
    assert "pipeline   shop: 1 table failed" in done.out
    assert "error: public.a: " in done.out
    assert done.out.count("hint: copy it anew: cdc-assets backfill public.a") == 1
    (table, other) = read_status(config).tables
    assert "backfill public.a" in table.hint
    assert other.error == ""
    assert (other.lag_bytes or 0) < (table.lag_bytes or 0)  # the server writes WAL of its own


def test_a_table_that_can_not_be_shaped_has_the_hint_of_a_sync(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("ALTER TABLE a ADD long text")
    converge(database, config)
    a = {"source": "public.a", "deletes": "soft", "transform": f"{functions.MODULE}:as_it_is"}
    path = rewrite(config, tables=[a, {"source": "public.b"}])
    for _ in range(2):  # before a sync, and after one
        status = run_command(path, "status")
        assert status.code == 1
        assert "error: public.a: table 'public.a' can't be shaped: it has a transform" in status.out
        assert "hint: ALTER TABLE" in status.out
        assert "backfill" not in status.out
        assert run_command(path, "sync").code == 1


@pytest.mark.parametrize("buckets", [None, ["00"]])
def test_a_table_that_was_backfilled_is_well_at_once(
    database: ScratchDatabase, config: PipelineConfig, buckets: list[str] | None
) -> None:
    converge(database, config)
    database.execute("ALTER TABLE a ADD x int; INSERT INTO a VALUES (0)")
    sync_once(config)
    assert run_command(config, "status").code == 1
    for _ in backfill(config, TableName("public", "a"), buckets=buckets):
        pass
    for command in ("status", "check"):
        done = run_command(config, command)
        assert done.code == 0, done.out + done.err
    (table, _) = read_status(config).tables
    assert (table.phase, table.error) == ("streaming", "")


@pytest.mark.parametrize("bucket", ["", "00"])
def test_a_backfill_that_goes_on_says_what_it_does(
    database: ScratchDatabase, config: PipelineConfig, bucket: str
) -> None:
    converge(database, config)
    with held_at(config, "chunk_read", 1, work=f"backfill a {bucket}"):
        done = run_command(config, "status")
        told = run_command(config, "status", "--json").json["beside"]
    assert done.code == 0, done
    assert "last sync  ok, " in done.out
    assert "backfill   goes on for " in done.out
    assert f"reads public.a, 0 rows of its part {bucket!r}" in done.out or not bucket
    assert "reads public.a, 0 of about 200 rows so far" in done.out or bucket
    assert "is in use, by the backfill" in done.out
    assert (told["what"], told["table"], told["part"]) == ("backfill", "public.a", bucket)
    wait_until_unlocked(database)
    assert " goes on for " not in run_command(config, "status").out


def test_a_table_that_was_adopted_is_well_at_once(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("CREATE SCHEMA public; CREATE TABLE public.b AS SELECT 1::INT AS id")
    assert list(errors_of(sync_once(config))) == ["public.b"]
    assert run_command(config, "status").code == 1
    ((present,),) = database.execute("SELECT pg_current_wal_insert_lsn()::text")
    adopted = run_command(config, "adopt", "public.b", "--at-lsn", str(present))
    assert adopted.code == 0, adopted.err
    for command in ("status", "check"):
        done = run_command(config, command)
        assert done.code == 0, done.out + done.err


def test_lag_in_seconds_grows_until_a_sync(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("INSERT INTO a VALUES (0)")
    first = read_status(config).tables[0].lag_seconds
    second = read_status(config).tables[0].lag_seconds
    assert first is not None
    assert second is not None
    assert 0 < first < second < 60
    synced = time.monotonic()
    converge(database, config)
    third = read_status(config).tables[0].lag_seconds
    assert third is not None
    assert 0 <= third < time.monotonic() - synced  # of that sync, not of the one before


def test_a_watch_shows_it_again_until_ctrl_c(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    command = [sys.executable, "-m", "cdc_assets.cli", "status", "--watch"]
    for options in ([], ["--json"]):
        with subprocess.Popen(
            [*command, "--config", str(config_path(config)), *options],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as watching:
            assert watching.stdout is not None
            lines = [watching.stdout.readline() for _ in range(2)]
            watching.send_signal(signal.SIGINT)
            _, said = watching.communicate(timeout=30)
        assert (watching.returncode, said) == (0, "")
        if options:
            assert [json.loads(line)["healthy"] for line in lines] == [True, True]
        else:
            assert all(" shop: healthy; slot at " in line for line in lines)


def test_a_teardown_leaves_no_word_of_what_is_gone(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("ALTER TABLE a ADD x int; INSERT INTO a VALUES (0)")
    sync_once(config)
    assert run_command(config, "teardown", "--table", "public.a").code == 0
    left = load_config(config_path(config))
    journal = read_status(left).evidence.journal
    assert journal is not None
    assert set(journal.tables) == {"public.b"}
    assert run_command(config, "teardown", "--yes", "--drop-tables").code == 0
    assert read_status(left).evidence.journal is None
