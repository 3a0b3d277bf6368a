"""Traces rows of kept tables to runs, by the queries of the documentation."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName, record_table
from cdc_assets_tests.syncs import query

PAGE = Path(__file__).resolve().parents[1] / "docs" / "lineage.md"
# A row's place in the stream, and whether it was read
Place = tuple[TableName, int, bool]


def documented() -> list[str]:
    """Give the queries of the page, in its order: of a mirror, of a change table, of columns."""
    parts = PAGE.read_text().split("```")
    return [part.removeprefix("sql\n") for part in parts if part.startswith("sql\n")]


def kept_tables(config: PipelineConfig) -> Iterable[tuple[TableName, str, str]]:
    """Give every kept table with its column of LSNs, and what tells that a row was read."""
    for table in config.tables:
        if table.keeps_mirror:
            yield table.name, "_cdc_lsn", "_cdc_commit_ts IS NULL"
        for keep in table.records:
            lsn = "_cdc_lsn" if keep == "changes" else "_cdc_valid_from_lsn"
            yield record_table(table.name, keep), lsn, "_cdc_source <> 'stream'"


def traced(config: PipelineConfig) -> dict[Place, str | None]:
    """Trace the rows of all kept tables to the ids of runs; None for a row of no run."""
    found: dict[Place, str | None] = {}
    of_mirror = documented()[0]
    assert "WHERE o.id = 42" in of_mirror
    for name, lsn, is_read in kept_tables(config):
        of_all = (
            of_mirror.replace("public.orders", str(name))
            .replace(f"FROM {name} AS o", f"FROM {name.sql} AS o")
            .replace("WHERE o.id = 42\n", "")
            .replace("ORDER BY w.committed_at DESC LIMIT 1", "")
            .replace("o._cdc_commit_ts,", f"o.{is_read},")
            .replace("WHEN o._cdc_commit_ts IS NULL", f"WHEN o.{is_read}")
            .replace("o._cdc_lsn", f"o.{lsn}")
            .rstrip(";\n ")
        )
        rows = query(
            config,
            f"SELECT lsn, is_read, run FROM ({of_all}) AS t (lsn, is_read, run, kind, noted, code)"
            " QUALIFY row_number() OVER (PARTITION BY lsn, is_read ORDER BY noted DESC) = 1",
        )
        found |= {(name, row[0], row[1]): row[2] for row in rows}
    return found


def windows(config: PipelineConfig) -> list[tuple[Any, ...]]:
    """Give all runs, kinds, ends and tables that were noted, in their order."""
    return query(
        config,
        "SELECT run_id, kind, start_lsn, end_lsn, tables FROM _cdc.windows ORDER BY committed_at",
    )
