"""A large table's first copy while a writer goes on: what the slot retains, how far others lag."""

from __future__ import annotations

import statistics
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import psycopg

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.identifiers import TableName
from cdc_assets.operations.ownership import setup
from cdc_assets.orchestration.execution import COPY_SECONDS
from cdc_assets.progress import SyncFinished, WindowApplied
from cdc_assets.replication.sync import sync
from cdc_assets_tests.bench.workloads import ROW, TABLE, Connection, one_transaction

ROWS = 5_000_000
LARGE, SMALL = TableName("public", "bench"), TableName("public", "beat")
UNDER_LOAD_HEADER = """\
| work | seconds | runs | transactions meanwhile | WAL written meanwhile | most WAL that the slot \
retained (restart_lsn) | most WAL not confirmed | lag of a small table, median | most |
|---|---|---|---|---|---|---|---|---|"""

_BEAT = "CREATE TABLE public.beat (id bigint PRIMARY KEY, written timestamptz NOT NULL)"
_STOP = "CREATE TABLE public.writer_stops (now bool)"
# Two transactions a turn: a beat, and a change of the large table anywhere in it
_WRITER = f"""
CREATE PROCEDURE write_on(count bigint) LANGUAGE plpgsql AS $$
DECLARE i bigint := count;
BEGIN
    WHILE NOT EXISTS (SELECT FROM public.writer_stops) LOOP
        i := i + 1;
        INSERT INTO public.beat VALUES (i, clock_timestamp());
        COMMIT;
        IF i % 4 = 0 THEN
            INSERT INTO public.bench SELECT {ROW};
        ELSIF i % 4 = 1 THEN
            DELETE FROM public.bench WHERE id = 1 + i * 7919 % count;
        ELSE
            UPDATE public.bench SET status = 'upd', amount = amount + 1
                WHERE id = 1 + i * 104729 % count;
        END IF;
        COMMIT;
        PERFORM pg_sleep(0.002);
    END LOOP;
END $$
"""
_WAL = """
SELECT pg_current_wal_lsn() - '0/0', pg_current_wal_lsn() - restart_lsn,
    pg_current_wal_lsn() - confirmed_flush_lsn
FROM pg_replication_slots WHERE slot_name = 'bench'
"""
_SAMPLE_SECONDS = 0.1


@dataclass(slots=True)
class _Measured:
    """What was seen while the copy went on; times are the clock's, which both ends share."""

    began: float = 0.0
    ended: float = 0.0
    runs: int = 0
    first_wal: int = 0
    last_wal: int = 0
    retained: int = 0
    unconfirmed: int = 0
    durable: list[tuple[int, float]] = field(default_factory=list)  # up to which LSN, and when


def measure_under_load(
    dsn: str,
    config_path: Path,
    warehouse: Path,
    compare: Callable[[Connection], None],
    *,
    rows: int,
) -> list[str]:
    """Copy the bench's table for the first time, run after run as Dagster's are, under a writer.

    The small table is in the warehouse already. A beat's lag is the time from when it was written
    to when the window that brought it was durable.

    Args:
        dsn: Of an empty database.
        config_path: Of a pipeline with both tables.
        warehouse: Its file.
        compare: Refuses a mirror of the large table that is not equal.
        rows: Of the large table.

    Returns:
        The row of the table under `UNDER_LOAD_HEADER`.
    """
    config = load_config(config_path)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in (TABLE, _BEAT, _STOP, _WRITER):
            connection.execute(statement)
        one_transaction(connection, rows)
        connection.execute("VACUUM (ANALYZE, FREEZE) public.bench")
        connection.execute("CHECKPOINT")
        setup(config)
        measured = _Measured()
        _run(config, measured, tables={SMALL})
        with _writing(connection, dsn, rows):
            _copy(config, dsn, measured)
        _run(config, measured)
        compare(connection)
        return [_row(rows, measured, _beats(connection, warehouse))]


def _copy(config: PipelineConfig, dsn: str, measured: _Measured) -> None:
    """Run after run, until the large table is in its place."""
    with _sampling(dsn, measured):
        measured.began = time.time()
        phase = ""
        while phase != "streaming":
            measured.runs += 1
            finished = _run(config, measured)
            phase = next(one.phase for one in finished.tables if one.table == LARGE)
        measured.ended = time.time()


def _run(
    config: PipelineConfig, measured: _Measured, tables: set[TableName] | None = None
) -> SyncFinished:
    """One run, with the bounds that Dagster's runs have."""
    for event in sync(config, tables=tables, copy_seconds=COPY_SECONDS):
        if isinstance(event, WindowApplied):
            measured.durable.append((int(event.end_lsn), time.time()))
    if not isinstance(event, SyncFinished):
        raise SystemExit("the run has no end")
    for failed in event.failed:
        if failed.error:
            raise failed.error
    return event


@contextmanager
def _writing(connection: Connection, dsn: str, rows: int) -> Generator[None]:
    """Have the writer at work."""

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as session:
            session.execute("CALL write_on(%s)", [rows])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        connection.execute("INSERT INTO public.writer_stops VALUES (true)")
        writer.join()


@contextmanager
def _sampling(dsn: str, measured: _Measured) -> Generator[None]:
    """Watch how much WAL there is, and how much of it the slot retains."""
    over = threading.Event()

    def look() -> None:
        with psycopg.connect(dsn, autocommit=True) as session:
            while True:
                last = over.is_set()
                for written, retained, unconfirmed in session.execute(_WAL).fetchall():
                    measured.first_wal = measured.first_wal or int(written)
                    measured.last_wal = int(written)
                    measured.retained = max(measured.retained, int(retained))
                    measured.unconfirmed = max(measured.unconfirmed, int(unconfirmed))
                if last:
                    return
                over.wait(_SAMPLE_SECONDS)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _beats(connection: Connection, warehouse: Path) -> list[tuple[int, float]]:
    """The LSN and the time of every beat, once both ends have the same ones."""
    source = connection.execute(
        "SELECT id, (extract(epoch FROM written) * 1000000)::bigint FROM public.beat ORDER BY id"
    ).fetchall()
    with duckdb.connect(str(warehouse), read_only=True) as opened:
        mirror = opened.execute(
            "SELECT id, epoch_us(written), _cdc_lsn FROM public.beat ORDER BY id"
        ).fetchall()
    if source != [(one, written) for one, written, _ in mirror]:
        raise SystemExit(f"the beats are not equal: source {len(source)}, mirror {len(mirror)}")
    return [(int(lsn), written / 1e6) for _, written, lsn in mirror]


def _row(rows: int, measured: _Measured, beats: list[tuple[int, float]]) -> str:
    ends = [end for end, _ in measured.durable]
    lags = [
        measured.durable[bisect_left(ends, lsn)][1] - written
        for lsn, written in beats
        if measured.began <= written <= measured.ended
    ]
    cells = (
        f"first copy of {rows:,} rows under a writer (once)",
        f"{measured.ended - measured.began:.1f} s",
        f"{measured.runs}",
        f"{2 * len(lags):,}",
        f"{(measured.last_wal - measured.first_wal) / 1e6:,.0f} MB",
        f"{measured.retained / 1e6:,.0f} MB",
        f"{measured.unconfirmed / 1e6:,.0f} MB",
        f"{statistics.median(lags):.1f} s",
        f"{max(lags):.1f} s",
    )
    return f"| {' | '.join(cells)} |"
