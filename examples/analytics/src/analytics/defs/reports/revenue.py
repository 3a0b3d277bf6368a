"""Revenue per country: a data frame made of two mirrors."""

from pathlib import Path

import dagster as dg
import duckdb

PROJECT = Path(__file__).parents[4]


@dg.asset(
    deps=[["raw", "customers"], ["raw", "orders"]],
    group_name="reports",
    kinds={"pandas"},
    # A run of the pipeline holds the file. It has this pool, too, so neither finds the other.
    pool="cdc_shop",
    automation_condition=dg.AutomationCondition.eager(),
)
def revenue() -> dg.MaterializeResult:
    """Sum what each country ordered; made anew when a sync has changed a mirror."""
    with duckdb.connect(PROJECT / "data" / "shop.duckdb", read_only=True) as warehouse:
        customers = warehouse.sql("SELECT id, country FROM public.customers").df()
        orders = warehouse.sql(
            "SELECT customer_id, amount::DOUBLE AS amount FROM public.orders"
        ).df()
    joined = orders.merge(customers, left_on="customer_id", right_on="id")
    summed = joined.groupby("country", as_index=False)["amount"].sum()
    summed.to_csv(PROJECT / "data" / "revenue.csv", index=False)
    return dg.MaterializeResult(metadata={"dagster/row_count": len(summed)})
