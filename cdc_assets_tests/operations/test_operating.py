"""check, setup, status and teardown see what a sync would see, and leave nothing half done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.operations.checking import find_problems
from cdc_assets.operations.status import read_status
from cdc_assets.replication.journal import journal_path
from cdc_assets_tests.command_line import assert_readable, rewrite, run_command
from cdc_assets_tests.conftest import SERVER_SETTINGS, MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once
from cdc_assets_tests.warehouse.test_bad_warehouse import held


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    database.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
    return pipeline("public.a", "public.b", schema_changes="stop")


@pytest.fixture
def limited(database: ScratchDatabase, config: PipelineConfig) -> Iterator[PipelineConfig]:
    """The pipeline under a role that owns nothing and may read `a` alone."""
    role = f"limited_{database.name}"
    database.execute(
        f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'; GRANT SELECT ON a TO {role}"
    )
    dsn = f"postgresql://{role}:x@127.0.0.1:{database.server.port}/{database.name}"
    try:
        yield load_config(rewrite(config, source__dsn=dsn))
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def said(config: PipelineConfig) -> list[str]:
    return [f"{problem.message}\n{problem.hint}" for problem in find_problems(config)]


def slots(database: ScratchDatabase) -> int:
    return len(
        database.execute("SELECT 1 FROM pg_replication_slots WHERE database = current_database()")
    )


def test_a_teardown_leaves_to_its_owner_the_publication_that_it_may_not_drop(
    database: ScratchDatabase, limited: PipelineConfig
) -> None:
    sync_once(limited)

    done = run_command(limited, "teardown", "--yes")

    assert done.code == 0, done
    assert "dropped slot" in done.out
    assert "to its owner 'postgres': DROP PUBLICATION" in done.out
    assert "dropped checkpoint of 'public.a'" in done.out
    assert slots(database) == 0


def test_a_teardown_touches_nothing_while_the_warehouse_is_held(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    path = str(config.warehouse_path)
    hasty = rewrite(config, warehouse={"duckdb": {"path": path, "wait_seconds": 0.2}})
    with held(config.warehouse_path):
        done = run_command(hasty, "teardown", "--yes")
        assert_readable(done, says="held by another process", hint="read a copy")
    assert slots(database) == 1
    database.execute("INSERT INTO a VALUES (2)")
    converge(database, config)


def test_a_mirror_that_outlived_its_checkpoint_stops_its_table_alone(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("DELETE FROM _cdc.checkpoints WHERE source_table = 'public.a'")
    database.execute("INSERT INTO b VALUES (2)")

    assert ["without a checkpoint" in problem for problem in said(config)] == [True]
    assert list(errors_of(sync_once(config))) == ["public.a"]
    assert mirror_rows(config, "public.b", "id") == [(1,), (2,)]
    assert run_command(config, "teardown", "--table", "public.a").out.startswith(
        "there was nothing"
    )
    done = run_command(config, "teardown", "--table", "public.a", "--drop-tables")
    assert "had no checkpoint" in done.out
    converge(database, config)


def test_a_check_finds_tables_that_the_role_may_not_read(
    database: ScratchDatabase, limited: PipelineConfig
) -> None:
    (problem,) = said(limited)
    assert "may not read table 'public.b'" in problem
    _, grants = problem.split("as the owner: ")

    database.execute(grants)

    assert said(limited) == []
    converge(database, limited)


def test_a_check_finds_what_left_a_table_behind_and_what_will(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("ALTER TABLE b ADD n numeric(4,1)")
    converge(database, config)
    database.execute("ALTER TABLE a ADD more int; UPDATE b SET n = 'NaN'")

    assert len(said(config)) == 1
    sync_once(config)

    first, second = said(config)
    assert "'public.a' was altered on the source: added 'more'" in first
    assert "left 'public.b' behind" in second
    assert "numeric(4,1)" in second


def test_a_slot_past_every_checkpoint_is_said_of_every_table_with_one_way_out(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("INSERT INTO a VALUES (2)")
    database.execute(
        "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [config.source.slot]
    )

    problems = said(config)

    assert ["past the checkpoint" in problem for problem in problems] == [True, True]
    assert all("copy every table anew" in problem for problem in problems)
    assert ["changes are gone" in table.error for table in read_status(config).tables] == [True] * 2
    assert run_command(config, "status").code == 1


def test_a_status_of_another_database_says_so(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("UPDATE _cdc.checkpoints SET identity = replace(identity, 'test_', 'x_')")

    assert ["of another server" in table.error for table in read_status(config).tables] == [
        True
    ] * 2


def test_a_status_knows_how_far_tables_are_while_the_warehouse_is_held(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    finished = converge(database, config)
    with held(config.warehouse_path):
        status = read_status(config)
        assert {table.phase for table in status.tables} == {"streaming"}
        assert {table.confirmed_lsn for table in status.tables} == {finished.confirmed_lsn}
        assert "is in use" in status.warehouse_note

        journal_path(config).unlink()
        assert {table.phase for table in read_status(config).tables} == {"unknown"}


def test_a_check_finds_that_no_slot_is_to_spare(tmp_path: Path) -> None:
    server = EmbeddedPostgres(
        tmp_path / "postgres", settings={**SERVER_SETTINGS, "max_replication_slots": "1"}
    )
    try:
        server.start()
        database = ScratchDatabase(server, "narrow")
        database.create()
        database.execute("CREATE TABLE t (id int PRIMARY KEY)")
        config = make_pipeline(database, tmp_path, "public.t")
        (problem,) = said(config)
    finally:
        server.remove()

    assert "all 1 replication slots of the source are in use" in problem


def test_a_setup_makes_the_publication_carry_every_change(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute(f"ALTER PUBLICATION {config.source.publication} SET (publish = 'insert')")

    assert "to publish insert, update, delete, truncate" in run_command(config, "setup").out

    assert said(config) == []


def test_a_setup_that_refuses_the_slot_makes_no_publication(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    config = pipeline("public.t", create=False)
    database.execute(
        "SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", [config.source.slot]
    )

    done = run_command(config, "setup")

    assert_readable(done, says="plugin 'test_decoding'", hint="another name for source.slot")
    assert database.execute("SELECT 1 FROM pg_publication") == []


def test_a_password_with_an_at_sign_that_is_not_encoded_is_not_shown(
    config: PipelineConfig,
) -> None:
    for dsn in ("postgresql://u:SEC@RET@127.0.0.1/d", "postgresql://u:SEC@RET/PW@127.0.0.1/d"):
        done = run_command(rewrite(config, source__dsn=dsn), "check")
        assert_readable(done, says="not a libpq connection", hint="percent-encoded", code=2)
        assert "RET" not in done.out + done.err


def test_mistakes_of_the_config_are_found_before_anything_is_asked(config: PipelineConfig) -> None:
    unset = rewrite(config, source__dsn={"env": "NO_SUCH_DSN"})
    assert_readable(run_command(unset, "check"), says="is not set", hint="export", code=2)
    wrong = run_command(rewrite(config, schedule="every minute"), "check")
    assert_readable(wrong, says="cron expression with five fields", hint="configuration", code=2)
    short = run_command(rewrite(config, tables=["public.a"]), "check")
    assert_readable(short, says="- source: public.a", hint="configuration", code=2)


def test_a_table_is_named_as_the_config_spells_it(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute('CREATE SCHEMA "Odd Schema"; CREATE TABLE "Odd Schema".t (id int PRIMARY KEY)')
    config = pipeline('"Odd Schema".t')
    for spelled in ('"Odd Schema".t', '"Odd Schema"."t"', "Odd Schema.t"):
        assert run_command(config, "sync", "--table", spelled).code == 0
