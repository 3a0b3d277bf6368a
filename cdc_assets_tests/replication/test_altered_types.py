"""Types that are altered under values that are there, of which the slot says nothing."""

from __future__ import annotations

import pytest

from cdc_assets.changes.shape import SourceColumn
from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import SchemaChangeError
from cdc_assets.operations.checking import find_problems
from cdc_assets.progress import SchemaChanged
from cdc_assets.replication import copying
from cdc_assets.replication.sync import sync
from cdc_assets.steps import Step
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.hints import follow
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.syncs import converge, errors_of, kept, query, sync_all, sync_once

TYPES = """
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE TYPE pair AS (x int, m mood);
CREATE DOMAIN named AS pair CHECK ((VALUE).x > 0);
CREATE TYPE moods AS RANGE (subtype = mood, multirange_type_name = many_moods);
CREATE TABLE parent (id int PRIMARY KEY, note text);
CREATE TYPE nest AS (deep named[])
"""
# A column's type, and two of its values
COLUMNS = {
    "an enum": ("mood", "'good'", "'bad'"),
    "a list of enums": ("mood[]", "'{good,NULL}'", "'{bad}'"),
    "a composite": ("pair", "'(1,good)'", "'(2,)'"),
    "a domain": ("named", "'(1,good)'", "'(3,bad)'"),
    "a range": ("moods", "'[good,bad]'", "'empty'"),
    "many ranges": ("many_moods", "'{[good,good]}'", "'{}'"),
    "a list of composites": ("pair[]", "'{\"(1,good)\"}'", "'{}'"),
    "a nest": ("nest", "ROW(ARRAY['(1,good)'::named])", "NULL"),
}
ALTERED = "ALTER TYPE mood RENAME VALUE 'good' TO 'well'"
HARMLESS = {
    "a label": "ALTER TYPE mood ADD VALUE 'mixed'",
    "a label before another": "ALTER TYPE mood ADD VALUE 'mixed' BEFORE 'bad'",
    "an attribute's name": "ALTER TYPE pair RENAME ATTRIBUTE x TO y",
    "a type's name": "ALTER TYPE mood RENAME TO feeling; ALTER TYPE pair RENAME TO two",
    "a domain's check": "ALTER DOMAIN named ADD CHECK ((VALUE).x < 100)",
    "a domain's default": "ALTER DOMAIN named SET DEFAULT '(7,bad)'",
    "another type": "CREATE TYPE other AS ENUM ('a'); ALTER TYPE other RENAME VALUE 'a' TO 'b'",
    "rolled back": f"{ALTERED}; ALTER TYPE pair ADD ATTRIBUTE z int; ROLLBACK",
}


def make(
    database: ScratchDatabase, pipeline: MakePipeline, case: str, **options: str
) -> PipelineConfig:
    """Make a mirror of two rows that have a column of some type."""
    kind, one, other = COLUMNS[case]
    database.execute(f"{TYPES}; CREATE TABLE t (id int PRIMARY KEY, v {kind}, n int)")
    database.execute(f"INSERT INTO t VALUES (1, {one}, 0), (2, {other}, 0)")
    config = pipeline("public.t", **options)
    converge(database, config)
    return config


def events(config: PipelineConfig) -> list[SchemaChanged]:
    """Sync, and give the alterations that it told."""
    return [event for event in sync(config) if isinstance(event, SchemaChanged)]


@pytest.mark.parametrize("case", COLUMNS)
def test_a_label_that_is_called_otherwise_is_read_anew(
    database: ScratchDatabase, pipeline: MakePipeline, case: str
) -> None:
    config = make(database, pipeline, case)
    database.execute(ALTERED)
    (change,) = events(config)
    assert (change.how, change.what) == ("copied anew", "the type of 'v' was altered")
    assert_equal_to_source(database, config)
    database.execute("INSERT INTO t SELECT id + 2, v FROM t; UPDATE t SET n = 3 WHERE id = 1")
    assert not events(config)
    assert_equal_to_source(database, config)


@pytest.mark.parametrize("case", ["an enum", "a nest"])
def test_in_the_middle_of_the_stream_as_well(
    database: ScratchDatabase, pipeline: MakePipeline, case: str
) -> None:
    """A change has the label of its own time, wherever it stands in a transaction."""
    config = kept(make(database, pipeline, case), ["mirror", "changes", "history"])
    sync_all(config)
    database.execute("INSERT INTO t SELECT id + 2, v FROM t")
    database.execute(f"UPDATE t SET n = 1; {ALTERED}; INSERT INTO t SELECT id + 4, v FROM t")
    database.execute("UPDATE t SET n = 3 WHERE id IN (2, 5)")
    assert [change.how for change in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)
    now = "SELECT id, v FROM public.t__history WHERE _cdc_valid_to IS NULL ORDER BY id"
    assert query(config, now) == database.execute("SELECT id, v::text FROM t ORDER BY id")


