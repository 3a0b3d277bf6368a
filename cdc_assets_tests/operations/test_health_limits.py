"""A slot on its way to be lost, on a server that gives slots up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.operations.health import HealthCheck, check_health
from cdc_assets_tests.command_line import rewrite, run_command
from cdc_assets_tests.conftest import OLDER_BIN_DIR, SERVER_SETTINGS, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import config_path
from cdc_assets_tests.syncs import converge
from cdc_assets_tests.waiting import wait_for

SEGMENT = 16 * 2**20


@pytest.fixture(scope="module", params=["newest", "older"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedPostgres]:
    """A server of its own: its limits change from test to test."""
    limits = {"max_prepared_transactions": "5", "autovacuum": "off"}
    own = EmbeddedPostgres(
        tmp_path_factory.mktemp("postgres"),
        settings={**SERVER_SETTINGS, **limits},
        bin_dir=OLDER_BIN_DIR if request.param == "older" else None,
    )
    try:
        yield own.start()
    finally:
        own.remove()


@pytest.fixture
def source(server: EmbeddedPostgres, request: pytest.FixtureRequest) -> Iterator[ScratchDatabase]:
    scratch = ScratchDatabase(server, f"d{abs(hash(request.node.name))}")
    scratch.create()
    scratch.execute("CREATE TABLE a (id int PRIMARY KEY)")
    try:
        yield scratch
    finally:
        scratch.drop()


@pytest.fixture
def config(source: ScratchDatabase, tmp_path: Path) -> PipelineConfig:
    return make_pipeline(source, tmp_path, "public.a")


def check(config: PipelineConfig, name: str) -> HealthCheck:
    return {check.name: check for check in check_health(config)}[name]


def judged(config: PipelineConfig, name: str) -> str:
    found = check(config, name)
    assert found.passed or found.hint
    return "ok" if found.passed else found.severity


def write_segment(source: ScratchDatabase) -> None:
    source.execute("SELECT pg_logical_emit_message(false, 'test', 'x')")
    source.execute("SELECT pg_switch_wal()")


def set_server(source: ScratchDatabase, **settings: str) -> None:
    """Change the server's settings, and wait until new sessions have them."""
    for name, value in settings.items():
        source.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    source.execute("SELECT pg_reload_conf()")
    for name, value in settings.items():
        wait_for(lambda name=name, value=value: shown(source, name) == value, f"the new {name}")


def shown(source: ScratchDatabase, name: str) -> str:
    ((value,),) = source.execute("SELECT current_setting(%s, true)", [name])
    return str(value)


