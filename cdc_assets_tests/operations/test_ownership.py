"""A slot belongs to one warehouse: no other one moves it, and taking it over is said explicitly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.identifiers import quote_literal
from cdc_assets.operations.checking import find_problems
from cdc_assets.source.lock import lock_pipeline
from cdc_assets.source.ownership import mark_served, served_warehouse
from cdc_assets_tests.command_line import assert_readable, rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import config_path, kill_at
from cdc_assets_tests.syncs import converge, mirror_rows, sync_once
from cdc_assets_tests.waiting import wait_until_unlocked


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    database.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
    return pipeline("public.a", "public.b")


def at(config: PipelineConfig, path: Path) -> PipelineConfig:
    """Give the same pipeline with another warehouse."""
    return load_config(rewrite(config, warehouse={"duckdb": {"path": str(path)}}))


def slot_of(database: ScratchDatabase, config: PipelineConfig) -> tuple[Any, ...]:
    (found,) = database.execute(
        "SELECT confirmed_flush_lsn, restart_lsn, catalog_xmin FROM pg_replication_slots"
        " WHERE slot_name = %s",
        [config.source.slot],
    )
    return found


def owner(database: ScratchDatabase, config: PipelineConfig) -> str | None:
    with database.connect() as connection:
        served = served_warehouse(connection, config.source.slot)
    return served.warehouse if served else None


def marks(database: ScratchDatabase) -> int:
    ((count,),) = database.execute(
        "SELECT count(*) FROM pg_description WHERE classoid = 'pg_largeobject'::regclass"
    )
    return int(count)


@contextmanager
def unmoved(database: ScratchDatabase, config: PipelineConfig) -> Iterator[None]:
    before, files = slot_of(database, config), files_of(config)
    yield
    assert slot_of(database, config) == before
    assert files_of(config) == files


def files_of(config: PipelineConfig) -> list[Path] | None:
    """List what lies around a warehouse; a run's journal is no part of it."""
    folder = config.warehouse_path.parent
    if not folder.exists():
        return None
    return sorted(path for path in folder.rglob("*") if not path.name.endswith(".run.json"))


def assert_refused(config: PipelineConfig, *commands: str, says: str) -> None:
    for command in commands:
        done = run_command(config, command)
        if command == "status":  # its errors are part of what it shows
            done = replace(done, out="", err=done.out)
        assert_readable(done, says=says, hint="--take-over")
        assert str(config.warehouse_path) in done.err
        assert "warehouse.duckdb.path" in done.err


ALL = ("check", "sync", "status", "setup", "teardown")


