"""What an administrator may do to a source while a pipeline runs: never a silent difference."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ReplicaIdentityError, TableError
from cdc_assets.identifiers import TableName
from cdc_assets.replication import copying
from cdc_assets.replication.backfill import backfill
from cdc_assets.source.arrow import ArrowSession
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.interrupting import at_step
from cdc_assets_tests.syncs import converge, errors_of, sync_all, sync_once


def as_role(config: PipelineConfig, database: ScratchDatabase, role: str) -> PipelineConfig:
    dsn = SecretStr(make_conninfo(database.dsn, user=role, password="x"))
    return config.model_copy(update={"source": config.source.model_copy(update={"dsn": dsn})})


@pytest.mark.parametrize(
    ("leave", "come_back", "said"),
    [
        ("DROP TABLE t", "ADD TABLE t", "it left the publication and came back"),
        (
            "SET TABLE t WHERE (id < 5), u",
            "SET TABLE t, u",
            "it left the publication and came back",
        ),
        (
            "SET (publish = 'update')",
            "SET (publish = 'insert, update, delete, truncate')",
            "was altered since the last sync: changes of 'public.t' were left out",
        ),
    ],
)
def test_changes_that_were_not_published_for_a_while_stop_the_table(
    database: ScratchDatabase, pipeline: MakePipeline, leave: str, come_back: str, said: str
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
    config = pipeline("public.t", "public.u", schema_changes="stop")
    sync_all(config)
    database.execute(f"ALTER PUBLICATION {config.source.publication} {leave}")
    database.execute("INSERT INTO t VALUES (9)")
    database.execute(f"ALTER PUBLICATION {config.source.publication} {come_back}")
    errors = errors_of(sync_once(config))
    assert set(errors) == {"public.t"}
    assert said in str(errors["public.t"])


def test_rows_that_a_policy_hides_stop_the_copy(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, owner text)")
    database.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    database.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    database.execute("CREATE POLICY p ON t USING (owner = 'a')")
    config, role = pipeline("public.t"), f"limited_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'")
    try:
        database.execute(f"GRANT SELECT ON t TO {role}")
        with pytest.raises(TableError, match="row-level security hides rows of table"):
            sync_once(as_role(config, database, role))
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_role_that_may_not_read_one_table_copies_the_others(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")
    database.execute("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)")
    config, role = pipeline("public.t", "public.u"), f"limited_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'")
    try:
        database.execute(f"GRANT SELECT (id) ON t TO {role}; GRANT SELECT ON u TO {role}")
        assert set(errors_of(sync_once(as_role(config, database, role)))) == {"public.t"}
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_table_is_not_rewritten_between_a_chunks_snapshot_and_its_rows(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To an older snapshot a rewritten table is empty."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    database.execute("INSERT INTO t SELECT g, g FROM generate_series(1, 9) g")
    config, plain, refused = pipeline("public.t"), ArrowSession.row, []

    def row(session: ArrowSession, sql: str) -> tuple[object, ...]:
        found = plain(session, sql)
        if "pg_current_snapshot()" in sql:
            options = "-c lock_timeout=200ms"
            with psycopg.connect(database.dsn, autocommit=True, options=options) as other:
                try:
                    other.execute("ALTER TABLE t ALTER a TYPE int USING a + 1")
                except psycopg.errors.LockNotAvailable as error:
                    refused.append(error)
        return found

    monkeypatch.setattr(ArrowSession, "row", row)
    sync_all(config)
    assert refused
    assert_equal_to_source(database, config)


def test_a_partition_with_another_replica_identity_is_refused(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (id int, part int, code int NOT NULL, PRIMARY KEY (id, part))"
        " PARTITION BY LIST (part)"
    )
    database.execute("CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)")
    config = pipeline("public.t")
    sync_all(config)
    database.execute("CREATE UNIQUE INDEX t1_code ON t1 (code)")
    database.execute("ALTER TABLE t1 REPLICA IDENTITY USING INDEX t1_code")
    with pytest.raises(ReplicaIdentityError, match="partition"):
        sync_once(config)


def test_a_label_that_is_renamed_while_its_table_is_copied_is_made_right_by_a_backfill(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "CHUNK_ROWS", 2)
    database.execute("CREATE TYPE mood AS ENUM ('a', 'b', 'c', 'd')")
    database.execute("CREATE TABLE t (id mood PRIMARY KEY, v int)")
    database.execute("INSERT INTO t VALUES ('a', 1), ('b', 1), ('c', 1)")
    database.execute("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)")
    config = pipeline("public.t", "public.u")

    def rename() -> None:
        database.execute("UPDATE t SET v = 2 WHERE id = 'a'")
        database.execute("ALTER TYPE mood RENAME VALUE 'a' TO 'z'")

    with at_step("chunk_committed", 1, rename):
        sync_all(config)
    for _ in backfill(config, TableName("public", "t")):
        pass
    converge(database, config)


def test_an_error_of_a_copy_shows_no_key(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "CHUNK_ROWS", 2)
    database.execute("CREATE TABLE t (id text PRIMARY KEY, a int)")
    database.execute("INSERT INTO t SELECT 'canary' || g FROM generate_series(1, 9) g")
    config = pipeline("public.t", schema_changes="stop")
    with at_step("chunk_committed", 1, lambda: database.execute("ALTER TABLE t DROP COLUMN a")):
        errors = errors_of(sync_once(config))
    assert "public.t" in errors
    assert "canary" not in str(errors)
