"""The way out that an error's hint names works."""

from __future__ import annotations

from cdc_assets.errors import ValueConversionError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, errors_of, sync_once


def test_a_corrected_value_and_a_new_copy_bring_the_table_back(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE odd (id int PRIMARY KEY, value numeric(10,2))")
    database.execute("CREATE TABLE other (id int PRIMARY KEY)")
    config = pipeline("public.odd", "public.other")
    converge(database, config)
    database.execute("INSERT INTO odd VALUES (1, 1), (2, 'NaN'), (3, 3)")
    assert isinstance(errors_of(sync_once(config))["public.odd"], ValueConversionError)
    database.execute("UPDATE odd SET value = 2 WHERE id = 2")
    assert forget_tables(config, [TableName.parse("public.odd")])
    converge(database, config)
    database.execute("INSERT INTO odd VALUES (4, 4); DELETE FROM odd WHERE id = 1")
    converge(database, config)
