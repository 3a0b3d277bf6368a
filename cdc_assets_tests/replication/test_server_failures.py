"""A server that crashes, hides commits, runs out of slots or throws WAL away."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import duckdb
import psycopg
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.errors import ConnectionLostError, ReplicationError, SourceChangedError
from cdc_assets.operations.removal import forget_tables
from cdc_assets.source.setup import setup
from cdc_assets.steps import Step
from cdc_assets_tests.command_line import assert_readable, rewrite, run_command
from cdc_assets_tests.conftest import SERVER_SETTINGS, make_pipeline, serve
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, make_small
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, has_mirror, mirror_rows, sync_once
from cdc_assets_tests.waiting import wait_for, wait_for_row

SETTINGS = {**SERVER_SETTINGS, "max_replication_slots": "4"}
_WAITS_FOR_STANDBY = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
_SLOTS = """
SELECT 1 FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL AND temporary = %s
"""
_WAITS_FOR = """
SELECT 1 FROM pg_locks waits JOIN pg_locks held USING (transactionid)
WHERE NOT waits.granted AND held.granted AND held.pid = %s
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server of these tests alone."""
    directory = tmp_path_factory.mktemp("postgres")
    yield from serve(EmbeddedPostgres(directory, settings=SETTINGS))


@pytest.fixture
def fragile(server: EmbeddedPostgres) -> Iterator[ScratchDatabase]:
    """A database on it."""
    scratch = ScratchDatabase(server, "fragile")
    scratch.create()
    try:
        yield scratch
    finally:
        server.start()  # again, if it was crashed
        scratch.drop()


@pytest.fixture
def ledger(
    fragile: ScratchDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> PipelineConfig:
    make_small(monkeypatch.setattr)
    create_ledger(fragile)
    return make_pipeline(fragile, tmp_path, *TABLES)


@pytest.fixture
def orders(fragile: ScratchDatabase, tmp_path: Path) -> PipelineConfig:
    fragile.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    return make_pipeline(fragile, tmp_path, "public.orders")


def configure(database: ScratchDatabase, setting: str, value: str | None) -> None:
    """Change a setting of the running server; None takes it back."""
    with database.connect() as connection:
        what = f"SET {setting} = '{value}'" if value is not None else f"RESET {setting}"
        connection.execute(f"ALTER SYSTEM {what}")  # type: ignore[call-overload]
        connection.execute("SELECT pg_reload_conf()")
    shown = "SELECT 1 FROM pg_settings WHERE name = %s AND (setting = %s OR %s::text IS NULL)"
    wait_for(lambda: database.execute(shown, [setting, value, value]), f"{setting} to be set")


@pytest.mark.parametrize("step", ["chunk_read", "chunk_staged", "window_read", "window_committed"])
def test_a_crash_of_the_server_within_a_run_is_made_good_by_the_next(
    server: EmbeddedPostgres, fragile: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    Writer(fragile, seed=5).commit(60)

    with pytest.raises(ConnectionLostError) as raised, at_step(step, 2, server.kill):
        sync_once(ledger)

    assert raised.value.retryable
    server.start()
    Writer(fragile, seed=6).commit(20)
    converge(fragile, ledger)


def test_a_slot_that_a_crash_took_back_gives_nothing_twice(
    server: EmbeddedPostgres, fragile: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(fragile, ledger)
    fragile.execute("CHECKPOINT")
    for seed in (7, 8):
        Writer(fragile, seed=seed).commit(60)
        confirmed = converge(fragile, ledger).confirmed_lsn
    server.kill()
    server.start()
    ((behind,),) = fragile.execute(
        "SELECT confirmed_flush_lsn < %s::pg_lsn FROM pg_replication_slots", [str(confirmed)]
    )
    assert behind
    fragile.execute("INSERT INTO lines VALUES (-1, 1, 1)")

    finished = converge(fragile, ledger)

    assert finished.counts.total == finished.counts.inserted == 1


def test_a_slot_that_a_crash_took_back_to_before_a_copy_is_read_again(
    server: EmbeddedPostgres, fragile: ScratchDatabase, ledger: PipelineConfig
) -> None:
    """What the copy has seen is no other history."""
    converge(fragile, ledger)
    fragile.execute("CHECKPOINT")
    Writer(fragile, seed=9).commit(60)
    converge(fragile, ledger)
    forget_tables(ledger, ledger.table_names)
    confirmed = converge(fragile, ledger).confirmed_lsn
    server.kill()
    server.start()
    behind = "SELECT 1 FROM pg_replication_slots WHERE confirmed_flush_lsn < %s::pg_lsn"
    assert fragile.execute(behind, [str(confirmed)])
    Writer(fragile, seed=10).commit(5)

    converge(fragile, ledger)


@pytest.mark.parametrize("copied", [True, False], ids=["after the copy", "before the copy"])
def test_a_commit_that_waits_for_a_standby_is_applied_once_the_source_shows_it(
    fragile: ScratchDatabase,
    orders: PipelineConfig,
    monkeypatch: pytest.MonkeyPatch,
    copied: bool,
) -> None:
    monkeypatch.setattr("cdc_assets.source.window._VISIBLE_TIMEOUT_SECONDS", 0.3)
    fragile.execute("INSERT INTO orders VALUES (1)")
    if copied:
        converge(fragile, orders)
    configure(fragile, "synchronous_standby_names", "none_such")
    waiter = Thread(target=fragile.execute, args=["INSERT INTO orders VALUES (2)"])
    waiter.start()
    try:
        wait_for_row(
            fragile,
            _WAITS_FOR_STANDBY,
            "a commit that waits for a standby",
        )
        fragile.execute("SET synchronous_commit = local; INSERT INTO orders VALUES (3)")
        for _ in range(2):
            finished = sync_once(orders)
            assert "which the source does not show yet" in finished.notes[0]
            assert finished.failed == ()
            if has_mirror(orders, "public.orders"):
                assert (2,) not in mirror_rows(orders, "public.orders", "id")
            else:
                assert not copied
    finally:
        configure(fragile, "synchronous_standby_names", None)
        waiter.join()

    assert converge(fragile, orders).notes == ()


def test_rows_without_a_mirror_stand_before_a_commit_that_their_snapshot_does_not_show(
    fragile: ScratchDatabase, orders: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its record is in the WAL before the snapshot was taken."""
    monkeypatch.setattr("cdc_assets.source.window._VISIBLE_TIMEOUT_SECONDS", 0.3)
    table = {"source": "public.orders", "keep": ["changes"]}
    config = load_config(rewrite(orders, tables=[table]))
    fragile.execute("INSERT INTO orders VALUES (1)")
    configure(fragile, "synchronous_standby_names", "none_such")
    waiter = Thread(target=fragile.execute, args=["DELETE FROM orders"])
    waiter.start()
    try:
        wait_for_row(fragile, _WAITS_FOR_STANDBY, "a commit that waits for a standby")
        fragile.execute("SET synchronous_commit = local; INSERT INTO orders VALUES (3)")
        assert sync_once(config).failed == ()
    finally:
        configure(fragile, "synchronous_standby_names", None)
        waiter.join()

    assert sync_once(config).failed == ()

    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        told = warehouse.execute(
            "SELECT _cdc_op, id, _cdc_before.id FROM public.orders__changes"
            " ORDER BY _cdc_lsn, _cdc_seq"
        ).fetchall()
    assert sorted(told[:2]) == [("snapshot", 1, None), ("snapshot", 3, None)]
    assert told[2:] == [("delete", None, 1)]


