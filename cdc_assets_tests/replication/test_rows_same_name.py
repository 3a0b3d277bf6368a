"""A name is not a table: another one under the same name is another table."""

from __future__ import annotations

from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, errors_of, sync_once


def test_a_table_made_again_under_its_name_is_not_taken_for_the_old_one(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    database.execute("CREATE TABLE other (id int PRIMARY KEY)")
    database.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    config = pipeline("public.t", "public.other")
    converge(database, config)
    database.execute("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, a text)")
    database.execute("INSERT INTO t VALUES (2, 'unpublished')")
    database.execute(f"ALTER PUBLICATION {config.source.publication} ADD TABLE t")
    database.execute("INSERT INTO t VALUES (3, 'c'); INSERT INTO other VALUES (1)")
    assert set(errors_of(sync_once(config))) == {"public.t"}
    forget_tables(config, [TableName.parse("public.t")])
    converge(database, config)


def test_a_table_that_took_anothers_name_is_not_taken_for_it(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    for table in ("t", "u"):
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, a text)")
        database.execute(f"INSERT INTO {table} VALUES (1, '{table}')")
    config = pipeline("public.t", "public.u")
    converge(database, config)
    database.execute("INSERT INTO t VALUES (2, 't')")
    database.execute(
        "ALTER TABLE t RENAME TO x; ALTER TABLE u RENAME TO t; ALTER TABLE x RENAME TO u"
    )
    database.execute("INSERT INTO t VALUES (3, 'was u')")
    assert set(errors_of(sync_once(config))) == {"public.t", "public.u"}
    forget_tables(config, [TableName.parse("public.t"), TableName.parse("public.u")])
    converge(database, config)
