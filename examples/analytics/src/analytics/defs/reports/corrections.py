"""Corrections of orders: a data frame made of a change table, which has every value there was."""

from pathlib import Path

import dagster as dg
import duckdb

PROJECT = Path(__file__).parents[4]


@dg.asset(
    deps=[["raw", "orders__changes"]],
    group_name="reports",
    kinds={"pandas"},
    pool="cdc_shop",
    automation_condition=dg.AutomationCondition.eager(),
)
def corrections() -> dg.MaterializeResult:
    """List by how much amounts were corrected, and when; made anew when there are new changes."""
    with duckdb.connect(PROJECT / "data" / "shop.duckdb", read_only=True) as warehouse:
        changes = warehouse.sql(
            "SELECT id, amount::DOUBLE AS amount, _cdc_op AS op,"
            " _cdc_commit_ts AT TIME ZONE 'UTC' AS committed_at FROM public.orders__changes"
            " WHERE _cdc_op <> 'delete' ORDER BY _cdc_lsn, _cdc_seq"
        ).df()
    changes["by"] = changes["amount"] - changes.groupby("id")["amount"].shift()
    corrected = changes[(changes["op"] == "update") & (changes["by"] != 0)]
    corrected[["id", "by", "committed_at"]].to_csv(
        PROJECT / "data" / "corrections.csv", index=False
    )
    return dg.MaterializeResult(metadata={"dagster/row_count": len(corrected)})
