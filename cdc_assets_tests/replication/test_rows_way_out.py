"""A table that was altered comes back by a new copy, although the slot still holds what was before.

The slot stays where the table stopped, so after the new copy it gives the old changes once more:
those with the old columns, values that did not fit, or another identity. All of them are seen by
the copy's snapshot.
"""

from __future__ import annotations

import pytest

from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.replication.test_rows_schema_changes import CHANGES
from cdc_assets_tests.syncs import converge, errors_of, sync_once


@pytest.mark.parametrize("change", CHANGES)
def test_a_new_copy_brings_an_altered_table_back(
    database: ScratchDatabase, pipeline: MakePipeline, change: str
) -> None:
    ddl, row, _ = CHANGES[change]
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b int)")
    database.execute("CREATE TABLE other (id int PRIMARY KEY)")
    database.execute("INSERT INTO t VALUES (1, 'a', 1)")
    config = pipeline("public.t", "public.other", schema_changes="stop")
    converge(database, config)
    database.execute("INSERT INTO t VALUES (2, 'old', 1)")
    database.execute(f"ALTER TABLE t {ddl}")
    database.execute(f"INSERT INTO t VALUES ({row}); INSERT INTO other VALUES (1)")
    assert set(errors_of(sync_once(config))) == {"public.t"}
    database.execute("UPDATE t SET a = a || '!'; INSERT INTO other VALUES (2)")
    forget_tables(config, [TableName.parse("public.t")])
    converge(database, config)
    database.execute("UPDATE t SET a = a || '?'; DELETE FROM t WHERE id = 1")
    converge(database, config)


def test_a_new_copy_brings_a_table_back_that_had_no_identity_for_a_while(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    database.execute("CREATE TABLE other (id int PRIMARY KEY)")
    config = pipeline("public.t", "public.other", schema_changes="stop")
    converge(database, config)
    database.execute("ALTER TABLE t REPLICA IDENTITY NOTHING; INSERT INTO t VALUES (1, 'a')")
    database.execute("ALTER TABLE t REPLICA IDENTITY DEFAULT; INSERT INTO t VALUES (2, 'b')")
    sync_once(config)
    forget_tables(config, [TableName.parse("public.t")])
    converge(database, config)
    database.execute("UPDATE t SET a = 'c', id = id + 5")
    converge(database, config)


@pytest.mark.parametrize("ddl", ["ALTER a SET NOT NULL", "ALTER b DROP NOT NULL"])
def test_another_nullability_stops_nothing(
    database: ScratchDatabase, pipeline: MakePipeline, ddl: str
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b int NOT NULL)")
    database.execute("INSERT INTO t VALUES (1, 'a', 1)")
    config = pipeline("public.t", schema_changes="stop")
    converge(database, config)
    database.execute(f"ALTER TABLE t {ddl}")
    database.execute("INSERT INTO t VALUES (2, 'b', 2)")
    converge(database, config)