def test_a_mistyped_path_is_refused_before_anything_is_made_or_moved(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    converge(database, config)
    database.execute("INSERT INTO a VALUES (2)")
    mistyped = at(config, tmp_path / "no such folder" / "shop.duckdb")

    with unmoved(database, mistyped):
        assert_refused(mistyped, *ALL, says="is its volume mounted?")

    converge(database, config)


def test_a_file_that_vanished_is_not_made_anew(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    converge(database, config)
    config.warehouse_path.rename(tmp_path / "elsewhere.duckdb")

    with unmoved(database, config):
        assert_refused(config, *ALL, says="is its volume mounted?")

    (tmp_path / "elsewhere.duckdb").rename(config.warehouse_path)
    converge(database, config)


@pytest.mark.parametrize("other", ["empty", "another pipeline's"])
def test_another_warehouse_is_refused(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path, other: str
) -> None:
    path = tmp_path / "other.duckdb"
    if other == "empty":
        duckdb.connect(str(path)).close()
    else:
        converge(database, load_config(_other_pipeline(database, config, path)))
    converge(database, config)
    database.execute("INSERT INTO a VALUES (2)")
    wrong = at(config, path)

    with unmoved(database, wrong):
        assert_refused(wrong, *ALL, says="serves another warehouse since 20")

    converge(database, config)


def _other_pipeline(database: ScratchDatabase, config: PipelineConfig, path: Path) -> Path:
    slot = f"{config.source.slot}_2"
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    return rewrite(
        config, name="other", source__slot=slot, warehouse={"duckdb": {"path": str(path)}}
    )


def test_a_warehouse_that_was_moved_goes_on(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    converge(database, config)
    database.execute("INSERT INTO a VALUES (2)")
    moved = at(config, tmp_path / "moved" / "here.duckdb")
    moved.warehouse_path.parent.mkdir()
    shutil.move(config.warehouse_path, moved.warehouse_path)

    converge(database, moved)


def test_a_warehouse_of_an_older_version_claims_its_slot(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    converge(database, config)
    database.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")  # as vacuumlo does
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("DROP TABLE _cdc.warehouse")
    database.execute("INSERT INTO a VALUES (2)")

    converge(database, config)

    assert owner(database, config) is not None
    assert_refused(at(config, tmp_path / "new.duckdb"), "sync", says="is its volume mounted?")


def test_a_warehouse_that_the_slot_has_passed_claims_no_slot_without_a_mark(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    sync_once(load_config(rewrite(config, tables=[{"source": "public.a"}])))
    shutil.copy(config.warehouse_path, tmp_path / "old.duckdb")
    database.execute("INSERT INTO a VALUES (2)")
    converge(database, config)
    database.execute("SELECT lo_unlink(oid) FROM pg_largeobject_metadata")
    old = at(config, tmp_path / "old.duckdb")

    for command in ("check", "sync"):
        assert_readable(run_command(old, command), says="past the checkpoint", hint="resync")

    assert owner(database, config) is None
    converge(database, config)
    assert owner(database, config) is not None


def test_a_take_over_is_explicit_and_refuses_the_other_from_then_on(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    converge(database, config)
    database.execute("INSERT INTO a VALUES (2)")
    new = at(config, tmp_path / "new.duckdb")

    done = run_command(new, "setup", "--take-over")

    assert (done.code, done.err) == (0, "")
    assert "serves" in done.out
    assert str(new.warehouse_path) in done.out
    database.execute("INSERT INTO a VALUES (3)")
    converge(database, new)
    assert_refused(
        config, "check", "sync", "status", "teardown", says="serves another warehouse since"
    )
    assert mirror_rows(config, "public.a", "id") == [(1,)]
    assert marks(database) == 1


def test_what_a_slot_was_taken_from_copies_anew_what_it_missed(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    converge(database, config)
    new = at(config, tmp_path / "new.duckdb")
    run_command(new, "setup", "--take-over")
    database.execute("INSERT INTO a VALUES (2); DELETE FROM b")
    converge(database, new)

    done = run_command(config, "setup", "--take-over", "--json")

    assert [line[:7] for line in done.json["done"]] == ["dropped", "dropped", "slot 's"]
    finished = converge(database, config)
    assert finished.counts.copied == 2
    again = run_command(config, "setup", "--take-over", "--json")
    assert [line[:7] for line in again.json["done"]] == ["slot 's"]
    assert converge(database, config).counts.copied == 0


def test_a_take_over_keeps_what_can_go_on(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    converge(database, config)
    run_command(at(config, tmp_path / "new.duckdb"), "setup", "--take-over")
    database.execute("INSERT INTO a VALUES (2)")

    run_command(config, "setup", "--take-over")

    finished = converge(database, config)
    assert (finished.counts.copied, finished.counts.inserted) == (0, 1)


def test_a_slot_that_was_made_by_hand_serves_the_first_that_syncs(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    assert find_problems(config) == []
    assert owner(database, config) is None
    assert kill_at(config, "chunk_read", 1)
    wait_until_unlocked(database)

    assert_refused(at(config, tmp_path / "new.duckdb"), "sync", says="is its volume mounted?")
    converge(database, config)


def test_a_teardown_takes_the_mark_along_and_setup_an_old_one(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    assert marks(database) == 1
    run_command(config, "teardown", "--drop-tables", "--yes")
    assert marks(database) == 0

    with database.connect() as connection:  # as a restored dump brings it along
        mark_served(connection, config.source.slot, "11111111-1111-1111-1111-111111111111")
    assert run_command(config, "setup").code == 0
    converge(database, config)
    assert marks(database) == 1


def test_a_pipeline_whose_slot_is_gone_is_torn_down_without_its_warehouse(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("SELECT pg_drop_replication_slot(%s)", [config.source.slot])
    config.warehouse_path.unlink()

    assert run_command(config, "teardown", "--yes").code == 0
    assert marks(database) == 0
    assert run_command(config, "setup").code == 0
    converge(database, config)


@pytest.fixture
def modest(database: ScratchDatabase, config: PipelineConfig) -> Iterator[PipelineConfig]:
    """The pipeline under a role with REPLICATION and SELECT, and nothing else."""
    role = f"modest_{database.name}"
    database.execute(
        f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'; GRANT SELECT ON a, b TO {role};"
        f"ALTER ROLE {role} SET default_transaction_read_only = on"
    )
    dsn = f"postgresql://{role}:x@127.0.0.1:{database.server.port}/{database.name}"
    try:
        yield load_config(rewrite(config, source__dsn=dsn))
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_role_without_more_rights_speaks_after_another_ones_mark(
    database: ScratchDatabase, modest: PipelineConfig
) -> None:
    with database.connect() as connection:  # an administrator's, whose clock was ahead
        oid = connection.execute("SELECT lo_create(0)").fetchone()
        assert oid is not None
        mark = {"slot": modest.source.slot, "warehouse": "x", "at": "2999-01-01T00:00:00+00:00"}
        said = json.dumps({"cdc_assets": mark})
        connection.execute(f"COMMENT ON LARGE OBJECT {oid[0]} IS {quote_literal(said)}")
    assert_refused(modest, "sync", "setup", says="is its volume mounted?")

    assert run_command(modest, "setup", "--take-over").code == 0

    assert marks(database) == 2
    converge(database, modest)
    assert run_command(modest, "teardown", "--drop-tables", "--yes").code == 0
    assert owner(database, modest) is None


@pytest.mark.parametrize(
    "said",
    [
        "{",
        "{}",
        '{"cdc_assets": 1}',
        '{"cdc_assets": {"slot": "%s"}}',
        # nobody could speak after it
        '{"cdc_assets": {"slot": "%s", "warehouse": "x", "at": "9999-12-31T23:59:59.999999Z"}}',
    ],
)
def test_a_comment_that_is_no_mark_says_nothing(
    database: ScratchDatabase, config: PipelineConfig, said: str
) -> None:
    with database.connect() as connection:
        oid = connection.execute("SELECT lo_create(0)").fetchone()
        assert oid is not None
        comment = quote_literal(said.replace("%s", config.source.slot))
        connection.execute(f"COMMENT ON LARGE OBJECT {oid[0]} IS {comment}")

    converge(database, config)


def test_a_check_writes_nothing_and_takes_no_lock(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    files = files_of(config)
    with database.connect() as other:
        lock_pipeline(other, config.source.slot)
        assert run_command(config, "check").code == 0
    assert files_of(config) == files
    assert marks(database) == 0
    converge(database, config)
    before = config.warehouse_path.read_bytes()

    assert run_command(config, "check").code == 0

    assert config.warehouse_path.read_bytes() == before


def test_a_take_over_that_is_killed_has_taken_nothing(
    database: ScratchDatabase,
    config: PipelineConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from cdc_assets.operations import ownership

    converge(database, config)
    new = at(config, tmp_path / "new.duckdb")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ownership, "mark_served", killed)
        with pytest.raises(KeyboardInterrupt):
            ownership.setup(new, take_over=True)
    assert_refused(new, "sync", says="serves another warehouse since")
    converge(database, config)

    ownership.setup(new, take_over=True)
    converge(database, new)


def test_a_sync_in_dagster_is_refused_and_not_tried_again(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    import dagster as dg

    from cdc_assets_tests.dagster_pipelines import definitions, run_sync

    converge(database, config)
    wrong = at(config, tmp_path / "new.duckdb")
    with unmoved(database, wrong), dg.DagsterInstance.ephemeral() as instance:
        result = run_sync(definitions(wrong), instance)
        assert not result.success
        (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "is its volume mounted?" in str(failure.step_failure_data)
    assert config_path(config).exists()
