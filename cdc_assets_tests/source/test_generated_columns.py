"""Generated columns: what the stream brings of them is what a copy takes, on every version."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.operations.checking import find_problems
from cdc_assets.progress import SchemaChanged
from cdc_assets.replication.sync import sync
from cdc_assets.source import catalog
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.hints import follow
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, query, sync_all, sync_once

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


def altered(config: PipelineConfig) -> list[str]:
    """Sync, and say how what was altered was followed."""
    return [event.how for event in sync(config) if isinstance(event, SchemaChanged)]


@pytest.mark.parametrize("is_quiet", [True, False])
def test_whether_generated_columns_are_published_holds_for_copy_and_stream_alike(
    database: ScratchDatabase, pipeline: MakePipeline, is_quiet: bool
) -> None:
    database.execute(f"{STORED}; INSERT INTO t VALUES (1, 1), (2, 2)")
    config = pipeline("public.t")
    converge(database, config)
    publication = f"ALTER PUBLICATION {config.source.publication} SET (publish_generated_columns ="
    for at, (published, columns) in enumerate([("stored", "id, a, s"), ("none", "id, a")], 3):
        if not is_quiet:
            database.execute("UPDATE t SET a = a + 1 WHERE id = 1")
        database.execute(f"{publication} {published})")
        if not is_quiet:
            database.execute(f"INSERT INTO t VALUES ({at}, {at}); UPDATE t SET a = 9 WHERE id = 2")
        assert altered(config) == ["copied anew"]
        assert mirror_rows(config, "public.t", columns) == database.execute(
            f"SELECT {columns} FROM t ORDER BY id"
        )
        database.execute("UPDATE t SET a = a + 1")
        assert not altered(config)
        assert_equal_to_source(database, config)
    assert "s" not in [name for name, *_ in query(config, "DESCRIBE public.t")]


@pytest.mark.parametrize("which", ["database", "late_database"])
def test_another_expression_is_another_column(
    request: pytest.FixtureRequest, tmp_path: Path, which: str
) -> None:
    """What was written under the one before is written anew."""
    server: ScratchDatabase = request.getfixturevalue(which)
    server.execute(f"{STORED}; INSERT INTO t VALUES (1, 1), (2, 2)")
    config = make_pipeline(server, tmp_path, "public.t")
    if which == "database":
        name = config.source.publication
        server.execute(f"ALTER PUBLICATION {name} SET (publish_generated_columns = stored)")
    converge(server, config)
    server.execute("ALTER TABLE t ALTER s SET EXPRESSION AS (a * 3)")
    assert altered(config) == (["copied anew"] if which == "database" else [])
    assert_equal_to_source(server, config)
    server.execute("UPDATE t SET a = 5 WHERE id = 1")
    converge(server, config)


@pytest.mark.parametrize("is_quiet", [True, False])
@pytest.mark.parametrize("which", ["database", "older_database"])
def test_a_column_that_is_generated_no_more_comes_with_its_values(
    request: pytest.FixtureRequest, tmp_path: Path, which: str, is_quiet: bool
) -> None:
    server: ScratchDatabase = request.getfixturevalue(which)
    server.execute(f"{STORED}; INSERT INTO t VALUES (1, 1), (2, 2)")
    config = make_pipeline(server, tmp_path, "public.t")
    converge(server, config)
    server.execute("ALTER TABLE t ALTER s DROP EXPRESSION")
    if not is_quiet:
        server.execute("UPDATE t SET s = 7 WHERE id = 1; INSERT INTO t VALUES (3, 3, 3)")
    assert altered(config) == ["copied anew"]
    assert mirror_rows(config, "public.t", "id, a, s") == server.execute(
        "SELECT id, a, s FROM t ORDER BY id"
    )
    server.execute("UPDATE t SET s = 8")
    converge(server, config)


def test_generated_columns_that_are_added_and_not_published_alter_nothing(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1)")
    config = pipeline("public.t")
    converge(database, config)
    database.execute("ALTER TABLE t ADD s int GENERATED ALWAYS AS (a) STORED")
    database.execute("ALTER TABLE t ADD v int GENERATED ALWAYS AS (a) VIRTUAL")
    database.execute("UPDATE t SET a = 5; INSERT INTO t VALUES (2, 2)")
    assert not altered(config)
    assert_equal_to_source(database, config)
    database.execute("ALTER TABLE t DROP v")
    database.execute("ALTER TABLE t DROP s")
    assert not altered(config)
    assert_equal_to_source(database, config)


def test_a_generated_column_that_is_added_and_published_is_copied(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1)")
    config = pipeline("public.t")
    name = config.source.publication
    database.execute(f"ALTER PUBLICATION {name} SET (publish_generated_columns = stored)")
    converge(database, config)
    database.execute("ALTER TABLE t ADD s int GENERATED ALWAYS AS (a * 2) STORED")
    database.execute("INSERT INTO t VALUES (2, 2)")
    assert altered(config) == ["copied anew"]
    assert mirror_rows(config, "public.t", "id, a, s") == [(1, 1, 2), (2, 2, 4)]
    database.execute("UPDATE t SET a = 3")
    converge(database, config)
