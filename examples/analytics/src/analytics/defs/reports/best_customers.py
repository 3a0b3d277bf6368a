"""The best customers: SQL that DuckDB runs on the mirrors, into a file of its own."""

from pathlib import Path

import dagster as dg
import duckdb

PROJECT = Path(__file__).parents[4]


@dg.asset(
    deps=[["raw", "customers"], ["raw", "orders"]],
    group_name="reports",
    kinds={"duckdb", "sql"},
    pool="cdc_shop",
    automation_condition=dg.AutomationCondition.eager(),
)
def best_customers() -> None:
    """Fill the table of the same name in `data/reports.duckdb`."""
    with duckdb.connect(PROJECT / "data" / "reports.duckdb") as reports:
        reports.execute(f"ATTACH '{PROJECT / 'data' / 'shop.duckdb'}' AS shop (READ_ONLY)")
        reports.execute(Path(__file__).with_suffix(".sql").read_text())
