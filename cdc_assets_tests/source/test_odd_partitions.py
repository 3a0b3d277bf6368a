"""Partitions that are not like their table: refused, and never a mirror that differs in silence."""

from __future__ import annotations

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ReplicaIdentityError, TableError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

TWO_KEYS = """
CREATE TABLE t (p int NOT NULL, a int NOT NULL, b int NOT NULL, PRIMARY KEY (p, a))
    PARTITION BY LIST (p);
CREATE UNIQUE INDEX t_b ON t (p, b);
CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
INSERT INTO t VALUES (1, 1, 1), (1, 2, 2);
CREATE TABLE u (id int PRIMARY KEY)
"""
IDENTITY_B = """
ALTER TABLE t REPLICA IDENTITY USING INDEX t_b;
ALTER TABLE t1 REPLICA IDENTITY USING INDEX t1_p_b_idx
"""


def expect_stopped(
    database: ScratchDatabase, config: PipelineConfig, kind: type[TableError], says: str
) -> None:
    """Expect that `t` alone fails, again and again, and that its mirror stays as it was."""
    before = mirror_rows(config, "public.t")
    database.execute("INSERT INTO u VALUES (1)")
    for _ in range(2):
        errors = errors_of(sync_once(config))
        assert set(errors) == {"public.t"}
        assert isinstance(errors["public.t"], kind)
        assert says in str(errors["public.t"])
        assert mirror_rows(config, "public.t") == before
    assert mirror_rows(config, "public.u", "id") == [(1,)]


def expect_way_out(database: ScratchDatabase, config: PipelineConfig) -> None:
    forget_tables(config, [TableName.parse("public.t")])
    converge(database, config)
    database.execute("UPDATE t SET a = a + 10, b = b + 10; DELETE FROM t WHERE a = 11")
    converge(database, config)


def test_a_partition_whose_identity_is_an_index_over_other_columns_is_refused(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(TWO_KEYS)
    database.execute("CREATE UNIQUE INDEX t_a ON t (p, a)")
    database.execute("ALTER TABLE t REPLICA IDENTITY USING INDEX t_b")
    database.execute("ALTER TABLE t1 REPLICA IDENTITY USING INDEX t1_p_b_idx")
    config = pipeline("public.t", "public.u")
    converge(database, config)
    database.execute("ALTER TABLE t1 REPLICA IDENTITY USING INDEX t1_p_a_idx")
    database.execute("UPDATE t SET b = 10 WHERE b = 1")
    expect_stopped(database, config, ReplicaIdentityError, "another replica identity")


def test_a_partition_whose_identity_is_an_index_over_the_tables_key_is_not_refused(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(TWO_KEYS)
    database.execute("ALTER TABLE t1 REPLICA IDENTITY USING INDEX t1_pkey")
    config = pipeline("public.t", "public.u")
    converge(database, config)
    database.execute("UPDATE t SET a = a + 10; DELETE FROM t WHERE a = 11")
    converge(database, config)


@pytest.mark.parametrize("identity", ["DEFAULT", "USING INDEX t2_p_a_idx"])
def test_a_partition_that_gets_the_tables_identity_after_changes_stops_the_table(
    database: ScratchDatabase, pipeline: MakePipeline, identity: str
) -> None:
    database.execute(TWO_KEYS + ";" + IDENTITY_B + "; CREATE UNIQUE INDEX t_a ON t (p, a)")
    config = pipeline("public.t", "public.u")
    converge(database, config)
    database.execute("CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2)")
    database.execute(f"ALTER TABLE t2 REPLICA IDENTITY {identity}")
    database.execute("INSERT INTO t VALUES (2, 1, 100)")
    database.execute("UPDATE t SET b = 200 WHERE b = 100")
    refused = errors_of(sync_once(config))["public.t"]
    assert isinstance(refused, ReplicaIdentityError)
    assert 'ALTER TABLE "public"."t2" REPLICA IDENTITY USING INDEX "t2_p_b_idx"' in refused.hint
    database.execute("ALTER TABLE t2 REPLICA IDENTITY USING INDEX t2_p_b_idx")
    expect_stopped(database, config, TableError, "differs from the source")
    expect_way_out(database, config)


def test_a_partition_that_had_another_identity_between_two_syncs_stops_the_table(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(TWO_KEYS)
    config = pipeline("public.t", "public.u")
    converge(database, config)
    database.execute("ALTER TABLE t1 REPLICA IDENTITY USING INDEX t1_p_b_idx")
    database.execute("UPDATE t SET a = 10 WHERE a = 1")
    database.execute("ALTER TABLE t1 REPLICA IDENTITY DEFAULT")
    expect_stopped(database, config, TableError, "differs from the source")
    expect_way_out(database, config)


def test_an_unlogged_partition_is_refused(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(TWO_KEYS)
    config = pipeline("public.t", "public.u")
    converge(database, config)
    database.execute("CREATE UNLOGGED TABLE t2 PARTITION OF t FOR VALUES IN (2)")
    database.execute("INSERT INTO t VALUES (2, 1, 1)")
    expect_stopped(database, config, TableError, "unlogged")
    database.execute("ALTER TABLE t2 SET LOGGED")
    expect_way_out(database, config)
