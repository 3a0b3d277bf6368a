"""A connection that stays up and delivers nothing, and one that is only slow."""

from __future__ import annotations

import time
from typing import Any

import pytest

from cdc_assets import waits
from cdc_assets.config import load_config
from cdc_assets.errors import SourceSilentError
from cdc_assets.source import arrow, liveness
from cdc_assets.source.arrow import ArrowSession
from cdc_assets.source.connection import connect
from cdc_assets.steps import Step
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, make_small
from cdc_assets_tests.proxy import frozen_later
from cdc_assets_tests.syncs import converge, sync_once
from cdc_assets_tests.waiting import wait_until_unlocked


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(liveness, "GIVE_UP_SECONDS", 0.6)
    monkeypatch.setattr(liveness, "PROBE_SECONDS", 1)
    monkeypatch.setattr(arrow, "_CANCEL_SECONDS", 0.3)
    make_small(monkeypatch.setattr)


@pytest.mark.parametrize(
    ("step", "new_pass"),
    [
        ("chunk_read", True),
        ("chunk_staged", True),
        ("window_read", True),
        ("window_committed", True),
        ("chunk_read", False),
        ("window_committed", False),
    ],
)
def test_a_frozen_connection_ends_the_run_in_bounded_time(
    database: ScratchDatabase, pipeline: MakePipeline, step: Step, new_pass: bool
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    config = pipeline("public.orders", max_wal_bytes=1_048_576)
    if step.startswith("window"):
        converge(database, config)
    rows = "SELECT g, repeat('x', 500) FROM generate_series(%s::int, %s) g"
    for number in range(5):
        database.execute(f"INSERT INTO orders {rows}", [number * 1000, number * 1000 + 999])

    with frozen_later(database.dsn, new_pass=new_pass) as (proxy, dsn):
        through = load_config(rewrite(config, source__dsn=dsn))
        started = time.monotonic()
        with (
            at_step(step, 1, proxy.freeze),
            pytest.raises(SourceSilentError, match="the connection to the source is dead") as end,
        ):
            sync_once(through)
        assert time.monotonic() - started < 20
        assert end.value.retryable
        if new_pass:
            assert "waits for us" in end.value.message
            wait_until_unlocked(database)  # though the proxy is stuck still

    wait_until_unlocked(database)
    converge(database, config)


class _Sessions:
    """Both kinds of session, as one that runs a statement."""

    def __init__(self, kind: str, dsn: str) -> None:
        self._session: Any = connect(dsn) if kind == "control" else ArrowSession(dsn)

    def __enter__(self) -> Any:
        return self._session.__enter__()

    def __exit__(self, *error: object) -> None:
        self._session.__exit__(*error)


@pytest.mark.parametrize("kind", ["control", "Arrow"])
def test_a_statement_that_takes_long_is_waited_for_and_says_who_holds_it_up(
    database: ScratchDatabase, kind: str
) -> None:
    said: list[str] = []
    with _Sessions(kind, database.dsn) as session, waits.listening(said.append):
        session.execute("SELECT pg_sleep(1.5)")
        assert said == ["waiting for the source to answer a statement"]
        said.clear()
        with database.connect() as other:
            other.autocommit = False
            other.execute("SELECT pg_advisory_xact_lock(1)")

            def let_go(what: str) -> None:
                said.append(what)
                other.rollback()

            with waits.listening(let_go):
                session.execute("SELECT pg_advisory_lock(1)")
            pid = other.info.backend_pid
        assert f"held up by pid {pid} on the source" in said[0]
