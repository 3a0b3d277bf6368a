"""Partitions that come, go or are truncated by themselves, which the slot does not say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cdc_assets.changes.shape import TableShape
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import SchemaChangeError
from cdc_assets.lsn import LSN
from cdc_assets.operations.checking import find_problems
from cdc_assets.progress import SchemaChanged, SyncFinished
from cdc_assets.replication.sync import sync
from cdc_assets.steps import Step
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.hints import follow
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.syncs import converge, errors_of, kept, query, sync_all, sync_once

P = """
CREATE TABLE p (id int, part int, a text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE p0 PARTITION OF p FOR VALUES IN (0);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
CREATE TABLE deep PARTITION OF p FOR VALUES IN (5, 6) PARTITION BY LIST (part);
CREATE TABLE deep5 PARTITION OF deep FOR VALUES IN (5);
INSERT INTO p SELECT i, (ARRAY[0, 1, 5])[i % 3 + 1], 'a' FROM generate_series(1, 30) i;
CREATE TABLE late (LIKE p INCLUDING ALL);
INSERT INTO late VALUES (1, 2, 'late'), (2, 2, 'late');
CREATE TABLE tree (LIKE p INCLUDING ALL) PARTITION BY LIST (part);
CREATE TABLE tree7 PARTITION OF tree FOR VALUES IN (7);
INSERT INTO tree VALUES (1, 7, 'in a tree')
"""
# What changes the table's rows without a message on the slot, and what is said of it
SILENT = {
    "attached": (
        "ALTER TABLE p ATTACH PARTITION late FOR VALUES IN (2)",
        "its partition 'public.late' was attached, and may have had rows",
    ),
    "attached as it was made": (
        "CREATE TABLE x (LIKE p INCLUDING ALL); INSERT INTO x VALUES (3, 3, 'x');"
        " ALTER TABLE p ATTACH PARTITION x FOR VALUES IN (3)",
        "its partition 'public.x' was attached, and may have had rows",
    ),
    "attached with what is below": (
        "ALTER TABLE p ATTACH PARTITION tree FOR VALUES IN (7)",
        "2 of its partitions: each was attached, and may have had rows",
    ),
    "detached": (
        "ALTER TABLE p DETACH PARTITION p1",
        "its partition 'public.p1' was detached or dropped",
    ),
    "dropped": ("DROP TABLE p1", "a partition of it was detached or dropped"),
    "detached below": (
        "ALTER TABLE deep DETACH PARTITION deep5",
        "its partition 'public.deep5' was detached or dropped",
    ),
    "detached with what is below": (
        "ALTER TABLE p DETACH PARTITION deep",
        "2 of its partitions: each was detached or dropped",
    ),
    "truncated": ("TRUNCATE p1", "its partition 'public.p1' was truncated or rewritten"),
    "detached and attached again": (
        "ALTER TABLE p DETACH PARTITION p1; DELETE FROM p1 WHERE id < 9;"
        " ALTER TABLE p ATTACH PARTITION p1 FOR VALUES IN (1)",
        "its partition 'public.p1' was detached and attached again",
    ),
    "unlogged for a while": (
        "ALTER TABLE p1 SET UNLOGGED; UPDATE p SET a = 'lost' WHERE part = 1;"
        " ALTER TABLE p1 SET LOGGED",
        "its partition 'public.p1' was truncated or rewritten",
    ),
    "all of them by name": (
        "TRUNCATE p0, p1, deep5",
        "3 of its partitions: each was truncated or rewritten",
    ),
    "new, written and truncated": (
        "CREATE TABLE x PARTITION OF p FOR VALUES IN (3); COMMIT; INSERT INTO p VALUES (3, 3, 'x');"
        " COMMIT; TRUNCATE x",
        "its partition 'public.x' was attached, and may have had rows",
    ),
}
# What leaves its rows to the stream
HARMLESS = {
    "new": "CREATE TABLE x PARTITION OF p FOR VALUES IN (3); INSERT INTO p VALUES (3, 3, 'x')",
    "new, of its own schema": "CREATE SCHEMA own CREATE TABLE x PARTITION OF public.p DEFAULT;"
    " INSERT INTO p VALUES (3, 3, 'x')",
    "new, below": "CREATE TABLE x PARTITION OF deep FOR VALUES IN (6);"
    " INSERT INTO p VALUES (3, 6, 'x')",
    "new, with what is below": "CREATE TABLE x PARTITION OF p DEFAULT PARTITION BY LIST (part);"
    " CREATE TABLE y PARTITION OF x DEFAULT; INSERT INTO p VALUES (3, 3, 'y')",
    "attached without rows": "CREATE TABLE x (LIKE p INCLUDING ALL);"
    " ALTER TABLE p ATTACH PARTITION x FOR VALUES IN (3)",
    "attached as a tree without rows": "TRUNCATE tree; DROP TABLE tree7;"
    " CREATE TABLE tree7 PARTITION OF tree FOR VALUES IN (7);"
    " ALTER TABLE p ATTACH PARTITION tree FOR VALUES IN (7)",
    "new by a function": "DO $$BEGIN EXECUTE 'CREATE TABLE x PARTITION OF p FOR VALUES IN (3)';"
    " INSERT INTO p VALUES (3, 3, 'x'); END$$",
    "came and went without rows": "CREATE TABLE x PARTITION OF p FOR VALUES IN (3); DROP TABLE x",
    "a tree without leaves goes": "CREATE TABLE x PARTITION OF p DEFAULT PARTITION BY LIST (part)",
    "an index": "CREATE INDEX ON p (a)",
    "vacuumed": "DELETE FROM p WHERE part = 1",
    "rolled back": "TRUNCATE p1; ALTER TABLE p DETACH PARTITION p0; DROP TABLE deep; ROLLBACK",
    "another name": "ALTER TABLE p1 RENAME TO q1; UPDATE p SET a = 'b' WHERE part = 1",
}


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """A mirror of thirty rows in three partitions."""
    database.execute(P)
    made = pipeline("public.p")
    converge(database, made)
    return made


def events(config: PipelineConfig) -> list[SchemaChanged]:
    """Sync, and give the alterations that it told."""
    return [event for event in sync(config) if isinstance(event, SchemaChanged)]


@pytest.mark.parametrize("case", SILENT)
def test_what_partitions_do_without_a_word_is_copied_anew(
    database: ScratchDatabase, config: PipelineConfig, case: str
) -> None:
    statements, what = SILENT[case]
    database.execute(statements)
    (change,) = events(config)
    assert (change.how, change.what) == ("copied anew", what)
    assert_equal_to_source(database, config)
    assert not events(config)
    database.execute("UPDATE p SET a = 'then'; DELETE FROM p WHERE id = 3")
    assert not events(config)
    assert_equal_to_source(database, config)


@pytest.mark.parametrize("case", SILENT)
def test_it_is_so_between_changes_and_beside_what_is_kept_of_them(
    database: ScratchDatabase, pipeline: MakePipeline, case: str
) -> None:
    database.execute(P)
    config = kept(pipeline("public.p"), ["mirror", "changes", "history"])
    converge(database, config)
    database.execute("UPDATE p SET a = 'before' WHERE id < 10; INSERT INTO p VALUES (40, 0, 'n')")
    database.execute(SILENT[case][0])
    database.execute("UPDATE p SET a = 'behind' WHERE id < 20; DELETE FROM p WHERE id = 40")
    assert [change.how for change in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)
    now = "SELECT id, part, a FROM public.p__history WHERE _cdc_valid_to IS NULL ORDER BY ALL"
    assert query(config, now) == database.execute("SELECT id, part, a FROM p ORDER BY 1, 2, 3")


@pytest.mark.parametrize("case", HARMLESS)
def test_what_the_stream_says_is_not_copied(
    database: ScratchDatabase, config: PipelineConfig, case: str
) -> None:
    database.execute(HARMLESS[case])
    if case == "vacuumed":
        database.execute("VACUUM p1")
    assert not events(config)
    assert_equal_to_source(database, config)
    database.execute("INSERT INTO p VALUES (70, 0, 'n'); UPDATE p SET a = 'then'")
    assert not events(config)
    assert_equal_to_source(database, config)


TRUNCATED = {
    "whole": "TRUNCATE p",
    "and written": "TRUNCATE p; INSERT INTO p VALUES (50, 0, 'n'), (51, 6, 'n')",
    "beside a new one": "TRUNCATE p; COMMIT; CREATE TABLE x PARTITION OF p DEFAULT;"
    " INSERT INTO p VALUES (50, 3, 'n')",
    "twice": "TRUNCATE p; COMMIT; INSERT INTO p VALUES (50, 0, 'n'); COMMIT; TRUNCATE p",
    "behind one of its partitions": "TRUNCATE p1; COMMIT; TRUNCATE p",
}


@pytest.mark.parametrize("case", TRUNCATED)
@pytest.mark.parametrize("is_quiet", [True, False])
def test_a_truncation_of_the_whole_table_is_on_the_stream(
    database: ScratchDatabase, pipeline: MakePipeline, case: str, is_quiet: bool
) -> None:
    database.execute(f"{P}; CREATE TABLE deep6 PARTITION OF deep FOR VALUES IN (6)")
    config = pipeline("public.p", schema_changes="stop")
    converge(database, config)
    if not is_quiet:
        database.execute("UPDATE p SET a = 'before'; INSERT INTO p VALUES (90, 0, 'n')")
    database.execute(TRUNCATED[case])
    if not is_quiet:
        database.execute("INSERT INTO p VALUES (91, 0, 'n'); UPDATE p SET a = 'then'")
    assert not find_problems(config)
    assert not events(config)
    assert_equal_to_source(database, config)
    assert not events(config)
    database.execute("TRUNCATE p1")
    assert "truncated" in str(errors_of(sync_once(config))["public.p"])


@pytest.mark.parametrize("exchanged", ["TRUNCATE p0", "VACUUM FULL p"])
def test_the_only_partition_has_another_file(
    database: ScratchDatabase, pipeline: MakePipeline, exchanged: str
) -> None:
    """What was not truncated as a whole the stream does not say, and then it is copied."""
    database.execute(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE p0 PARTITION OF p DEFAULT; INSERT INTO p VALUES (1), (2)"
    )
    config = pipeline("public.p")
    converge(database, config)
    database.execute("INSERT INTO p VALUES (3)")
    database.execute(exchanged)
    assert [change.how for change in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)
    assert not events(config)


def test_a_truncation_behind_a_runs_target_is_the_next_ones(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(P)
    config = pipeline("public.p", schema_changes="stop")
    converge(database, config)
    database.execute("UPDATE p SET a = 'n'")
    ((lsn,),) = database.execute("SELECT pg_current_wal_lsn()::text")
    database.execute("TRUNCATE p; INSERT INTO p VALUES (60, 0, 'n')")
    *_, finished = sync(config, until_lsn=LSN.parse(lsn))
    assert isinstance(finished, SyncFinished) and not finished.failed
    converge(database, config)
    database.execute("UPDATE p SET a = 'm'")
    with at_step("before_commit", 1, lambda: database.execute("TRUNCATE p")):
        sync_all(config)
    converge(database, config)


@pytest.mark.parametrize("step", ["window_read", "before_commit", "window_committed"])
def test_a_run_that_is_killed_at_a_truncation_is_made_good(
    database: ScratchDatabase, pipeline: MakePipeline, step: Step
) -> None:
    database.execute(P)
    config = pipeline("public.p", schema_changes="stop")
    converge(database, config)
    database.execute("UPDATE p SET a = 'n'; TRUNCATE p; INSERT INTO p VALUES (60, 0, 'n')")
    assert kill_at(config, step, 1)
    converge(database, config)


@pytest.mark.parametrize(
    "statements",
    [
        SILENT["attached as it was made"][0],
        SILENT["detached and attached again"][0],
        HARMLESS["new, with what is below"],
        HARMLESS["attached as a tree without rows"],
        TRUNCATED["twice"],
    ],
)
def test_an_older_servers_catalog_says_as_much(
    older_database: ScratchDatabase, tmp_path: Path, statements: str
) -> None:
    older_database.execute(P)
    config = make_pipeline(older_database, tmp_path, "public.p")
    converge(older_database, config)
    older_database.execute(statements)
    is_silent = statements in {silent for silent, _ in SILENT.values()}
    assert [change.how for change in events(config)] == ["copied anew"] * is_silent
    assert_equal_to_source(older_database, config)


def test_a_partition_that_is_detached_beside_its_readers(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("ALTER TABLE p DETACH PARTITION p1 CONCURRENTLY")
    assert [change.how for change in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)


@pytest.mark.parametrize("case", ["attached", "dropped", "truncated"])
def test_a_table_that_is_to_stop_does(
    database: ScratchDatabase, pipeline: MakePipeline, case: str
) -> None:
    database.execute(f"{P}; CREATE TABLE other (id int PRIMARY KEY)")
    config = pipeline("public.p", "public.other", schema_changes="stop")
    converge(database, config)
    statements, what = SILENT[case]
    database.execute(f"{statements}; INSERT INTO other VALUES (1)")
    (problem,) = find_problems(config)
    for _ in range(2):
        error = errors_of(sync_once(config))["public.p"]
        assert isinstance(error, SchemaChangeError)
        assert (error.what, error.message, error.hint) == (what, problem.message, problem.hint)
    assert query(config, "SELECT id FROM public.other") == [(1,)]
    follow(error.hint, database, config)
    converge(database, config)


def test_a_table_whose_first_partition_comes_with_rows(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE p0 (id int PRIMARY KEY); INSERT INTO p0 VALUES (1)"
    )
    config = pipeline("public.p")
    converge(database, config)
    database.execute("ALTER TABLE p ATTACH PARTITION p0 DEFAULT")
    assert [change.how for change in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)


def test_a_checkpoint_of_a_version_before_goes_on_from_what_is_there(
    database: ScratchDatabase, config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = TableShape.from_json
    with monkeypatch.context() as before:
        without = lambda plain: read({**plain, "partitions": ""})  # noqa: E731
        before.setattr(TableShape, "from_json", staticmethod(without))
        database.execute("CREATE TABLE x PARTITION OF p DEFAULT; INSERT INTO p VALUES (3, 3, 'x')")
        assert not events(config)
        assert_equal_to_source(database, config)
    database.execute("DROP TABLE x")
    assert [change.how for change in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)


@pytest.mark.parametrize("step", ["window_committed", "chunk_committed", "copy_staged"])
def test_a_run_that_is_killed_is_made_good(
    database: ScratchDatabase, config: PipelineConfig, step: Step
) -> None:
    database.execute("UPDATE p SET a = 'before'")
    database.execute("DROP TABLE p1; INSERT INTO p VALUES (80, 0, 'n')")
    assert kill_at(config, step, 1)
    converge(database, config)
    assert not events(config)


def test_partitions_that_are_altered_while_their_table_is_copied_anew(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("DROP TABLE p1")
    again: list[Callable[[], object]] = [
        lambda: database.execute("ALTER TABLE p ATTACH PARTITION late FOR VALUES IN (2)"),
        lambda: database.execute("ALTER TABLE p DETACH PARTITION late; DELETE FROM late"),
    ]
    with at_step("chunk_read", 1, again[0]):
        sync_all(config)
    with at_step("before_commit", 1, again[1]):
        database.execute("INSERT INTO p VALUES (81, 0, 'n')")
        sync_all(config)
    converge(database, config)
