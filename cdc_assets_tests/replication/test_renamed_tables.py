"""A table goes on under the config's name, whatever the source calls it: its oid tells it."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.identifiers import TableName
from cdc_assets.operations.checking import find_problems
from cdc_assets.operations.status import read_status
from cdc_assets.operations.status_text import status_lines
from cdc_assets.progress import SchemaChanged, TableCompared
from cdc_assets.replication import copying
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.replication.sync import sync
from cdc_assets_tests.command_line import rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.syncs import converge, errors_of, kept, mirror_rows, query, sync_once

# What an owner does, and what the table is called then
RENAMED = {
    "another name": ("ALTER TABLE t RENAME TO t_2", "public.t_2"),
    "another schema": ("CREATE SCHEMA archive; ALTER TABLE t SET SCHEMA archive", "archive.t"),
    "both": (
        "CREATE SCHEMA archive; ALTER TABLE t RENAME TO t_2; ALTER TABLE t_2 SET SCHEMA archive",
        "archive.t_2",
    ),
    "a view in its place": (
        "ALTER TABLE t RENAME TO t_2; CREATE VIEW t AS SELECT * FROM t_2",
        "public.t_2",
    ),
    "an odd name": ('ALTER TABLE t RENAME TO "t.2 ""x"""', 'public."t.2 ""x"""'),
}


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """A table that is kept in all ways, and another one."""
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a text); INSERT INTO t VALUES (1, 'a'), (2, 'b');"
        "CREATE TABLE other (id int PRIMARY KEY)"
    )
    made = kept(pipeline("public.t", "public.other"), ["mirror", "changes", "history"])
    converge(database, made)
    return made


def alterations(config: PipelineConfig) -> list[tuple[str, str]]:
    """Sync, and give what it says was altered."""
    events = list(sync(config))
    assert not errors_of(events[-1])  # type: ignore[arg-type]
    return [(event.what, event.how) for event in events if isinstance(event, SchemaChanged)]


def rows(database: ScratchDatabase, called: str) -> list[tuple[Any, ...]]:
    """Read the source's table."""
    return database.execute(f"SELECT * FROM {TableName.parse(called).sql} ORDER BY 1")


def own_rows(config: PipelineConfig) -> list[tuple[Any, ...]]:
    """Read the mirror, without the columns that are ours."""
    return query(config, "SELECT * EXCLUDE (_cdc_lsn, _cdc_commit_ts) FROM public.t ORDER BY 1")


@pytest.mark.parametrize("renamed", RENAMED)
def test_a_table_with_another_name_goes_on_and_it_is_said(
    database: ScratchDatabase, config: PipelineConfig, renamed: str
) -> None:
    ddl, called = RENAMED[renamed]
    database.execute("UPDATE t SET a = 'before' WHERE id = 1")
    database.execute(ddl)
    name = TableName.parse(called).sql
    database.execute(f"INSERT INTO {name} VALUES (3, 'behind'); INSERT INTO other VALUES (1)")

    noted: list[str] = []
    assert find_problems(config, noted.append) == []
    said = f"is called {called!r} on the source now"
    assert [line for line in noted if said in line]

    assert alterations(config) == [
        (f"is called {called!r} on the source, was 'public.t'", "as it is")
    ]
    assert own_rows(config) == rows(database, called)
    noted_there = "SELECT source_table, what, how FROM _cdc.schema_changes"
    assert query(config, noted_there) == [
        ("public.t", f"is called {called!r} on the source, was 'public.t'", "as it is")
    ]
    changes = "SELECT _cdc_op, id, a FROM public.t__changes ORDER BY _cdc_lsn, _cdc_seq"
    assert query(config, changes)[-2:] == [("update", 1, "before"), ("insert", 3, "behind")]

    database.execute(f"DELETE FROM {name} WHERE id = 2")
    assert alterations(config) == []
    assert own_rows(config) == rows(database, called)
    status = read_status(config)
    assert status.healthy
    assert f"note: public.t is called {called!r} on the source now" in status_lines(status)
    assert find_problems(config) == []
    assert run_command(config, "setup").code == 0


