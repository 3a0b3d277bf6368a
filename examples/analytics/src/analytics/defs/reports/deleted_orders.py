"""Orders that were deleted: SQL that takes what is new in a change table, each change once."""

from pathlib import Path

import dagster as dg
import duckdb

PROJECT = Path(__file__).parents[4]


@dg.asset(
    deps=[["raw", "orders__changes"]],
    group_name="reports",
    kinds={"duckdb", "sql"},
    pool="cdc_shop",
    automation_condition=dg.AutomationCondition.eager(),
)
def deleted_orders() -> None:
    """Append to the table of the same name in `data/reports.duckdb`."""
    with duckdb.connect(PROJECT / "data" / "reports.duckdb") as reports:
        reports.execute(f"ATTACH '{PROJECT / 'data' / 'shop.duckdb'}' AS shop (READ_ONLY)")
        reports.execute(Path(__file__).with_suffix(".sql").read_text())