def test_a_slot_is_watched_all_the_way_until_it_is_lost(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    set_server(source, max_slot_wal_keep_size="64MB", max_wal_size="1GB")
    converge(source, config)
    config = load_config(rewrite(config, health={"safe_wal_bytes": 3 * SEGMENT}))
    severities = []
    while (found := check(config, "wal_safe")).values["wal_status"] == "reserved":
        severities.append(judged(config, "wal_safe"))
        write_segment(source)
    assert found.values["wal_status"] == "unreserved"
    assert (found.passed, found.severity) == (False, "error")
    assert "at its next checkpoint" in found.message
    assert "run a sync now" in found.hint
    assert severities == sorted(severities, key=["ok", "warn", "error"].index)
    assert {*severities} == {"ok", "warn", "error"}

    source.execute("CHECKPOINT")
    lost = check(config, "wal_safe")
    assert (lost.passed, lost.severity, lost.values["wal_status"]) == (False, "error", "lost")
    assert "copy every table anew" in lost.hint
    lag = check(config, "slot_lag")
    assert (lag.passed, lag.severity, lag.known) == (False, "error", False)
    assert "see the check 'wal_safe'" in lag.message
    shown = run_command(config_path(config), "status")
    assert shown.code == 1
    assert "slot       lost at " in shown.out
    assert "error: slot_lag" not in shown.out
    assert " streaming " in shown.out


def test_a_slot_that_the_server_stretches_itself_for_is_well(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    set_server(source, max_slot_wal_keep_size="1GB", max_wal_size="32MB")
    while check(config, "wal_safe").values["wal_status"] == "reserved":
        write_segment(source)
    found = check(config, "wal_safe")
    assert (found.values["wal_status"], found.passed) == ("extended", True)
    assert "MB of WAL may be written before" in found.message


def test_a_threshold_of_the_config_goes_before_the_default(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    set_server(source, max_slot_wal_keep_size="1GB")
    left = check(config, "wal_safe").values["safe_wal_bytes"]
    assert isinstance(left, int)
    near = load_config(rewrite(config, health={"safe_wal_bytes": left + SEGMENT}))
    nearer = load_config(rewrite(config, health={"safe_wal_bytes": 3 * left}))
    assert [judged(one, "wal_safe") for one in (config, near, nearer)] == ["ok", "warn", "error"]

    set_server(source, max_slot_wal_keep_size="-1")
    assert "the source's disk is the limit" in check(nearer, "wal_safe").message
    assert judged(nearer, "wal_safe") == "ok"


def test_a_transaction_that_was_prepared_and_forgotten_is_named(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    source.execute("BEGIN; INSERT INTO a VALUES (77); PREPARE TRANSACTION 'forgotten'")
    try:
        strict = load_config(rewrite(config, health={"transaction_seconds": 0.000001}))
        found = check(strict, "open_transaction")
    finally:
        source.execute("ROLLBACK PREPARED 'forgotten'")
    assert not found.passed
    assert "'forgotten' of 'postgres' is prepared since" in found.message
    assert f"ROLLBACK PREPARED 'forgotten' in database '{source.name}'" in found.hint


def test_a_prepared_transaction_is_blamed_for_what_is_kept_behind_a_slot_that_moves(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    source.execute("BEGIN; INSERT INTO a VALUES (77); PREPARE TRANSACTION 'forgotten'")
    try:
        for _ in range(2):
            write_segment(source)
        converge(source, config)
        strict = load_config(rewrite(config, health={"retained_bytes": SEGMENT // 4}))
        found = check(strict, "wal_retained")
    finally:
        source.execute("ROLLBACK PREPARED 'forgotten'")
    assert not found.passed
    assert "ROLLBACK PREPARED 'forgotten'" in found.hint


def test_another_slot_that_keeps_more_is_named(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    name = f"other_{source.name}"
    source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    write_segment(source)
    for _ in range(2):  # restart_lsn moves to where a sync finds the running transactions logged
        source.execute("CHECKPOINT")
        converge(source, config)
    assert f"slot {name!r} makes it keep 1" in check(config, "wal_retained").message


def test_an_idle_timeout_is_held_against_the_schedule(
    source: ScratchDatabase, config: PipelineConfig
) -> None:
    if not source.execute(
        "SELECT 1 FROM pg_settings WHERE name = 'idle_replication_slot_timeout'"
    ):  # before 18 there is none
        assert judged(config, "idle_timeout") == "ok"
        return
    try:
        for value, severity in (("50s", "error"), ("100s", "warn"), ("1h", "ok")):
            set_server(source, idle_replication_slot_timeout=value)
            assert judged(config, "idle_timeout") == severity
        hourly = load_config(rewrite(config, schedule="0 * * * *"))
        assert judged(hourly, "idle_timeout") == "error"

        set_server(source, idle_replication_slot_timeout="1s")
        by_hand = load_config(rewrite(config, schedule=None))
        wait_for(lambda: judged(by_hand, "idle_timeout") == "error", "the slot's idleness")

        def given_up() -> bool:
            source.execute("CHECKPOINT")
            return check(config, "wal_safe").values["wal_status"] == "lost"

        wait_for(given_up, "the end of the idle slot")
        assert check(config, "wal_safe").values["invalidation_reason"] == "idle_timeout"
        assert "idle_replication_slot_timeout" in check(config, "wal_safe").hint
    finally:
        set_server(source, idle_replication_slot_timeout="0")
