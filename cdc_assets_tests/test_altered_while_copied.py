"""Names that mean something else between two chunks: a mirror is never made of two tables."""

from __future__ import annotations

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import SchemaChangeError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets.replication import copying
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

SWAPS = {
    "columns": "ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a;"
    "ALTER TABLE t RENAME x TO b",
    "tables": "ALTER TABLE t RENAME TO x; ALTER TABLE t2 RENAME TO t; ALTER TABLE x RENAME TO t2",
}


@pytest.fixture
def config(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> PipelineConfig:
    """A table of three chunks, another of its shape, and one that is copied after it."""
    monkeypatch.setattr(copying, "CHUNK_ROWS", 3)
    for table, a in (("t", "a"), ("t2", "other table")):
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, a text, b text)")
        database.execute(f"INSERT INTO {table} SELECT n, '{a}', 'b' FROM generate_series(1, 8) n")
    database.execute("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)")
    config = pipeline("public.t", "public.u")
    database.execute(f"ALTER PUBLICATION {config.source.publication} ADD TABLE t2")
    return config


@pytest.mark.parametrize("swapped", SWAPS)
def test_names_that_are_swapped_between_two_chunks_stop_the_copy(
    database: ScratchDatabase, config: PipelineConfig, swapped: str
) -> None:
    with at_step("chunk_committed", 1, lambda: database.execute(SWAPS[swapped])):
        errors = errors_of(sync_once(config))
    assert set(errors) == {"public.t"}
    assert isinstance(errors["public.t"], SchemaChangeError)
    assert "was altered while it was copied" in str(errors["public.t"])
    assert mirror_rows(config, "public.t", "id, a, b") == [(n, "a", "b") for n in (1, 2, 3)]
    assert mirror_rows(config, "public.u", "id") == [(1,)]

    database.execute(SWAPS[swapped])
    converge(database, config)


@pytest.mark.parametrize("swapped", SWAPS)
def test_a_copy_that_names_stopped_is_made_anew(
    database: ScratchDatabase, config: PipelineConfig, swapped: str
) -> None:
    with at_step("chunk_committed", 2, lambda: database.execute(SWAPS[swapped])):
        assert set(errors_of(sync_once(config))) == {"public.t"}
    assert isinstance(errors_of(sync_once(config))["public.t"], SchemaChangeError)

    database.execute("INSERT INTO t VALUES (9, 'late', 'b')")
    forget_tables(config, [TableName.parse("public.t")])
    converge(database, config)
    database.execute("UPDATE t SET a = 'new', id = id + 20 WHERE id < 5")
    converge(database, config)
