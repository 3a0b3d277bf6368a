"""A slot that may fail over to a standby: nothing that the standby lacks is in the warehouse."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import pytest

from cdc_assets import waits
from cdc_assets.config import PipelineConfig
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.errors import TableError
from cdc_assets.progress import SyncFinished
from cdc_assets.replication.sync import sync
from cdc_assets_tests.conftest import SERVER_SETTINGS, make_pipeline, serve
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.replication.test_server_failures import configure
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_all, sync_once

_SETTING = "synchronized_standby_slots"
_STANDBYS = ("standby_a", "standby_b")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    directory = tmp_path_factory.mktemp("postgres")
    yield from serve(EmbeddedPostgres(directory, settings=SERVER_SETTINGS))


@pytest.fixture
def source(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScratchDatabase]:
    """A database whose server has a standby's slot that only `advance` moves."""
    monkeypatch.setattr("cdc_assets.source.window._VISIBLE_TIMEOUT_SECONDS", 0.4)
    monkeypatch.setattr("cdc_assets.source.standby._TIMEOUT_SECONDS", 0.4)
    scratch = ScratchDatabase(server, "failing_over")
    scratch.create()
    try:
        scratch.execute("SELECT pg_create_physical_replication_slot('standby_a', true)")
        configure(scratch, _SETTING, "standby_a")
        yield scratch
    finally:
        configure(scratch, _SETTING, None)
        for slot in _STANDBYS:
            scratch.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                f" WHERE slot_name = '{slot}'"
            )
        scratch.drop()


@pytest.fixture
def orders(source: ScratchDatabase, tmp_path: Path) -> PipelineConfig:
    source.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    config = make_pipeline(source, tmp_path, "public.orders", create=False)
    name = config.source.slot
    source.execute(f"CREATE PUBLICATION {name} FOR TABLE orders")
    source.execute(
        "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', failover => true)", [name]
    )
    return config


@contextmanager
def standby_up(source: ScratchDatabase, slot: str = "standby_a") -> Iterator[None]:
    """Inside the block, a standby confirms whatever is written, also by a run itself."""
    down = Event()

    def follow() -> None:
        with source.connect() as connection:
            while not down.wait(0.01):
                connection.execute(
                    "SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", [slot]
                )

    with ThreadPoolExecutor() as pool:
        following = pool.submit(follow)
        try:
            yield
        finally:
            down.set()
            following.result()


def test_what_the_standby_lacks_waits_and_is_said(
    source: ScratchDatabase, orders: PipelineConfig
) -> None:
    source.execute("INSERT INTO orders VALUES (1)")
    with standby_up(source):
        converge(source, orders)
        source.execute("INSERT INTO orders VALUES (2)")
    source.execute("SELECT pg_replication_slot_advance('standby_a', pg_current_wal_flush_lsn())")
    source.execute("INSERT INTO orders VALUES (3)")
    said: list[str] = []

    with waits.listening(said.append):
        finished = sync_all(orders)

    assert mirror_rows(orders, "public.orders", "id") == [(1,), (2,)]
    assert "standby of slot 'standby_a' (synchronized_standby_slots)" in finished.notes[0]
    assert [line.split(" to confirm")[0] for line in said] == [
        "waiting for the standby of slot 'standby_a' (synchronized_standby_slots)"
    ]
    ((beyond,),) = source.execute(
        "SELECT logical.confirmed_flush_lsn > standby.restart_lsn"
        " FROM pg_replication_slots logical, pg_replication_slots standby"
        " WHERE logical.slot_name = %s AND standby.slot_name = 'standby_a'",
        [orders.source.slot],
    )
    assert not beyond
    with standby_up(source):
        assert converge(source, orders).notes == ()
    assert mirror_rows(orders, "public.orders", "id") == [(1,), (2,), (3,)]


def test_a_window_without_changes_does_not_pass_the_standby(
    source: ScratchDatabase, orders: PipelineConfig
) -> None:
    with standby_up(source):
        converge(source, orders)
    source.execute("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 100000))")

    assert "standby_a" in sync_once(orders).notes[0]

    with standby_up(source):
        assert sync_once(orders).notes == ()


def test_a_table_is_not_copied_past_the_standby(
    source: ScratchDatabase, orders: PipelineConfig
) -> None:
    source.execute("INSERT INTO orders VALUES (1)")

    finished = sync_once(orders)

    error = errors_of(finished)["public.orders"]
    assert isinstance(error, TableError)
    assert "standby_a" in error.message
    assert "synchronized_standby_slots" in error.hint
    with standby_up(source):
        converge(source, orders)


@pytest.mark.parametrize("standby_b", ["missing", "logical", "behind"])
def test_every_standby_that_is_listed_counts(
    source: ScratchDatabase, orders: PipelineConfig, standby_b: str
) -> None:
    with standby_up(source):
        converge(source, orders)
    if standby_b == "logical":
        source.execute("SELECT pg_create_logical_replication_slot('standby_b', 'pgoutput')")
    if standby_b == "behind":
        source.execute("SELECT pg_create_physical_replication_slot('standby_b', true)")
    source.execute("INSERT INTO orders VALUES (1)")
    configure(source, _SETTING, "standby_a, standby_b")

    with standby_up(source):
        finished = sync_once(orders)

    assert "'standby_b'" in finished.notes[0]


def test_a_slot_without_failover_waits_for_no_standby(
    source: ScratchDatabase, tmp_path: Path
) -> None:
    source.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    config = make_pipeline(source, tmp_path, "public.orders")
    source.execute("INSERT INTO orders VALUES (1)")
    events = [event for event in sync(config) if isinstance(event, SyncFinished)]
    assert events[0].notes == ()
    source.execute("INSERT INTO orders VALUES (2)")
    converge(source, config)
