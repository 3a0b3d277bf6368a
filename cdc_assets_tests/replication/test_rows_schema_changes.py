"""A table that is altered stops, the others go on, and the way out of the hint works."""

from __future__ import annotations

import pytest

from cdc_assets.errors import ReplicaIdentityError, SchemaChangeError, TableError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

# DDL, rows that fit the table afterwards, and what the error says
CHANGES = {
    "add": ("ADD c int DEFAULT 7", "3, 'n', 1, 8", "added 'c'"),
    "drop": ("DROP b", "3, 'n'", "dropped 'b'"),
    "rename": ("RENAME b TO bb", "3, 'n', 1", "'bb'"),
    "type": ("ALTER b TYPE bigint", "3, 'n', 1", "another type of 'b'"),
    "length": ("ALTER a TYPE varchar(90)", "3, 'n', 1", "another type of 'a'"),
    "drop and add": ("DROP b, ADD b int", "3, 'n', 1", ""),
    "key": ("DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, b)", "3, 'n', 1", "key"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_altered_table_stops_alone(
    database: ScratchDatabase, pipeline: MakePipeline, change: str
) -> None:
    ddl, row, said = CHANGES[change]
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b int)")
    database.execute("CREATE TABLE other (id int PRIMARY KEY)")
    database.execute("INSERT INTO t VALUES (1, 'a', 1)")
    config = pipeline("public.t", "public.other", schema_changes="stop")
    converge(database, config)
    database.execute("INSERT INTO t VALUES (2, 'old', 1)")
    database.execute(f"ALTER TABLE t {ddl}")
    database.execute(f"INSERT INTO t VALUES ({row}); INSERT INTO other VALUES (1)")
    for number in (2, 3):  # it stays so
        error = errors_of(sync_once(config))["public.t"]
        assert isinstance(error, SchemaChangeError | ReplicaIdentityError)
        assert said in str(error)
        assert error.lsn
        assert "cdc-assets backfill " in error.hint
        assert "public.t" in error.hint
        assert len(mirror_rows(config, "public.other")) == number - 1
        database.execute(f"INSERT INTO other VALUES ({number})")


@pytest.mark.parametrize("change", CHANGES)
def test_an_alteration_without_later_changes_is_noticed(
    database: ScratchDatabase, pipeline: MakePipeline, change: str
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b int)")
    database.execute("CREATE TABLE other (id int PRIMARY KEY)")
    database.execute("INSERT INTO t VALUES (1, 'a', 1)")
    config = pipeline("public.t", "public.other", schema_changes="stop")
    converge(database, config)
    database.execute(f"ALTER TABLE t {CHANGES[change][0]}")
    database.execute("INSERT INTO other VALUES (1)")
    error = errors_of(sync_once(config))["public.t"]
    assert isinstance(error, SchemaChangeError)
    assert len(mirror_rows(config, "public.other")) == 1
    forget_tables(config, [TableName.parse("public.t")])
    converge(database, config)


def test_a_table_that_is_dropped_or_unpublished_stops_alone(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    for table in ("gone", "hidden", "other"):
        database.execute(
            f"CREATE TABLE {table} (id int PRIMARY KEY); INSERT INTO {table} VALUES (1)"
        )
    config = pipeline("public.gone", "public.hidden", "public.other", schema_changes="stop")
    converge(database, config)
    database.execute("INSERT INTO gone VALUES (2); INSERT INTO hidden VALUES (2)")
    database.execute("DROP TABLE gone")
    database.execute(f"ALTER PUBLICATION {config.source.publication} DROP TABLE hidden")
    database.execute("INSERT INTO other VALUES (2)")
    errors = errors_of(sync_once(config))
    assert set(errors) == {"public.gone", "public.hidden"}
    assert all(isinstance(error, TableError) for error in errors.values())
    assert len(mirror_rows(config, "public.other")) == 2


def test_a_lost_replica_identity_stops_the_table(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a text); CREATE TABLE u (id int PRIMARY KEY)"
    )
    config = pipeline("public.t", "public.u", schema_changes="stop")
    converge(database, config)
    database.execute("ALTER TABLE t REPLICA IDENTITY NOTHING")
    database.execute("INSERT INTO t VALUES (1, 'a'); INSERT INTO u VALUES (1)")
    assert isinstance(errors_of(sync_once(config))["public.t"], ReplicaIdentityError)
    assert mirror_rows(config, "public.u", "id") == [(1,)]


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE t ALTER a SET DEFAULT 'x'",
        "ALTER TABLE t ADD CHECK (id > 0)",
        "CREATE INDEX ON t (a)",
        "ALTER TABLE t ALTER a SET STORAGE EXTERNAL",
        "ALTER TABLE t ALTER a SET STATISTICS 5; ANALYZE t",
        "ALTER TYPE mood ADD VALUE 'angry'",
        "ALTER TABLE t SET (fillfactor = 50)",
        "CREATE RULE no_delete AS ON DELETE TO t DO INSTEAD NOTHING",
        "ALTER TABLE t RENAME CONSTRAINT t_pkey TO key",
    ],
)
def test_alterations_that_change_no_row_stop_nothing(
    database: ScratchDatabase, pipeline: MakePipeline, ddl: str
) -> None:
    database.execute("CREATE TYPE mood AS ENUM ('sad')")
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text, m mood DEFAULT 'sad')")
    database.execute("INSERT INTO t VALUES (1, 'a')")
    config = pipeline("public.t", schema_changes="stop")
    converge(database, config)
    database.execute("INSERT INTO t VALUES (2, 'b')")
    database.execute(ddl)
    database.execute("INSERT INTO t VALUES (3, 'c'); UPDATE t SET a = a || '!'")
    converge(database, config)


def test_values_of_a_new_enum_label_arrive(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TYPE mood AS ENUM ('sad')")
    database.execute("CREATE TABLE t (id int PRIMARY KEY, m mood)")
    config = pipeline("public.t", schema_changes="stop")
    converge(database, config)
    database.execute("ALTER TYPE mood ADD VALUE 'angry'")
    database.execute("INSERT INTO t VALUES (1, 'sad'), (2, 'angry')")
    converge(database, config)
