"""The commands, what they print and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets_tests.command_line import assert_readable, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.interrupting import PROJECT, config_path
from cdc_assets_tests.syncs import mirror_rows


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    database.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
    return pipeline("public.a", "public.b", schema_changes="stop", create=False)


def test_from_check_to_teardown(database: ScratchDatabase, config: PipelineConfig) -> None:
    missing = run_command(config, "check")
    assert missing.code == 1
    assert missing.err.count("error: ") == missing.err.count("hint: ") >= 2

    made = run_command(config, "setup", "--json")
    assert made.code == 0
    assert len(made.json["done"]) == 2
    again = run_command(config, "setup")
    assert (again.code, again.out) == (0, "publication and slot are there already\n")
    ready = run_command(config, "check", "--json")
    assert (ready.code, ready.json["problems"]) == (0, [])

    synced = run_command(config, "sync", "--json")
    assert synced.code == 0
    assert synced.json["copied"] == 2
    assert {table["table"]: table["rows"] for table in synced.json["tables"]} == {
        "public.a": 1,
        "public.b": 1,
    }
    assert "copied chunk 1 of public.a: 1 row in" in synced.err
    assert_equal_to_source(database, config)

    status = run_command(config, "status", "--json")
    assert status.code == 0
    assert [table["phase"] for table in status.json["tables"]] == ["streaming", "streaming"]
    assert status.json["slot_lsn"] == synced.json["confirmed_lsn"]

    assert run_command(config, "teardown", "--yes", "--json").code == 0
    ((slots, publications),) = database.execute(
        "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database()),"
        " (SELECT count(*) FROM pg_publication)"
    )
    assert (slots, publications) == (0, 0)
    assert run_command(config, "teardown", "--yes").out == "there was nothing to remove\n"


def test_every_command_prints_for_people_too(config: PipelineConfig) -> None:
    for command, says in (
        ("setup", "created slot"),
        ("check", "is ready: 2 tables"),
        ("sync", "rows copied"),
        ("status", "streaming"),
        ("teardown --yes", "dropped slot"),
    ):
        done = run_command(config, *command.split())
        assert done.code == 0, done
        assert says in done.out


def test_a_status_before_the_first_sync(config: PipelineConfig) -> None:
    unmade = run_command(config, "status")
    assert (unmade.code, unmade.err) == (1, "")
    assert "does not exist" in unmade.out
    assert "hint: run 'cdc-assets setup" in unmade.out
    assert "public.b" in unmade.out
    run_command(config, "setup")

    done = run_command(config, "status", "--json")

    assert done.code == 0
    assert [table["phase"] for table in done.json["tables"]] == ["missing", "missing"]
    assert "cdc-assets sync" in done.json["warehouse_note"]


def test_one_table_and_an_lsn(database: ScratchDatabase, config: PipelineConfig) -> None:
    run_command(config, "setup")
    run_command(config, "sync")
    database.execute("INSERT INTO a VALUES (2); INSERT INTO b VALUES (2)")
    ((lsn,),) = database.execute("SELECT pg_current_wal_lsn()::text")
    database.execute("INSERT INTO a VALUES (3)")

    done = run_command(config, "sync", "--table", "public.a", "--until-lsn", lsn, "--json")

    assert done.code == 0
    assert [table["table"] for table in done.json["tables"]] == ["public.a"]
    assert mirror_rows(config, "public.a", "id") == [(1,), (2,)]
    assert mirror_rows(config, "public.b", "id") == [(1,)]
    for bad in ("--until-lsn=nonsense", "--no-such-option"):
        wrong = run_command(config, "sync", bad)
        assert wrong.code == 2
        assert "Traceback" not in wrong.err


def test_a_table_that_fails_is_said_once_and_marked(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    assert run_command(config, "setup").code == 0
    assert run_command(config, "sync").code == 0
    database.execute("ALTER TABLE b ADD COLUMN note text; INSERT INTO b VALUES (2)")

    failed = run_command(config, "sync")

    assert failed.code == 1
    assert (failed.out + failed.err).count("was altered on the source") == 1
    assert [line for line in failed.err.splitlines() if line.startswith("left public.b behind: ")]
    (marked,) = [line for line in failed.out.splitlines() if line.endswith(" FAILED")]
    assert marked.startswith("public.b ")


def test_a_torn_down_table_is_copied_anew(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    run_command(config, "setup")
    run_command(config, "sync")
    database.execute("INSERT INTO a VALUES (2)")

    done = run_command(config, "teardown", "--table", "public.a")

    assert (done.code, done.out) == (0, "dropped mirror and checkpoint of 'public.a'\n")
    synced = run_command(config, "sync", "--json")
    copied = {table["table"]: table["copied"] for table in synced.json["tables"]}
    assert copied == {"public.a": 2, "public.b": 0}
    assert_equal_to_source(database, config)


def test_mirrors_that_outlived_their_pipeline_are_not_overwritten(config: PipelineConfig) -> None:
    run_command(config, "setup")
    run_command(config, "sync")
    kept = run_command(config, "teardown", "--yes")
    assert kept.code == 0
    assert mirror_rows(config, "public.a") != []

    run_command(config, "setup")
    refused = run_command(config, "sync")
    assert_readable(refused, says="without a checkpoint", hint="rename or drop it")

    assert run_command(config, "teardown", "--drop-tables", "--yes").code == 0


def test_tables_that_are_dropped_with_the_pipeline_come_back(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    for _ in range(2):
        assert run_command(config, "setup").code == 0
        assert run_command(config, "sync").code == 0
        assert_equal_to_source(database, config)
        assert run_command(config, "teardown", "--drop-tables", "--yes").code == 0
        database.execute("UPDATE a SET id = id + 10")


def test_a_sync_works_without_dagster(config: PipelineConfig) -> None:
    run_command(config, "setup")
    program = (
        "import sys; from cdc_assets.cli import main; "
        "assert main(['sync', '--config', sys.argv[1]]) == 0; "
        "assert main(['status', '--config', sys.argv[1]]) == 0; "
        "loaded = {name.split('.')[0] for name in sys.modules}; "
        "assert not loaded & {'dagster', 'sqlalchemy'}, sorted(loaded)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(config_path(config))],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_usage_error_is_an_error_like_any_other() -> None:
    def run(*arguments: str) -> tuple[int, str]:
        program = [sys.executable, "-m", "cdc_assets.cli", *arguments]
        done = subprocess.run(
            program, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.stdout == ""
        return done.returncode, done.stderr

    code, said = run("sync", "--until-lsn", "soon", "--json")
    assert code == 2
    error = json.loads(said)
    assert error["kind"] == "UsageError"
    assert "expected an LSN like 16/B374D848, got 'soon'" in error["error"]
    assert error["hint"] == "'cdc-assets sync --help' says what it takes"
    code, said = run("bogus")
    assert code == 2
    assert said.startswith("error: argument COMMAND: invalid choice: 'bogus'")


@pytest.mark.parametrize("command", [["sql", "monitoring"], ["setup"], ["status", "--watch"]])
def test_a_result_that_nobody_reads_to_its_end_is_no_traceback(
    config: PipelineConfig, command: list[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "cdc_assets.cli",
                *command,
                "--config",
                str(config_path(config)),
            ],
            cwd=PROJECT,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_sync_whose_progress_nobody_reads_goes_on(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    assert run_command(config, "setup").code == 0
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cdc_assets.cli", "sync", "--config", str(config_path(config))],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=writing,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert done.returncode == 0
    assert "2 rows copied" in done.stdout
    assert_equal_to_source(database, config)
