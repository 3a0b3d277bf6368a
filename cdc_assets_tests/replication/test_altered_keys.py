"""Keys that were made anew, or that tell other rows apart than the columns do."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ReplicaIdentityError, SchemaChangeError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets.replication import copying
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

T = TableName.parse("public.t")
DROP_KEY = "ALTER TABLE t DROP CONSTRAINT t_pkey"
ADD_KEY = "ALTER TABLE t ADD PRIMARY KEY (id)"


def mirrors(config: PipelineConfig) -> list[str]:
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        sql = "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public'"
        return [name for (name,) in warehouse.execute(sql).fetchall()]


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """A table with identity full that is copied already, and one beside it."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    database.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    database.execute("INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 5) AS n")
    database.execute("CREATE TABLE u (id int PRIMARY KEY)")
    config = pipeline("public.t", "public.u", schema_changes="stop")
    converge(database, config)
    return config


@pytest.mark.parametrize(
    "changes",
    [
        "UPDATE t SET id = id + 1",
        "INSERT INTO t VALUES (1, 'twice'); DELETE FROM t WHERE v = 'twice'",
        "INSERT INTO t VALUES (1, 'twice'); DELETE FROM t WHERE v = 'row 1'",
        "UPDATE t SET id = 2 WHERE id = 1; UPDATE t SET id = 1 WHERE v = 'row 2'",
    ],
    ids=["shifted", "twice for a while", "replaced", "swapped"],
)
def test_rows_that_shared_a_key_while_it_was_dropped_stop_the_table(
    database: ScratchDatabase, config: PipelineConfig, changes: str
) -> None:
    before = mirror_rows(config, "public.t")
    database.execute(DROP_KEY)
    database.execute(changes)
    database.execute(ADD_KEY)
    database.execute("INSERT INTO u VALUES (1)")
    for _ in range(2):
        assert set(errors_of(sync_once(config))) == {"public.t"}
        assert mirror_rows(config, "public.t") == before
    assert mirror_rows(config, "public.u", "id") == [(1,)]

    forget_tables(config, [T])
    converge(database, config)
    database.execute("UPDATE t SET id = id + 10 WHERE id < 4; DELETE FROM t WHERE id = 5")
    converge(database, config)


@pytest.mark.parametrize(
    "changes",
    [
        "UPDATE t SET id = id + 10",
        "INSERT INTO t VALUES (7, 'a'), (7, 'b'); DELETE FROM t WHERE v = 'a'",
        "",
    ],
    ids=["moved apart", "new rows", "none"],
)
def test_a_key_that_was_made_anew_stops_the_table(
    database: ScratchDatabase, config: PipelineConfig, changes: str
) -> None:
    """Whatever the changes were: the stream does not say that the key was gone."""
    database.execute(DROP_KEY)
    database.execute(changes or "SELECT")
    database.execute(ADD_KEY)
    for _ in range(2):
        errors = errors_of(sync_once(config))
        assert set(errors) == {"public.t"}
        assert isinstance(errors["public.t"], SchemaChangeError)
        assert "was altered on the source" in str(errors["public.t"])

    forget_tables(config, [T])
    converge(database, config)


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_an_index_that_is_built_anew_does_not_stop_the_table(
    database: ScratchDatabase, pipeline: MakePipeline, identity: str
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1), (2)")
    database.execute(f"ALTER TABLE t REPLICA IDENTITY {identity}")
    config = pipeline("public.t", schema_changes="stop")
    converge(database, config)
    database.execute("UPDATE t SET v = 'a'")
    database.execute("REINDEX TABLE CONCURRENTLY t")
    converge(database, config)
    database.execute("UPDATE t SET id = id + 5 WHERE id = 1; DELETE FROM t WHERE id = 2")
    converge(database, config)


def test_a_key_with_another_collation_than_its_column_is_refused(
    older_database: ScratchDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a chunk's end, cut by the column's collation, 'c' and 'C' are one key."""
    older_database.execute(
        "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
    )
    older_database.execute("CREATE TABLE t (k text COLLATE ci NOT NULL, v int)")
    older_database.execute('CREATE UNIQUE INDEX t_k ON t (k COLLATE "C")')
    expect_refused_key(
        older_database,
        make_pipeline_beside(older_database, tmp_path, monkeypatch),
        rows="('a', 1), ('b', 2), ('c', 3), ('C', 4), ('d', 5)",
    )


def test_a_key_with_another_operator_class_than_its_type_is_refused(
    database: ScratchDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a chunk's end, cut by the type's own order, (3.0,a) and (3.00,a) are one key."""
    database.execute("CREATE TYPE pair AS (n numeric, t text)")
    database.execute("CREATE TABLE t (k pair NOT NULL, v int)")
    database.execute("CREATE UNIQUE INDEX t_k ON t (k record_image_ops)")
    expect_refused_key(
        database,
        make_pipeline_beside(database, tmp_path, monkeypatch),
        rows="('(1,a)', 1), ('(2,a)', 2), ('(3.0,a)', 3), ('(3.00,a)', 4), ('(4,a)', 5)",
    )


def make_pipeline_beside(
    database: ScratchDatabase, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> PipelineConfig:
    """Make a pipeline of `t` and of a table beside it."""
    monkeypatch.setattr(copying, "CHUNK_ROWS", 3)
    database.execute("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)")
    return make_pipeline(database, directory, "public.t", "public.u")


def expect_refused_key(database: ScratchDatabase, config: PipelineConfig, *, rows: str) -> None:
    """Expect that `t_k` of `t (k, v)` does not serve, and that one in the default order does."""
    database.execute("ALTER TABLE t REPLICA IDENTITY USING INDEX t_k")
    database.execute(f"INSERT INTO t VALUES {rows}")
    errors = errors_of(sync_once(config))
    assert set(errors) == {"public.t"}
    assert isinstance(errors["public.t"], ReplicaIdentityError)
    assert "collation and default order" in str(errors["public.t"].hint)
    assert mirrors(config) == ["u"]
    assert mirror_rows(config, "public.u", "id") == [(1,)]

    database.execute("DELETE FROM t WHERE v = 4; CREATE UNIQUE INDEX t_own ON t (k)")
    database.execute("ALTER TABLE t REPLICA IDENTITY USING INDEX t_own")
    converge(database, config)
    database.execute("UPDATE t SET v = v + 1; DELETE FROM t WHERE v = 2")
    converge(database, config)


@pytest.mark.parametrize(
    ("declared", "key"),
    [
        ("CREATE TYPE \"100%\" AS ENUM ('a', 'b', 'c', 'd', 'e')", '"100%"'),
        ('CREATE COLLATION "100%s %(x)s" FROM "C"', 'text COLLATE "100%s %(x)s"'),
    ],
    ids=["type", "collation"],
)
def test_a_key_with_a_percent_sign_in_its_declaration_is_compared(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    declared: str,
    key: str,
) -> None:
    monkeypatch.setattr(copying, "CHUNK_ROWS", 2)
    database.execute(f"{declared}; CREATE TABLE t (k {key} PRIMARY KEY, v int)")
    database.execute("INSERT INTO t VALUES ('a', 1), ('b', 2), ('c', 3), ('d', 4)")
    config = pipeline("public.t", schema_changes="stop")

    def change() -> None:
        database.execute("UPDATE t SET v = v + 1; UPDATE t SET k = 'e' WHERE k = 'a'")

    with at_step("chunk_committed", 1, change):
        converge(database, config)
