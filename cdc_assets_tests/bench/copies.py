"""Copies of a whole table, beside what Postgres itself takes to give its rows out."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from cdc_assets_tests.bench.workloads import TABLE, Connection, one_transaction

ROWS = 2_000_000
COPY_HEADER = """\
| work | COPY … TO STDOUT to /dev/null | cdc-assets | rate / COPY's rate | rows per second | \
seconds per million rows | peak memory |
|---|---|---|---|---|---|---|"""


def measure_copies(
    connection: Connection,
    warehouse: Path,
    dsn: str,
    run: Callable[..., int],
    *,
    repeats: int,
) -> list[str]:
    """Time a first copy, a backfill of a table that is right, and a reconcile, in turns.

    Each is a whole process, from its start until everything is committed and the warehouse closed.

    Args:
        connection: To an empty database of the server.
        warehouse: The file; the table is dropped from it before each first copy.
        dsn: Of the database, for psql.
        run: Runs a command of the command line with arguments, and gives its peak of memory.
        repeats: How often.

    Returns:
        Rows of the table under `COPY_HEADER`.
    """
    connection.execute(TABLE)
    one_transaction(connection, ROWS)
    connection.execute("VACUUM (ANALYZE, FREEZE) public.bench")
    connection.execute("CHECKPOINT")
    run("setup")
    copy = f"psql --quiet --dbname='{dsn}' --command='COPY public.bench TO STDOUT' > /dev/null"
    work = {
        "first copy": ("sync",),
        "backfill of a table that is right": ("backfill", "public.bench"),
        "reconcile": ("reconcile", "public.bench"),
    }
    copies = list[float]()
    taken: dict[str, list[tuple[float, float, int]]] = {name: [] for name in work}
    for _ in range(repeats):
        started = time.monotonic()
        subprocess.run(copy, shell=True, check=True)
        copies.append(time.monotonic() - started)
        for name, command in work.items():
            if name == "first copy" and warehouse.exists():
                run("teardown", "--table", "public.bench")
            started = time.monotonic()
            peak = run(*command)
            spent = time.monotonic() - started
            taken[name].append((spent, copies[-1] / spent, peak))
    return [_row(name, copies, one) for name, one in taken.items()]


def _row(name: str, copies: list[float], taken: list[tuple[float, float, int]]) -> str:
    spent = statistics.median(one for one, _, _ in taken)
    cells = (
        f"{name} of {ROWS:,} rows ({len(taken)} times)",
        f"{statistics.median(copies):.2f} s",
        f"{spent:.2f} s",
        f"**{statistics.median(ratio for _, ratio, _ in taken):.2f}**",
        f"{ROWS / spent:,.0f}",
        f"{spent / ROWS * 1e6:.2f}",
        f"{max(peak for _, _, peak in taken) / 1e6:,.0f} MB",
    )
    return f"| {' | '.join(cells)} |"
