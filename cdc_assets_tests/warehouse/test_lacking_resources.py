"""What the source lacks is named, and where; a signal that DuckDB hides is one all the same."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from cdc_assets.errors import CdcError, ConnectionLostError, ReplicationError, SourceBusyError
from cdc_assets.source.arrow import ArrowSession
from cdc_assets.source.connection import connect
from cdc_assets.warehouse.file import DuckDBFile
from cdc_assets_tests.database import ScratchDatabase

_RAISE = "DO $$ BEGIN RAISE EXCEPTION 'nicht genug' USING ERRCODE = '{state}'; END $$"


@pytest.mark.parametrize("kind", ["control", "Arrow"])
@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        ("53100", ReplicationError, "the disk of the source at 127.0.0.1:"),
        ("53200", SourceBusyError, "out of memory"),
        ("53300", SourceBusyError, "no connection to spare"),
        ("57P01", ConnectionLostError, "broke"),
        ("58030", ReplicationError, "can't read or write its files"),
    ],
)
def test_what_the_source_lacks_is_named_and_where(
    database: ScratchDatabase, kind: str, state: str, error: type[CdcError], says: str
) -> None:
    session: Any = connect(database.dsn) if kind == "control" else ArrowSession(database.dsn)
    with session, pytest.raises(error, match=says) as raised:
        session.execute(_RAISE.format(state=state))
    assert raised.value.hint
    assert f"127.0.0.1:{database.server.port}/{database.name}" in raised.value.message
    assert "postgresql://" not in raised.value.message


def test_a_signal_within_a_statement_of_the_warehouse_is_an_interruption(tmp_path: Path) -> None:
    class OfDagsterError(BaseException):
        """What a signal raises in a run of Dagster."""

    def stop(*_: object) -> None:
        raise OfDagsterError

    before = signal.signal(signal.SIGUSR1, stop)
    mirrors = DuckDBFile(tmp_path / "w.duckdb")
    try:
        with pytest.raises(KeyboardInterrupt), mirrors.transaction():
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            mirrors.connection.execute(
                "SELECT count(*) FROM range(20000) a, range(20000) b WHERE a.range * b.range = 3"
            ).fetchall()
    finally:
        signal.signal(signal.SIGUSR1, before)
        mirrors.close()
