"""The demo without a UI: sync under load, and alterations, then compare row by row."""

from __future__ import annotations

import random
import secrets

import psycopg

from cdc_assets.config import PipelineConfig
from cdc_assets.demo.alterations import alter
from cdc_assets.demo.compare import Comparison, compare
from cdc_assets.demo.workload import Workload
from cdc_assets.operations.reporting import line
from cdc_assets.progress import TableFailed
from cdc_assets.replication.sync import sync
from cdc_assets.source.setup import setup

SYNCS_UNDER_LOAD = 4
TRANSACTIONS_PER_SECOND = 300
TRANSACTIONS_BETWEEN_SYNCS = 200


def run_once(config: PipelineConfig, dsn: str) -> int:
    """Sync a few times while the shop changes, and is altered, once more at rest, and compare.

    Returns:
        0 when every mirror equals its table, else 1.
    """
    setup(config)
    seed = secrets.randbits(32)
    with (
        psycopg.connect(dsn, autocommit=True) as owner,
        Workload(dsn, seed=seed, transactions_per_second=TRANSACTIONS_PER_SECOND) as workload,
    ):
        failed = 0
        for turn in range(1, SYNCS_UNDER_LOAD + 1):
            failed += _sync(config, f"sync {turn} under load")
            workload.wait_for(TRANSACTIONS_BETWEEN_SYNCS)
            print(f"The shop's owner: {alter(owner, random.Random(seed + turn))}", flush=True)
            workload.wait_for(TRANSACTIONS_BETWEEN_SYNCS)
    counts = workload.counts
    print(f"The shop rests after {counts.committed:,} transactions", end="")
    print(f" and {counts.rolled_back + counts.refused:,} that were rolled back.")
    failed += _sync(config, "last sync")
    comparisons = compare(config, dsn=dsn)
    print(f"\n{format_table(comparisons)}")
    return int(bool(failed) or not all(comparison.equal for comparison in comparisons))


def format_table(comparisons: list[Comparison]) -> str:
    """Lay the comparisons out as a table; below it, the first keys of what differs."""
    heads = ("table", "source rows", "warehouse rows", "differing rows", "equal")
    rows = [
        (
            str(comparison.table),
            f"{comparison.source_rows:,}",
            f"{comparison.warehouse_rows:,}",
            "?" if comparison.problem else f"{len(comparison.keys):,}",
            "yes" if comparison.equal else "NO",
        )
        for comparison in comparisons
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    laid_out = [
        f"{first:<{widths[0]}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        for first, *rest in (heads, tuple("-" * width for width in widths), *rows)
    ]
    return "\n".join([*laid_out, *(str(each) for each in comparisons if not each.equal)])


def _sync(config: PipelineConfig, title: str) -> int:
    """Run one sync, say what it does, and count the tables that failed."""
    failed = 0
    for event in sync(config):
        print(f"{title}: {line(event)}", flush=True)
        failed += isinstance(event, TableFailed)
    return failed