def test_a_label_that_had_another_name_for_a_while(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = make(database, pipeline, "an enum")
    database.execute(f"{ALTERED}; INSERT INTO t SELECT id + 2, v FROM t")
    database.execute("ALTER TYPE mood RENAME VALUE 'well' TO 'good'")
    assert [change.how for change in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)


@pytest.mark.parametrize(
    "ddl", ["ADD ATTRIBUTE z int", "DROP ATTRIBUTE x", "ADD ATTRIBUTE z int, DROP ATTRIBUTE m"]
)
@pytest.mark.parametrize("case", ["a composite", "a list of composites"])
def test_a_composites_attributes_are_in_its_texts(
    database: ScratchDatabase, pipeline: MakePipeline, case: str, ddl: str
) -> None:
    config = make(database, pipeline, case)
    database.execute("DROP DOMAIN named CASCADE; INSERT INTO t SELECT id + 2, v FROM t")
    database.execute(f"ALTER TYPE pair {ddl}; UPDATE t SET n = 1 WHERE id = 2")
    assert [change.how for change in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)


def test_an_attribute_that_was_there_for_a_while(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = make(database, pipeline, "a composite")
    database.execute("DROP DOMAIN named CASCADE; ALTER TYPE pair ADD ATTRIBUTE z int")
    database.execute("INSERT INTO t VALUES (3, '(1,good,5)')")
    database.execute("ALTER TYPE pair DROP ATTRIBUTE z")
    assert [change.how for change in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)


def test_rows_of_another_table_as_values(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute(f"{TYPES}; CREATE TABLE t (id int PRIMARY KEY, v parent)")
    database.execute("INSERT INTO t VALUES (1, '(1,a)')")
    config = pipeline("public.t")
    converge(database, config)
    database.execute("ALTER TABLE parent ADD COLUMN more int")
    assert [change.how for change in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)


@pytest.mark.parametrize("case", ["an enum", "a domain"])
@pytest.mark.parametrize("harmless", HARMLESS)
def test_what_alters_no_text_is_not_copied(
    database: ScratchDatabase, pipeline: MakePipeline, case: str, harmless: str
) -> None:
    config = make(database, pipeline, case)
    database.execute(HARMLESS[harmless])
    assert not events(config)
    database.execute("INSERT INTO t SELECT id + 2, v FROM t; UPDATE t SET n = 3 WHERE id = 1")
    assert not events(config)
    assert_equal_to_source(database, config)


def test_a_label_that_is_renamed_beside_a_column_that_is_added(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = make(database, pipeline, "an enum")
    database.execute(f"{ALTERED}; ALTER TABLE t ADD c int DEFAULT 7")
    (change,) = events(config)
    assert (change.how, change.what) == ("copied anew", "added 'c', the type of 'v' was altered")
    assert_equal_to_source(database, config)


def test_types_of_columns_that_are_not_kept_do_not_matter(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(f"{TYPES}; CREATE TABLE t (id int PRIMARY KEY, v mood)")
    config = pipeline("public.t")
    tables = [{"source": "public.t", "columns": {"exclude": ["v"]}}]
    config = load_config(rewrite(config, tables=tables))
    sync_all(config)
    database.execute(ALTERED)
    assert not events(config)


def test_a_table_that_is_to_stop_does(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    config = make(database, pipeline, "an enum", schema_changes="stop")
    database.execute(ALTERED)
    (problem,) = find_problems(config)
    error = errors_of(sync_once(config))["public.t"]
    assert isinstance(error, SchemaChangeError)
    assert (error.message, error.hint) == (problem.message, problem.hint)
    follow(error.hint, database, config)
    converge(database, config)


def test_a_checkpoint_of_a_version_before_goes_on_from_what_is_there(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(database, pipeline, "an enum")
    with monkeypatch.context() as before:
        before.setattr(SourceColumn, "has_other_parts", lambda *_: False)
        database.execute(ALTERED)
        assert not events(config)
    assert not events(config)
    database.execute("ALTER TYPE mood RENAME VALUE 'well' TO 'fine'")
    assert [change.how for change in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)


def test_a_label_that_is_renamed_while_its_table_is_copied(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "CHUNK_ROWS", 3)
    database.execute(f"{TYPES}; CREATE TABLE t (id int PRIMARY KEY, v mood)")
    database.execute("INSERT INTO t SELECT i, 'good' FROM generate_series(1, 9) i")
    config = pipeline("public.t")
    with at_step("chunk_committed", 1, lambda: database.execute(ALTERED)):
        sync_once(config)
    converge(database, config)


@pytest.mark.parametrize("step", ["chunk_committed", "copy_staged"])
def test_a_run_that_is_killed_is_made_good(
    database: ScratchDatabase, pipeline: MakePipeline, step: Step
) -> None:
    config = make(database, pipeline, "a composite")
    database.execute(f"INSERT INTO t SELECT id + 2, v FROM t; {ALTERED}; UPDATE t SET n = 4")
    assert kill_at(config, step, 1)
    converge(database, config)
    assert not events(config)
