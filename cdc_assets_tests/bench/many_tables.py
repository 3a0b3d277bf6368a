"""A pipeline of many tables of which few change: what a run, a check and a look cost then."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from cdc_assets.identifiers import TableName
from cdc_assets_tests.bench.workloads import ROW, TABLE, Connection

TABLES = 1_000
MANY_TABLES_HEADER = """\
| work | tables | seconds | peak memory |
|---|---|---|---|"""


def many_tables(count: int) -> list[TableName]:
    """Name the tables."""
    return [TableName("public", f"bench_{number}") for number in range(count)]


def measure_many_tables(
    connection: Connection, run: Callable[..., int], *, count: int, repeats: int
) -> list[str]:
    """Time a first copy, a sync of nothing, one of one change, `check` and `status`.

    Each is a whole process.

    Args:
        connection: To an empty database of the server.
        run: Runs a command of the command line with arguments, and gives its peak of memory.
        count: How many tables there are, of 11 columns and one row each.
        repeats: How often all but the first copy is done.

    Returns:
        Rows of the table under `MANY_TABLES_HEADER`.
    """
    for table in many_tables(count):
        connection.execute(TABLE.replace("public.bench", table.sql))
        connection.execute(f"INSERT INTO {table.sql} SELECT {ROW} FROM generate_series(1, 1) AS i")
    run("setup")
    taken = {"first copy": [_timed(run, "sync")]}
    for _ in range(repeats):
        taken.setdefault("sync, nothing changed", []).append(_timed(run, "sync"))
        connection.execute(f"UPDATE {many_tables(count)[0].sql} SET price = price + 1")
        taken.setdefault("sync, a row of one table changed", []).append(_timed(run, "sync"))
        for command in ("check", "status"):
            taken.setdefault(f"`{command}`", []).append(_timed(run, command))
    return [_row(work, count, one) for work, one in taken.items()]


def _timed(run: Callable[..., int], command: str) -> tuple[float, int]:
    started = time.monotonic()
    peak = run(command)
    return time.monotonic() - started, peak


def _row(work: str, count: int, taken: list[tuple[float, int]]) -> str:
    cells = (
        f"{work} ({len(taken)} times)",
        f"{count:,}",
        f"**{statistics.median(seconds for seconds, _ in taken):.1f} s**",
        f"{max(peak for _, peak in taken) / 1e6:,.0f} MB",
    )
    return f"| {' | '.join(cells)} |"
