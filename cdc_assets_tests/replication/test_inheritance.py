"""Tables that inherit: a mirror has its table's own rows, as a publication has them."""

from __future__ import annotations

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.progress import SchemaChanged
from cdc_assets.replication.sync import sync
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import mirror_rows

TABLES = """
CREATE TABLE t (id int PRIMARY KEY, a text);
CREATE TABLE child (b int, PRIMARY KEY (id)) INHERITS (t);
CREATE TABLE free (id int PRIMARY KEY, a text, b int);
INSERT INTO t VALUES (1, 'own'), (2, 'own');
INSERT INTO child VALUES (1, 'child', 1), (7, 'child', 1);
INSERT INTO free VALUES (8, 'free', 1)
"""
ALTERED = {
    "made": "CREATE TABLE x () INHERITS (t); INSERT INTO x VALUES (5, 'x')",
    "attached": "ALTER TABLE free INHERIT t",
    "detached": "ALTER TABLE child NO INHERIT t",
    "detached and attached again": "ALTER TABLE child NO INHERIT t; DELETE FROM child WHERE id = 1;"
    " ALTER TABLE child INHERIT t",
    "emptied": "TRUNCATE child",
}


@pytest.fixture(params=["ONLY t, ONLY child, free", "t, free"], ids=["only", "with children"])
def config(
    request: pytest.FixtureRequest, database: ScratchDatabase, pipeline: MakePipeline
) -> PipelineConfig:
    """Mirrors of a parent, its child, and a table that may become another child of it."""
    database.execute(TABLES)
    config = pipeline("public.t", "public.child", "public.free")
    publication = config.source.publication
    database.execute(f"ALTER PUBLICATION {publication} SET TABLE {request.param}")
    assert not altered(database, config)
    return config


def altered(database: ScratchDatabase, config: PipelineConfig) -> list[str]:
    """Sync, and say what was altered; afterwards each mirror has its table's own rows."""
    found = [event.what for event in sync(config) if isinstance(event, SchemaChanged)]
    for table in config.table_names:
        columns = "id, a" if table.name == "t" else "id, a, b"
        own = f"SELECT {columns} FROM ONLY {table.sql} ORDER BY id"
        assert mirror_rows(config, str(table), columns) == database.execute(own)
    return found


@pytest.mark.parametrize("is_quiet", [True, False])
@pytest.mark.parametrize("case", ALTERED)
def test_a_child_that_comes_or_goes_changes_no_mirror(
    database: ScratchDatabase, config: PipelineConfig, case: str, is_quiet: bool
) -> None:
    if not is_quiet:
        database.execute("UPDATE t SET a = a || '!'; INSERT INTO t VALUES (3, 'own')")
    database.execute(ALTERED[case])
    if not is_quiet:
        database.execute("UPDATE t SET a = a || '?'; DELETE FROM t WHERE id IN (1, 8)")
    assert not altered(database, config)
    database.execute("UPDATE t SET id = id + 100")
    assert not altered(database, config)
    database.execute("TRUNCATE t")
    assert not altered(database, config)


def test_a_child_that_is_not_mirrored_is_dropped(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(TABLES)
    config = pipeline("public.t")
    assert not altered(database, config)
    database.execute("DROP TABLE child")
    assert not altered(database, config)


def test_a_column_that_children_inherit_is_each_ones_own(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("ALTER TABLE t ADD c int DEFAULT 7; UPDATE t SET a = 'then'")
    assert sorted(altered(database, config)) == ["added 'c'", "added 'c'"]
    assert mirror_rows(config, "public.child", "id, c") == [(1, 7), (7, 7)]
