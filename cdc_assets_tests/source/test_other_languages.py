"""A server that speaks German: what an error means does not rest on its words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.demo import account
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.errors import (
    ConnectionLostError,
    PreflightError,
    SlotNotFoundError,
    SourceBusyError,
)
from cdc_assets.lsn import LSN
from cdc_assets.source import slot as slots
from cdc_assets.source.connection import connect
from cdc_assets.source.reader import SlotReader
from cdc_assets.source.setup import setup
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import OLDER_BIN_DIR, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, sync_once

SETTINGS = {
    "fsync": "off",
    "lc_messages": "C.UTF-8",  # with LANGUAGE, which counts in any locale but C
    "max_replication_slots": "3",
    "max_connections": "20",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    own = EmbeddedPostgres(
        tmp_path_factory.mktemp("postgres"), settings=SETTINGS, bin_dir=OLDER_BIN_DIR
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(account, "_KEPT_ENVIRONMENT", (*account._KEPT_ENVIRONMENT, "LANGUAGE"))
        patch.setenv("LANGUAGE", "de")
        try:
            yield own.start()
        finally:
            own.remove()


@pytest.fixture
def german(server: EmbeddedPostgres) -> Iterator[ScratchDatabase]:
    scratch = ScratchDatabase(server, "deutsch")
    scratch.create()
    try:
        yield scratch
    finally:
        scratch.drop()


@pytest.fixture
def orders(german: ScratchDatabase, tmp_path: Path) -> PipelineConfig:
    """Read by a role that may not choose the language of its messages."""
    german.execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")
    config = make_pipeline(german, tmp_path, "public.orders")
    german.execute("DROP ROLE IF EXISTS leser")
    german.execute("CREATE ROLE leser LOGIN REPLICATION PASSWORD 'geheim' IN ROLE pg_read_all_data")
    german.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO leser")
    dsn = make_conninfo(german.dsn, user="leser", password="geheim")
    return load_config(rewrite(config, source__dsn=dsn))


def test_the_server_speaks_german(german: ScratchDatabase) -> None:
    with pytest.raises(psycopg.OperationalError, match="Passwort-Authentifizierung"):
        psycopg.connect(make_conninfo(german.dsn, password="wrong"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"password": "wrong"},
        {"user": "nobody_here"},
        {"dbname": "nothing_here"},
        {"options": "-c no_such=1"},
    ],
)
def test_a_connection_that_is_refused_is_not_one_that_is_lost(
    german: ScratchDatabase, wrong: dict[str, Any]
) -> None:
    with pytest.raises(PreflightError, match="the source refuses the connection") as raised:
        connect(make_conninfo(german.dsn, **wrong))
    assert not raised.value.retryable


def test_a_role_that_may_not_connect_is_told_which_grant_it_lacks(
    german: ScratchDatabase, orders: PipelineConfig
) -> None:
    german.execute(f"REVOKE CONNECT ON DATABASE {german.name} FROM public")
    with pytest.raises(PreflightError, match="the source refuses the connection") as raised:
        sync_once(orders)
    german.execute(raised.value.hint.removeprefix("as the database's owner: "))
    converge(german, orders)


def test_a_server_that_is_not_there_is_lost(german: ScratchDatabase) -> None:
    with pytest.raises(ConnectionLostError, match="can't be reached"):
        connect(make_conninfo(german.dsn, port=1))


def test_a_role_without_a_connection_to_spare_is_busy(
    german: ScratchDatabase, orders: PipelineConfig
) -> None:
    german.execute("ALTER ROLE leser CONNECTION LIMIT 1")
    with pytest.raises(SourceBusyError, match="no connection to spare") as raised:
        sync_once(orders)
    assert "127.0.0.1" in raised.value.message
    assert raised.value.retryable
    german.execute("ALTER ROLE leser CONNECTION LIMIT -1")
    converge(german, orders)


def test_all_slots_in_use(german: ScratchDatabase, orders: PipelineConfig, tmp_path: Path) -> None:
    converge(german, orders)
    german.execute("INSERT INTO orders VALUES (2)")
    for number in range(2):
        german.execute(f"SELECT pg_create_physical_replication_slot('taken_{number}')")
    other = make_pipeline(german, tmp_path, "public.orders", name="other", create=False)
    try:
        with pytest.raises(PreflightError, match="all replication slots"):
            sync_once(orders)
        with pytest.raises(PreflightError, match="all replication slots"):
            setup(other)
    finally:
        for number in range(2):
            german.execute(f"SELECT pg_drop_replication_slot('taken_{number}')")
    converge(german, orders)


def test_a_publication_that_was_not_there_yet(
    german: ScratchDatabase, orders: PipelineConfig
) -> None:
    german.execute("INSERT INTO orders VALUES (2)")
    ((start, end),) = german.execute(
        "SELECT confirmed_flush_lsn::text, pg_current_wal_flush_lsn()::text"
        " FROM pg_replication_slots"
    )
    with (
        SlotReader(
            conninfo=german.dsn,
            slot=orders.source.slot,
            publication="none_such",
            start_lsn=LSN.parse(start),
            target_lsn=LSN.parse(end),
            max_wal_bytes=2**30,
        ) as reader,
        pytest.raises(PreflightError, match="did not exist yet"),
    ):
        list(reader)


def test_a_slot_that_goes_while_it_is_confirmed(
    german: ScratchDatabase, orders: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    converge(german, orders)
    german.execute("INSERT INTO orders VALUES (2)")
    with connect(german.dsn) as control:
        read, name = slots.read_slot, orders.source.slot

        def read_and_drop(*arguments: Any) -> Any:
            state = read(*arguments)
            german.execute("SELECT pg_drop_replication_slot(%s)", [name])
            return state

        monkeypatch.setattr(slots, "read_slot", read_and_drop)
        ((end,),) = german.execute("SELECT pg_current_wal_flush_lsn()::text")
        with pytest.raises(SlotNotFoundError):
            slots.confirm(control, name, LSN.parse(end))
