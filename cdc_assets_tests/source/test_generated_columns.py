"""Generated columns: what the stream brings of them is what a copy takes, on every version."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc_assets.operations.checking import find_problems
from cdc_assets.source import catalog
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.hints import follow
from cdc_assets_tests.syncs import converge, errors_of, sync_all, sync_once

STORED = "CREATE TABLE t (id int PRIMARY KEY, a int, s int GENERATED ALWAYS AS (a * 2) STORED)"
VIRTUAL = "CREATE TABLE t (id int PRIMARY KEY, a int, v int GENERATED ALWAYS AS (a * 2) VIRTUAL)"


def test_an_older_servers_generated_columns_are_left_out(
    older_database: ScratchDatabase, tmp_path: Path
) -> None:
    """pg_publication_tables lists them there all the same."""
    older_database.execute(f"{STORED}; INSERT INTO t VALUES (1, 1), (2, 2)")
    config = make_pipeline(older_database, tmp_path, "public.t", schema_changes="stop")
    finished = converge(older_database, config)
    assert [column.name for column in finished.tables[0].columns] == ["id", "a"]
    assert finished.tables[0].left_out == ("s",)
    older_database.execute("UPDATE t SET a = 5 WHERE id = 1; INSERT INTO t VALUES (3, 3)")
    converge(older_database, config)
    older_database.execute("DELETE FROM t WHERE id = 2")
    converge(older_database, config)


@pytest.mark.parametrize(("ddl", "left_out"), [(STORED, ("s",)), (VIRTUAL, ("v",))])
def test_generated_columns_that_are_not_published_are_left_out(
    database: ScratchDatabase, pipeline: MakePipeline, ddl: str, left_out: tuple[str, ...]
) -> None:
    database.execute(f"{ddl}; INSERT INTO t VALUES (1, 1)")
    config = pipeline("public.t", schema_changes="stop")
    assert converge(database, config).tables[0].left_out == left_out
    database.execute("UPDATE t SET a = 5")
    converge(database, config)


def test_a_stored_column_that_is_published_is_not_left_out(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(f"{STORED}; INSERT INTO t VALUES (1, 1)")
    config = pipeline("public.t", schema_changes="stop")
    name = config.source.publication
    database.execute(f"ALTER PUBLICATION {name} SET (publish_generated_columns = stored)")
    finished = converge(database, config)
    assert [column.name for column in finished.tables[0].columns] == ["id", "a", "s"]
    assert finished.tables[0].left_out == ()


def test_a_key_that_the_stream_does_not_bring_is_refused(
    older_database: ScratchDatabase, tmp_path: Path
) -> None:
    older_database.execute(
        "CREATE TABLE t (id int, k int GENERATED ALWAYS AS (id) STORED PRIMARY KEY)"
    )
    config = make_pipeline(older_database, tmp_path, "public.t", schema_changes="stop")
    (problem,) = find_problems(config)
    assert "does not publish its key column 'k': it is a generated column" in problem.message
    older_database.execute("ALTER TABLE t DROP CONSTRAINT t_pkey")
    older_database.execute("ALTER TABLE t ADD PRIMARY KEY (id)")
    older_database.execute("INSERT INTO t (id) VALUES (1); UPDATE t SET id = 2")
    converge(older_database, config)


def test_a_mirror_with_a_generated_column_of_a_version_before_is_told_of(
    older_database: ScratchDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older_database.execute(f"{STORED}; INSERT INTO t VALUES (1, 1)")
    older_database.execute("CREATE TABLE u (id int PRIMARY KEY)")
    config = make_pipeline(older_database, tmp_path, "public.t", "public.u", schema_changes="stop")
    with monkeypatch.context() as before:
        before.setattr(catalog, "_is_brought", lambda *_, **__: True)
        sync_all(config)
    (problem,) = find_problems(config)
    assert "'s' is a generated column, which the stream does not bring" in problem.message
    error = errors_of(sync_once(config))["public.t"]
    assert (error.message, error.hint) == (problem.message, problem.hint)
    follow(error.hint, older_database, config)
    converge(older_database, config)
    older_database.execute("UPDATE t SET a = 5")
    converge(older_database, config)
