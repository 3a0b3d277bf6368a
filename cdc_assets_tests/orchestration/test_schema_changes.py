"""What Dagster shows of a table that was altered on the source."""

from __future__ import annotations

import dagster as dg

from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import definitions, materialized, observed, run_sync
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import kept

ORDERS = "shop/public/orders"


def test_an_alteration_is_told_and_the_columns_shown_are_those_of_now(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, total int)")
    database.execute("INSERT INTO orders VALUES (1, 2)")
    defs = definitions(kept(pipeline("public.orders"), ["mirror", "changes"]))
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_sync(defs, instance).success
        database.execute("ALTER TABLE orders ADD note text DEFAULT 'none'")
        result = run_sync(defs, instance)
        assert result.success

        told = [(key, found) for key, found in observed(result) if "cdc/schema_change" in found]
        assert {key for key, _ in told} == {ORDERS, f"{ORDERS}__changes"}
        for _, found in told:
            assert found["cdc/schema_change"] == "added 'note'"
            assert found["cdc/columns_before"] == {"id": "INTEGER", "total": "INTEGER"}
            assert found["cdc/columns_after"]["note"] == "VARCHAR"
        shown = materialized(result)[ORDERS]["dagster/column_schema"]
        assert [column.name for column in shown.columns][:3] == ["id", "total", "note"]

        database.execute("ALTER TABLE orders ALTER total TYPE bigint")
        result = run_sync(defs, instance)
        assert result.success
        told = [(key, found) for key, found in observed(result) if "cdc/schema_change" in found]
        assert told[0][1]["cdc/columns_after"]["total"] == "BIGINT"


def test_a_column_that_became_text_for_a_value_is_told(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, total numeric(6,2))")
    database.execute("INSERT INTO orders VALUES (1, 2)")
    defs = definitions(kept(pipeline("public.orders"), ["mirror"], unfit_values="text"))
    with dg.DagsterInstance.ephemeral() as instance:
        assert run_sync(defs, instance).success
        database.execute("INSERT INTO orders VALUES (2, 'NaN')")
        result = run_sync(defs, instance)
        assert result.success
        ((key, found),) = [one for one in observed(result) if "cdc/schema_change" in one[1]]
        assert key == ORDERS
        assert "'total' is text, was numeric(6,2)" in found["cdc/schema_change"]
        assert found["cdc/columns_before"]["total"] == "DECIMAL(6,2)"
        shown = materialized(result)[ORDERS]["dagster/column_schema"].columns[1]
        assert (shown.type, "text since a value did not fit" in shown.description) == (
            "VARCHAR",
            True,
        )
