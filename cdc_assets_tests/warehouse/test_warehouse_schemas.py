"""Schemas that DuckDB could take for a database of its own."""

from __future__ import annotations

import pytest

from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge


@pytest.mark.parametrize("schema", ["shop", "temp", "system"])
def test_a_schema_named_like_one_of_duckdbs_databases_is_kept(
    database: ScratchDatabase, pipeline: MakePipeline, schema: str
) -> None:
    database.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.t (id int PRIMARY KEY)")
    database.execute(f"INSERT INTO {schema}.t VALUES (1)")
    config = pipeline(f"{schema}.t")  # its warehouse is shop.duckdb
    converge(database, config)
    database.execute(f"INSERT INTO {schema}.t VALUES (2)")
    converge(database, config)
