"""Who runs a pipeline now, as the source knows it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from psycopg.conninfo import make_conninfo

from cdc_assets.source.connection import Connection, connect
from cdc_assets.source.lock import lock_holder, lock_pipeline
from cdc_assets_tests.database import ScratchDatabase


@pytest.fixture
def run(database: ScratchDatabase) -> Iterator[Connection]:
    """A session as a run has it."""
    with connect(make_conninfo(database.dsn, application_name="cdc-assets shop")) as connection:
        lock_pipeline(connection, "shop_cdc")
        yield connection


def test_the_holder_is_known_by_its_pid_name_and_start(
    database: ScratchDatabase, run: Connection
) -> None:
    with connect(database.dsn) as asking:
        holder = lock_holder(asking, "shop_cdc")

    assert holder is not None
    assert holder.pid == run.info.backend_pid
    assert holder.application == "cdc-assets shop"
    assert holder.since is not None
    assert timedelta(0) <= datetime.now(UTC) - holder.since < timedelta(minutes=5)
    assert f"pid {holder.pid} of 'cdc-assets shop' on the source since 2" in str(holder)


def test_a_run_that_is_gone_holds_nothing(database: ScratchDatabase, run: Connection) -> None:
    run.close()
    with connect(database.dsn) as asking:
        lock_pipeline(asking, "shop_cdc")  # returns once the server has seen it gone
        holder = lock_holder(asking, "shop_cdc")

        assert holder is not None
        assert holder.pid == asking.info.backend_pid


@pytest.mark.usefixtures("run")
def test_another_slots_run_is_not_this_ones(database: ScratchDatabase) -> None:
    with connect(database.dsn) as asking:
        assert lock_holder(asking, "other_cdc") is None


@pytest.mark.usefixtures("run")
def test_a_run_in_another_database_is_not_this_ones(database: ScratchDatabase) -> None:
    with connect(database.server.dsn()) as asking:
        assert lock_holder(asking, "shop_cdc") is None