def test_a_table_gets_its_name_back(database: ScratchDatabase, config: PipelineConfig) -> None:
    database.execute("ALTER TABLE t RENAME TO u")
    assert len(alterations(config)) == 1
    database.execute("INSERT INTO u VALUES (3, 'c'); ALTER TABLE u RENAME TO t")
    assert alterations(config) == [
        ("is called 'public.t' on the source, was 'public.u'", "as it is")
    ]
    assert read_status(config).tables[0].called == ""
    converge(database, config)


@pytest.mark.parametrize("stopped", ["window_read", "before_commit", "window_confirmed"])
def test_a_run_that_is_killed_loses_nothing(
    database: ScratchDatabase, config: PipelineConfig, stopped: Any
) -> None:
    database.execute("UPDATE t SET a = 'before'")
    database.execute("BEGIN; ALTER TABLE t RENAME TO u; INSERT INTO u VALUES (3, 'c'); COMMIT")
    assert kill_at(config, stopped, 1)
    assert len(alterations(config)) == 1
    assert own_rows(config) == rows(database, "public.u")


def test_columns_that_are_altered_as_well_follow_in_place(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("UPDATE t SET a = 'before' WHERE id = 1")
    database.execute("ALTER TABLE t RENAME TO u; ALTER TABLE u ADD b int DEFAULT 7")
    database.execute("INSERT INTO u VALUES (3, 'c', 8)")
    assert [how for _, how in alterations(config)] == ["in place", "as it is"]
    assert own_rows(config) == rows(database, "public.u")


def test_what_reads_the_table_finds_it(database: ScratchDatabase, config: PipelineConfig) -> None:
    database.execute("CREATE SCHEMA archive; ALTER TABLE t SET SCHEMA archive")
    table = TableName.parse("public.t")
    list(backfill(config, table))
    assert own_rows(config) == rows(database, "archive.t")
    compared = [one for one in reconcile(config, tables=[table]) if isinstance(one, TableCompared)]
    assert [(one.not_compared, one.equal) for one in compared] == [("", True)]
    preview = run_command(config, "preview", "public.t")
    assert preview.code == 0, preview
    database.execute("UPDATE archive.t SET id = id + 10")
    assert alterations(config) == [
        ("is called 'archive.t' on the source, was 'public.t'", "as it is")
    ]
    assert own_rows(config) == rows(database, "archive.t")


def test_a_table_with_another_name_is_copied_anew_under_it(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("ALTER TABLE t RENAME TO u; ALTER TABLE u ALTER a TYPE text USING upper(a)")
    database.execute("INSERT INTO u VALUES (3, 'c')")
    assert [how for _, how in alterations(config)] == ["copied anew", "as it is"]
    assert own_rows(config) == rows(database, "public.u")


def test_a_table_that_gets_another_name_while_it_is_copied(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk that is about to be read fails; the next run goes on with the copy."""
    monkeypatch.setattr(copying, "CHUNK_ROWS", 2)
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)")
    config = pipeline("public.t")
    with at_step("chunk_committed", 1, lambda: database.execute("ALTER TABLE t RENAME TO u")):
        assert set(errors_of(sync_once(config))) == {"public.t"}
    database.execute("INSERT INTO u VALUES (4)")
    alterations(config)
    assert mirror_rows(config, "public.t", "id") == rows(database, "public.u")


def test_a_table_that_is_to_stop_stops(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY)")
    config = pipeline("public.t", "public.other", schema_changes="stop")
    converge(database, config)
    database.execute("ALTER TABLE t RENAME TO u; INSERT INTO u VALUES (1)")
    (error,) = errors_of(sync_once(config)).values()
    assert "is called 'public.u' on the source now" in error.message
    assert 'ALTER TABLE "public"."u" RENAME TO "t"' in error.hint
    database.execute("ALTER TABLE u RENAME TO t")
    converge(database, config)


# A new table takes the name of the config's in one transaction
BLUE_GREEN = {
    "renamed": "ALTER TABLE t RENAME TO old; ALTER TABLE made RENAME TO t",
    "dropped": "DROP TABLE t; ALTER TABLE made RENAME TO t",
}


@pytest.mark.parametrize("swap", BLUE_GREEN)
def test_another_table_of_the_name_stops_it(
    database: ScratchDatabase, config: PipelineConfig, swap: str
) -> None:
    before = own_rows(config)
    blue_green(database, config, swap)
    assert set(errors_of(sync_once(config))) == {"public.t"}
    assert own_rows(config) == before
    assert mirror_rows(config, "public.other", "id") == [(1,)]
    list(backfill(config, TableName.parse("public.t")))
    converge(database, config)


@pytest.mark.parametrize("swap", BLUE_GREEN)
def test_another_table_of_the_name_is_copied_where_that_is_wanted(
    database: ScratchDatabase, config: PipelineConfig, swap: str
) -> None:
    keep = ["mirror", "changes", "history"]
    config = kept(config, keep, schema_changes={"recreated_tables": "backfill"})
    blue_green(database, config, swap)
    assert [how for _, how in alterations(config)] == ["copied anew"]
    assert own_rows(config) == rows(database, "public.t")
    database.execute("UPDATE t SET a = 'later' WHERE id = 2")
    converge(database, config)


def blue_green(database: ScratchDatabase, config: PipelineConfig, swap: str) -> None:
    """Put another table in the place of `t`, with changes before, in and behind that."""
    database.execute("UPDATE t SET a = 'lost' WHERE id = 1")
    database.execute("CREATE TABLE made (id int PRIMARY KEY, a text)")
    database.execute(f"ALTER PUBLICATION {config.source.publication} ADD TABLE made")
    database.execute("INSERT INTO made VALUES (2, 'new'), (3, 'new')")
    database.execute(
        f"BEGIN; INSERT INTO t VALUES (9, 'lost'); {BLUE_GREEN[swap]};"
        " INSERT INTO t VALUES (4, 'new'); INSERT INTO other VALUES (1); COMMIT"
    )
    database.execute("DELETE FROM t WHERE id = 3")


def test_a_table_that_is_dropped_stops_until_it_is_made_again(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    keep = ["mirror", "changes", "history"]
    config = kept(config, keep, schema_changes={"recreated_tables": "backfill"})
    before = own_rows(config)
    database.execute("UPDATE t SET a = 'lost'; DROP TABLE t; INSERT INTO other VALUES (1)")
    (error,) = errors_of(sync_once(config)).values()
    assert error.message == "table 'public.t' was dropped on the source"
    assert "cdc-assets teardown --table public.t" in error.hint
    assert error.message in [problem.message for problem in find_problems(config)]
    assert mirror_rows(config, "public.other", "id") == [(1,)]
    assert own_rows(config) == before

    database.execute("CREATE TABLE t (id int PRIMARY KEY, b int); INSERT INTO t VALUES (7, 1)")
    assert run_command(config, "setup").code == 0
    database.execute("INSERT INTO t VALUES (8, 2)")
    assert [how for _, how in alterations(config)] == ["copied anew"]
    database.execute("DELETE FROM t WHERE id = 7; INSERT INTO t VALUES (9, 3)")
    converge(database, config)
    assert find_problems(config) == []


def test_a_name_that_is_anothers_of_the_config_is_not_followed(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    for table in ("a", "b"):
        database.execute(
            f"CREATE TABLE {table} (id int PRIMARY KEY); INSERT INTO {table} VALUES (1)"
        )
    made = pipeline("public.a", "public.b")
    config = kept(made, ["mirror"], schema_changes={"recreated_tables": "backfill"})
    converge(database, config)
    database.execute(
        "ALTER TABLE a RENAME TO old; ALTER TABLE b RENAME TO a; INSERT INTO a VALUES (2)"
    )
    (error,) = errors_of(sync_once(config)).values()
    assert "'public.b' is called 'public.a' on the source now" in error.message
    assert "leave 'public.b' out of the config's tables" in error.hint
    assert mirror_rows(config, "public.a", "id") == [(1,), (2,)]
    assert mirror_rows(config, "public.b", "id") == [(1,)]


def test_a_partitioned_table_goes_on_under_another_name(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a text) PARTITION BY RANGE (id);"
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (10); INSERT INTO t VALUES (1, 'a')"
    )
    config = pipeline("public.t")
    converge(database, config)
    database.execute("ALTER TABLE t RENAME TO u; ALTER TABLE t_1 RENAME TO u_1")
    database.execute("INSERT INTO u VALUES (2, 'b'); UPDATE u_1 SET a = 'c' WHERE id = 1")
    assert len(alterations(config)) == 1
    assert own_rows(config) == rows(database, "public.u")


def named(config: PipelineConfig, name: str) -> PipelineConfig:
    """Give the pipeline whose config has another name for `public.t`."""
    keep = ["mirror", "changes", "history"]
    tables = [{"source": one, "keep": keep} for one in (name, "public.other")]
    return load_config(rewrite(config, tables=tables))


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("renamed", ["another name", "another schema", "both"])
def test_what_is_kept_takes_the_name_that_the_config_has_now(
    database: ScratchDatabase, config: PipelineConfig, renamed: str, seen: bool
) -> None:
    """Whether a sync has come between the two renamings or not."""
    ddl, called = RENAMED[renamed]
    name = TableName.parse(called)
    ((then,),) = query(config, "SELECT max(lsn) FROM _cdc.checkpoints")
    database.execute("UPDATE t SET a = 'before' WHERE id = 1")
    database.execute(ddl)
    if seen:
        assert len(alterations(config)) == 1
    database.execute(f"INSERT INTO {name.sql} VALUES (3, 'behind')")

    config = named(config, called)
    noted: list[str] = []
    assert find_problems(config, noted.append) == []
    assert f"what is kept as 'public.t' is {called!r} from the next sync on" in noted
    finished = converge(database, config)
    assert f"what was kept as 'public.t' is {called!r} now" in finished.notes
    assert not any(table.counts.copied for table in finished.tables)

    kept_names = {called, f"{called}__changes", f"{called}__history"}
    assert {one for one in tables_of(config) if "other" not in one} == kept_names
    changes = f"SELECT _cdc_op, id FROM {called}__changes ORDER BY _cdc_lsn, _cdc_seq"
    assert query(config, changes) == [
        ("snapshot", 1),
        ("snapshot", 2),
        ("update", 1),
        ("insert", 3),
    ]
    as_of = f"SELECT id, a FROM {called}__as_of_lsn({then}) ORDER BY id"
    assert query(config, as_of) == [(1, "a"), (2, "b")]
    noted_of = f"SELECT what FROM _cdc.schema_changes WHERE source_table = '{called}'"
    assert ("was kept as 'public.t'",) in query(config, noted_of)

    database.execute(f"DELETE FROM {name.sql} WHERE id = 2; UPDATE {name.sql} SET a = 'later'")
    converge(database, config)
    assert find_problems(config) == []
    compared = [one for one in reconcile(config) if isinstance(one, TableCompared)]
    assert [one.equal for one in compared] == [True, True]


def tables_of(config: PipelineConfig) -> set[str]:
    """Name the warehouse's tables, but for our own."""
    rows = query(config, "SELECT schema_name, table_name FROM duckdb_tables()")
    return {str(TableName(*row)) for row in rows if row[0] != "_cdc"}


def test_a_run_that_is_killed_gives_new_names_once(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("CREATE SCHEMA archive; ALTER TABLE t SET SCHEMA archive")
    database.execute("INSERT INTO archive.t VALUES (3, 'c')")
    config = named(config, "archive.t")
    assert kill_at(config, "names_taken", 1)
    assert "archive.t" not in tables_of(config)
    assert kill_at(config, "before_commit", 1)
    assert "archive.t" in tables_of(config)
    converge(database, config)
    assert query(config, "SELECT count(*) FROM archive.t__changes") == [(3,)]


def test_a_name_that_is_taken_in_the_warehouse_is_said(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("CREATE TABLE public.u (i int)")
    database.execute("ALTER TABLE t RENAME TO u")
    config = named(config, "public.u")
    (error,) = errors_of(sync_once(config)).values()
    assert "exists in the warehouse without a checkpoint" in error.message
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("DROP TABLE public.u")
    (error,) = errors_of(sync_once(config)).values()  # the other table's sync has passed it
    assert "changes in between are gone" in error.hint
    list(backfill(config, TableName.parse("public.u")))
    converge(database, config)
    assert "public.t" not in tables_of(config)


def test_another_table_gets_nothing_of_one_that_left_the_config(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("CREATE TABLE u (id int PRIMARY KEY, a text); INSERT INTO u VALUES (7, 'u')")
    database.execute(f"ALTER PUBLICATION {config.source.publication} ADD TABLE u")
    config = named(config, "public.u")
    converge(database, config)
    assert {"public.t", "public.u"} <= tables_of(config)
