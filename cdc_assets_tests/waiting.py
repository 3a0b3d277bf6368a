"""Waits for what a test needs, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cdc_assets_tests.database import ScratchDatabase

TIMEOUT_SECONDS = 60


def wait_for(happened: Callable[[], object], what: str) -> None:
    """Return once `happened()` is true.

    Raises:
        TimeoutError: It does not happen; names `what` was waited for.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {TIMEOUT_SECONDS} s for {what}")
        time.sleep(0.01)


def wait_for_row(
    database: ScratchDatabase, sql: str, what: str, parameters: Any = None
) -> tuple[Any, ...]:
    """Return the first row of a query once it has one."""
    found: list[tuple[Any, ...]] = []
    with database.connect() as connection:

        def look() -> bool:
            found[:] = connection.execute(sql, parameters).fetchall()  # type: ignore[call-overload]
            return bool(found)

        wait_for(look, what)
    return found[0]


def wait_until_unlocked(database: ScratchDatabase) -> None:
    """Return once no run of a pipeline holds its advisory lock, nor a copy of its slot."""
    with database.connect() as connection:

        def gone() -> bool:
            (count,) = connection.execute(
                "SELECT (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                "  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
                " + (SELECT count(*) FROM pg_replication_slots"
                "  WHERE temporary AND database = current_database())"
            ).fetchone() or (1,)
            return not count

        wait_for(gone, "the end of a killed run's sessions")