@pytest.mark.parametrize("shown", ["in time", "too late"])
def test_a_commit_that_waits_for_a_standby_while_the_slot_is_made_is_not_lost(
    fragile: ScratchDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    """Its commit record is before the slot's start, and a copy would not see it yet."""
    seconds = {"in time": 60.0, "too late": 3.0}[shown]
    monkeypatch.setattr("cdc_assets.source.setup._SLOT_TIMEOUT_SECONDS", seconds)
    fragile.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    config = make_pipeline(fragile, tmp_path, "public.orders", create=False)
    fragile.execute(f"CREATE PUBLICATION {config.source.publication} FOR TABLE orders")
    configure(fragile, "synchronous_standby_names", "none_such")
    waiter = Thread(target=fragile.execute, args=["INSERT INTO orders VALUES (2)"])
    with ThreadPoolExecutor() as pool, fragile.connect() as first, fragile.connect() as second:
        # The server's snapshot builder waits for `first`, then for all that began before its end,
        # here `second`. What begins later is to be decoded, but for what has a commit record before
        # the end of `second`.
        for connection in (first, second):
            connection.execute("SET synchronous_commit = local")
            connection.autocommit = False
        first.execute("SELECT pg_current_xact_id()")
        made = pool.submit(setup, config)
        try:
            wait_for_row(fragile, _WAITS_FOR, "the slot to wait", [first.info.backend_pid])
            second.execute("SELECT pg_current_xact_id()")
            first.commit()
            wait_for_row(fragile, _WAITS_FOR, "the slot to wait", [second.info.backend_pid])
            waiter.start()
            wait_for_row(fragile, _WAITS_FOR_STANDBY, "a commit that waits for a standby")
            second.commit()
            wait_for_row(fragile, _SLOTS, "the server to have made a slot", [True])
            assert not fragile.execute(_SLOTS, [False])
            if shown == "too late":
                with pytest.raises(ReplicationError, match="its commit waits for a standby"):
                    made.result()
        finally:
            configure(fragile, "synchronous_standby_names", None)
            waiter.join()

    assert len(setup(config) if shown == "too late" else made.result()) == 1
    converge(fragile, config)
    assert mirror_rows(config, "public.orders", "id") == [(2,)]


def test_asynchronous_commits_just_before_a_run_are_in_it(
    fragile: ScratchDatabase, orders: PipelineConfig
) -> None:
    for number in range(5):
        fragile.execute(f"SET synchronous_commit = off; INSERT INTO orders VALUES ({number})")
        converge(fragile, orders)


def test_a_run_without_a_spare_slot_says_so(
    fragile: ScratchDatabase, orders: PipelineConfig
) -> None:
    converge(fragile, orders)
    fragile.execute("INSERT INTO orders VALUES (1)")
    for number in range(3):
        fragile.execute(f"SELECT pg_create_physical_replication_slot('taken_{number}')")

    done = run_command(orders, "sync")

    for number in range(3):
        fragile.execute(f"SELECT pg_drop_replication_slot('taken_{number}')")
    assert_readable(done, says="all replication slots", hint="max_replication_slots")
    converge(fragile, orders)


def test_a_lost_slot_says_so_until_everything_is_copied_anew(
    fragile: ScratchDatabase, orders: PipelineConfig
) -> None:
    converge(fragile, orders)
    fragile.execute("INSERT INTO orders VALUES (1)")
    configure(fragile, "max_slot_wal_keep_size", "1")
    try:

        def lost() -> bool:
            fragile.execute("CREATE TABLE filler AS SELECT generate_series(1, 100) AS n")
            fragile.execute("DROP TABLE filler")
            fragile.execute("SELECT pg_switch_wal()")
            fragile.execute("CHECKPOINT")
            status = "SELECT 1 FROM pg_replication_slots WHERE wal_status = 'lost'"
            return bool(fragile.execute(status))

        wait_for(lost, "the slot to be lost")
    finally:
        configure(fragile, "max_slot_wal_keep_size", None)

    way_out = "cdc-assets resync"
    for command in ("sync", "check", "setup"):
        assert_readable(run_command(orders, command), says="was invalidated", hint=way_out)
    status = run_command(orders, "status")
    assert status.code == 1
    assert way_out in status.out
    assert mirror_rows(orders, "public.orders") == []
    assert run_command(orders, "resync", "--yes").code == 0
    converge(fragile, orders)


def test_a_warehouse_of_another_server_is_refused(
    fragile: ScratchDatabase, orders: PipelineConfig
) -> None:
    """As if the source had been replaced: another system, or WAL that ends before ours."""
    converge(fragile, orders)
    for change, says in (
        ("identity = replace(identity, '\"timeline\": 1', '\"timeline\": 2')", "timeline 2"),
        ("lsn = lsn + 1000000000000", "restored from an older copy"),
    ):
        with duckdb.connect(str(orders.warehouse_path)) as warehouse:
            kept = warehouse.execute("SELECT identity, lsn FROM _cdc.checkpoints").fetchall()[0]
            warehouse.execute(f"UPDATE _cdc.checkpoints SET {change}")
        assert_readable(run_command(orders, "sync"), says=says, hint="cdc-assets resync")
        with duckdb.connect(str(orders.warehouse_path)) as warehouse:
            warehouse.execute("UPDATE _cdc.checkpoints SET identity = ?, lsn = ?", kept)
    converge(fragile, orders)


def test_a_server_whose_log_is_not_logical(server: EmbeddedPostgres, tmp_path: Path) -> None:
    database = ScratchDatabase(server, "replica")
    database.create()
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    config = make_pipeline(database, tmp_path, "public.orders", create=False)
    server.stop()
    lesser = EmbeddedPostgres(server.cluster.parent, settings={**SETTINGS, "wal_level": "replica"})
    try:
        lesser.start()
        with psycopg.connect(database.dsn) as connection:
            assert connection.execute("SHOW wal_level").fetchone() == ("replica",)
        for command in ("setup", "sync"):
            done = run_command(config, command)
            assert_readable(done, says="wal_level is 'replica'", hint="wal_level = logical")
        done = run_command(config, "check", "--json")
        assert done.code == 1
        problems = [problem["error"] for problem in done.json["problems"]]
        assert any("wal_level" in problem for problem in problems)
        assert any("does not exist" in problem for problem in problems)
    finally:
        server.start()
        database.drop()


def test_a_standby_as_source(server: EmbeddedPostgres, tmp_path: Path) -> None:
    database = ScratchDatabase(server, "standby")
    database.create()
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    config = make_pipeline(database, tmp_path, "public.orders")
    signal_file = server.cluster / "standby.signal"
    server.stop()
    try:
        signal_file.touch()
        server.start()
        for command in ("check", "setup", "sync"):
            done = run_command(config, command)
            assert_readable(done, says="the source is a standby", hint="name the primary")
    finally:
        server.stop()
        signal_file.unlink()
        server.start()
        database.drop()


def test_a_source_that_was_restored_to_before_an_idle_stretch_is_refused(
    server: EmbeddedPostgres, fragile: ScratchDatabase, orders: PipelineConfig
) -> None:
    """The checkpoint had moved on over WAL of other tables: no transaction there is known."""
    fragile.execute("CREATE TABLE elsewhere (x text); INSERT INTO orders VALUES (1)")
    converge(fragile, orders)
    converge(fragile, orders)
    copy = server.cluster.with_name("copy")
    server.stop()
    subprocess.run(["cp", "-a", server.cluster, copy], check=True)
    server.start()
    fragile.execute("INSERT INTO elsewhere SELECT repeat('x', 500) FROM generate_series(1, 3000)")
    converge(fragile, orders)
    server.stop()
    shutil.rmtree(server.cluster)
    copy.rename(server.cluster)
    server.start()

    fragile.execute("INSERT INTO orders VALUES (2)")
    fragile.execute("INSERT INTO elsewhere SELECT repeat('x', 500) FROM generate_series(1, 9000)")

    with pytest.raises(SourceChangedError, match="restored from an older copy"):
        sync_once(orders)
    assert mirror_rows(orders, "public.orders", "id") == [(1,)]
