"""What shaping costs, and what is kept beside a mirror: one range of WAL synced in turns."""

from __future__ import annotations

import resource
import shutil
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import psycopg
import yaml

from cdc_assets_tests.bench.workloads import TABLE, Workload

Connection = psycopg.Connection[tuple[object, ...]]

SHAPED_HEADER = """\
| shaping | without | with | ratio | ratio of processor time |
|---|---|---|---|---|"""

SHAPINGS: Mapping[str, Mapping[str, Any]] = {
    "a transform that adds a column from two others": {"transform": f"{__name__}:add_margin"},
    # true of every row, so that all of them are there to be compared
    "a condition, and masks of two columns": {
        "where": "customer_id >= 0",
        "mask": {"status": "sha256", "note": "sha256"},
    },
    "changes beside the mirror": {"keep": ["mirror", "changes"]},
    "changes and history beside the mirror": {"keep": ["mirror", "changes", "history"]},
}


def add_margin(frame: pd.DataFrame) -> pd.DataFrame:
    """Add a column that is made of two others."""
    return frame.assign(margin=frame["price"] - frame["customer_id"])


def measure_shaped(
    connection: Connection,
    config: Path,
    cdc_assets: Callable[..., object],
    workload: Workload,
    *,
    repeats: int,
) -> list[str]:
    """Measure every shaping; gives rows of a table.

    Args:
        connection: To the source, where the table is made.
        config: Of a pipeline of that table alone; its slot is `bench`.
        cdc_assets: Runs one command on it.
        workload: What is synced.
        repeats: How often.
    """
    plain = yaml.safe_load(config.read_text())
    warehouse = Path(plain["attributes"]["warehouse"]["duckdb"]["path"])
    connection.execute(TABLE)
    cdc_assets("setup")
    cdc_assets("sync")
    _copy_slot(connection, "bench", "bench_start")
    before = {"": warehouse.with_suffix(".before")}
    shutil.copy(warehouse, before[""])
    for at, (about, shaping) in enumerate(SHAPINGS.items()):
        before[about] = warehouse.with_suffix(f".before{at}")
        shutil.copy(before[""], warehouse)
        _write(config, plain, shaping)
        cdc_assets("backfill", "public.bench")
        cdc_assets("sync")  # what is kept beside the mirror begins
        shutil.copy(warehouse, before[about])
    workload.run(connection, workload.changes)
    seconds: dict[str, list[float]] = {about: [] for about in before}
    processor: dict[str, list[float]] = {about: [] for about in before}
    for _ in range(repeats):
        for about, file in before.items():
            connection.execute("SELECT pg_drop_replication_slot('bench')")
            _copy_slot(connection, "bench_start", "bench")
            shutil.copy(file, warehouse)
            _write(config, plain, SHAPINGS.get(about, {}))
            started, used = time.monotonic(), _processor_seconds()
            cdc_assets("sync")
            seconds[about].append(time.monotonic() - started)
            processor[about].append(_processor_seconds() - used)
            _refuse_lacking(connection, warehouse)
    for slot in ("bench", "bench_start"):
        connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    return [
        _row(about, _ratio(processor[about], processor[""]), seconds[""], seconds[about])
        for about in SHAPINGS
    ]


def _processor_seconds() -> float:
    """Give what commands have used so far; a busy machine tells more by it than by its clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ratio(shaped: list[float], plain: list[float]) -> float:
    return statistics.median(ours / theirs for ours, theirs in zip(shaped, plain, strict=True))


def _refuse_lacking(connection: Connection, warehouse: Path) -> None:
    """Refuse figures of a sync that did not bring every row."""
    source = connection.execute("SELECT count(*), sum(id)::bigint FROM public.bench").fetchone()
    with duckdb.connect(str(warehouse), read_only=True) as found:
        (mirror,) = found.execute("SELECT count(*), sum(id)::bigint FROM public.bench").fetchall()
    if source != mirror:
        raise SystemExit(f"the mirror is not equal: source {source}, warehouse {mirror}")


def _write(config: Path, plain: dict[str, Any], shaping: Mapping[str, Any]) -> None:
    tables = [{"source": "public.bench", **shaping}]
    config.write_text(
        yaml.safe_dump({**plain, "attributes": {**plain["attributes"], "tables": tables}})
    )


def _copy_slot(connection: Connection, slot: str, copy: str) -> None:
    connection.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", [slot, copy])


def _row(about: str, processor: float, plain: list[float], shaped: list[float]) -> str:
    cells = (
        f"{about} ({len(plain)} times)",
        f"{statistics.median(plain):.1f} s",
        f"{statistics.median(shaped):.1f} s",
        f"**{_ratio(shaped, plain):.2f}**",
        f"{processor:.2f}",
    )
    return f"| {' | '.join(cells)} |"
