"""The slot's health is judged before it is lost, from the source and from what runs leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.operations.evidence import read_evidence
from cdc_assets.operations.health import CHECK_NAMES, HealthCheck, check_health, judge
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import held_at
from cdc_assets_tests.syncs import converge, sync_once


@pytest.fixture(params=["database", "older_database"])
def source(request: pytest.FixtureRequest) -> ScratchDatabase:
    """A database on the newest server, and one on the oldest."""
    scratch: ScratchDatabase = request.getfixturevalue(request.param)
    scratch.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    scratch.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
    return scratch


@pytest.fixture
def config(source: ScratchDatabase, tmp_path: Path) -> PipelineConfig:
    return make_pipeline(source, tmp_path, "public.a", "public.b", schema_changes="stop")


def checks(config: PipelineConfig) -> dict[str, HealthCheck]:
    return {check.name: check for check in check_health(config)}


def unwell(config: PipelineConfig) -> dict[str, str]:
    """Give what did not pass, as 'severity: message'."""
    found = checks(config).values()
    assert all(check.hint for check in found if not check.passed and check.known), found
    return {check.name: f"{check.severity}: {check.message}" for check in found if not check.passed}


def test_a_pipeline_is_well_before_its_first_sync(config: PipelineConfig) -> None:
    assert tuple(checks(config)) == CHECK_NAMES
    assert unwell(config) == {}


def with_health(config: PipelineConfig, **health: Any) -> PipelineConfig:
    return load_config(rewrite(config, health=health))


def test_a_pipeline_is_well_after_a_sync(source: ScratchDatabase, config: PipelineConfig) -> None:
    converge(source, config)
    assert unwell(config) == {}
    assert checks(config)["slot_lag"].values["lag_bytes"] < 1_000_000


def test_a_source_that_does_not_answer_is_the_one_thing_that_is_known(
    config: PipelineConfig,
) -> None:
    down = load_config(rewrite(config, source__dsn="postgresql://u:SECRET@127.0.0.1:1/d"))
    found = checks(down)
    assert tuple(found) == CHECK_NAMES
    assert "can't be reached" in found["source"].message
    assert "host and port" in found["source"].hint
    assert {name for name, check in found.items() if not check.known} == {*CHECK_NAMES} - {"source"}
    assert "SECRET" not in str(found)


def test_a_slot_that_is_not_there_is_an_error(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    source.execute("SELECT pg_drop_replication_slot(%s)", [config.source.slot])
    check = checks(config)["wal_safe"]
    assert (check.passed, check.severity) == (False, "error")
    assert "does not exist" in check.message
    assert check.hint.startswith("run 'cdc-assets setup'")


def test_what_a_table_lacks_and_what_was_altered_is_found(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(source, config)
    source.execute(f"ALTER PUBLICATION {config.source.publication} DROP TABLE b")
    source.execute("ALTER TABLE a ADD x int")
    found = unwell(config)
    assert found["publication"].startswith("error: table 'public.b' is not in publication")
    assert found["schema_drift"].startswith("error: table 'public.a' was altered")
    assert "backfill public.a" in checks(config)["schema_drift"].hint


@pytest.mark.parametrize(
    ("done", "says", "way"),
    [
        ("DROP TABLE a", "'public.a' was dropped on the source", "teardown --table public.a"),
        ("ALTER TABLE a RENAME TO c", "'public.a' is called 'public.c'", 'RENAME TO "a"'),
    ],
)
def test_a_table_that_is_gone_is_not_taken_for_a_mistyped_one(
    source: ScratchDatabase, config: PipelineConfig, done: str, says: str, way: str
) -> None:
    converge(source, config)
    source.execute(done)
    check = checks(config)["publication"]
    assert (check.passed, check.severity) == (False, "error")
    assert says in check.message
    assert way in check.hint


def test_lag_is_judged_in_wal_and_in_time(source: ScratchDatabase, config: PipelineConfig) -> None:
    converge(source, config)
    source.execute("INSERT INTO a SELECT n FROM generate_series(2, 20000) n")

    lag = checks(config)["slot_lag"].values["lag_bytes"]
    assert isinstance(lag, int)
    assert "slot_lag" not in unwell(with_health(config, lag_bytes=lag * 2))
    assert unwell(with_health(config, lag_bytes=lag * 2 // 3))["slot_lag"].startswith("warn: ")
    assert unwell(with_health(config, lag_bytes=lag // 3))["slot_lag"].startswith("error: ")

    late = unwell(with_health(config, lag_seconds=0.0001))["slot_lag"]
    assert "lack what was committed in the last" in late
    retained = with_health(config, retained_bytes=lag // 3)
    assert unwell(retained)["wal_retained"].startswith("error: ")
    assert "slot_lag" in checks(retained)["wal_retained"].hint


def test_a_run_that_goes_on_silences_the_warning_but_not_the_error(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(source, config)
    source.execute("INSERT INTO a SELECT n FROM generate_series(2, 20000) n")
    lag = checks(config)["slot_lag"].values["lag_bytes"]
    assert isinstance(lag, int)
    with held_at(config, "before_commit", 1):
        assert unwell(with_health(config, lag_bytes=lag * 2 // 3)) == {}
        much = with_health(config, lag_bytes=lag // 3)
        assert set(unwell(much)) == {"slot_lag"}
        assert "at work on it" in checks(much)["slot_lag"].hint


def test_syncs_that_do_not_move_the_slot_are_found(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(source, config)
    source.execute("ALTER TABLE a ADD x int; INSERT INTO a VALUES (2); INSERT INTO b VALUES (2)")
    sync_once(config)

    found = unwell(with_health(config, lag_seconds=0.0001))
    assert "though syncs ran, it waits for public.a" in found["slot_moving"]
    assert "left 'public.a' behind" in found["last_sync"]
    assert "(public.a lacks most)" in found["slot_lag"]


def test_a_slot_in_danger_that_waits_for_a_table_is_saved_by_that_table(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(source, config)
    source.execute("ALTER TABLE a ADD x int; INSERT INTO a VALUES (2)")
    sync_once(config)
    evidence = read_evidence(config)
    assert evidence.slot is not None
    endangered = replace(evidence.slot, wal_status="unreserved", safe_wal_bytes=-1)
    found = judge(config, replace(evidence, slot=endangered))
    (check,) = [check for check in found if check.name == "wal_safe"]
    assert check.severity == "error"
    assert "waits for public.a: copy it anew: cdc-assets backfill public.a" in check.hint


def test_the_oldest_open_transaction_is_named(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    with closing(psycopg.connect(source.dsn, application_name="forgotten")) as writer:
        writer.execute("INSERT INTO a VALUES (77)")
        (pid,) = writer.execute("SELECT pg_backend_pid()").fetchone() or (0,)
        check = checks(with_health(config, transaction_seconds=0.000001))["open_transaction"]
    assert (check.passed, check.severity, check.values["pid"]) == (False, "error", pid)
    assert f"pid {pid} ('forgotten') has a transaction open" in check.message
    assert "idle in transaction" in check.message
    assert f"pg_terminate_backend({pid})" in check.hint
    assert "77" not in check.message.replace(str(pid), "")


@pytest.fixture
def limited(source: ScratchDatabase, config: PipelineConfig) -> Iterator[PipelineConfig]:
    """The pipeline under a role that has what a sync needs and no more."""
    role = f"limited_{source.name}"
    source.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'")
    source.execute(f"GRANT SELECT ON a, b TO {role}")
    dsn = f"postgresql://{role}:x@127.0.0.1:{source.server.port}/{source.name}"
    try:
        yield load_config(rewrite(config, source__dsn=dsn))
    finally:
        source.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_role_of_few_rights_sees_what_it_may(
    source: ScratchDatabase, limited: PipelineConfig
) -> None:
    converge(source, limited)
    with closing(psycopg.connect(source.dsn)) as writer:
        writer.execute("INSERT INTO a VALUES (77)")
        found = checks(limited)
    assert {check.name for check in found.values() if not check.passed} == set()
    assert not found["open_transaction"].known
    assert "pg_read_all_stats" in found["open_transaction"].message
    assert "folder_bytes" not in found["wal_retained"].values
