from __future__ import annotations

from contextlib import closing

from cdc_assets.replication.sync import sync
from cdc_assets.source.connection import connect
from cdc_assets.source.preflight import server_problems
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source


def test_a_table_that_was_altered_before_its_first_copy_is_copied(
    database: ScratchDatabase, pipeline: MakePipeline
):
    """The slot still gives the changes of the old shape; the copy has seen them all."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    config = pipeline("public.t")
    database.execute("INSERT INTO t VALUES (1, 'x'), (2, 'y')")
    database.execute("ALTER TABLE t ADD COLUMN b int DEFAULT 7")
    database.execute("INSERT INTO t VALUES (3, 'z', 8)")
    *_, finished = sync(config)
    assert not finished.failed
    assert_equal_to_source(database, config)
    database.execute("UPDATE t SET b = 9 WHERE id = 1")
    *_, finished = sync(config)
    assert not finished.failed
    assert_equal_to_source(database, config)


def test_a_dropped_not_null_does_not_stop_a_table(
    database: ScratchDatabase, pipeline: MakePipeline
):
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text NOT NULL)")
    config = pipeline("public.t")
    list(sync(config))
    database.execute("ALTER TABLE t ALTER COLUMN a DROP NOT NULL")
    database.execute("INSERT INTO t VALUES (1, NULL)")
    *_, finished = sync(config)
    assert not finished.failed
    assert_equal_to_source(database, config)


def test_a_table_that_left_the_config_for_long_does_not_hold_the_slot(
    database: ScratchDatabase, pipeline: MakePipeline
):
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    database.execute("CREATE TABLE u (id int PRIMARY KEY)")
    both = pipeline("public.t", "public.u")
    list(sync(both))
    alone = both.model_copy(update={"tables": both.tables[:1]})
    database.execute("INSERT INTO t VALUES (1)")
    database.execute("INSERT INTO u VALUES (1)")
    list(sync(alone))
    database.execute("INSERT INTO t VALUES (2)")
    *_, finished = sync(both)
    assert [str(table.table) for table in finished.failed] == ["public.u"]
    assert "changes in between are gone" in str(finished.failed[0].error)
    assert finished.confirmed_lsn == finished.target_lsn
    assert_equal_to_source(database, alone)


def test_changes_made_under_another_name_of_the_table_are_applied(
    database: ScratchDatabase, pipeline: MakePipeline
):
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    config = pipeline("public.t")
    list(sync(config))
    database.execute("INSERT INTO t VALUES (1, 'x')")
    database.execute("ALTER TABLE t RENAME TO u")
    database.execute("UPDATE u SET a = 'y'")
    database.execute("ALTER TABLE u RENAME TO t")
    *_, finished = sync(config)
    assert not finished.failed
    assert_equal_to_source(database, config)


def test_a_database_of_bytes_without_encoding_is_refused(database: ScratchDatabase):
    name = f"{database.name}_bytes"
    database.execute(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    try:
        with closing(connect(database.server.dsn(name))) as connection:
            (problem,) = server_problems(connection)
    finally:
        database.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert "SQL_ASCII" in problem.message
