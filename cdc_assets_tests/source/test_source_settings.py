"""Settings of the database that the drivers themselves stumble over."""

from __future__ import annotations

from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge


def test_a_database_that_quotes_all_identifiers_changes_nothing(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(f"ALTER DATABASE {database.name} SET quote_all_identifiers = on")
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'a')")
    config = pipeline("public.t")
    converge(database, config)
    database.execute("INSERT INTO t VALUES (2, 'b')")
    converge(database, config)
