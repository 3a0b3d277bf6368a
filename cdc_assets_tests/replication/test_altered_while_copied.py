"""Names that mean something else between two chunks: a mirror is never made of two tables."""

from __future__ import annotations

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import SchemaChangeError
from cdc_assets.operations.checking import find_problems
from cdc_assets.replication import copying
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step
from cdc_assets_tests.syncs import converge, errors_of, has_mirror, mirror_rows, sync_once

SWAPS = {
    "columns": "ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a;"
    "ALTER TABLE t RENAME x TO b",
    "tables": "ALTER TABLE t RENAME TO x; ALTER TABLE t2 RENAME TO t; ALTER TABLE x RENAME TO t2",
}

LEAVE_AND_RETURN = (
    "ALTER PUBLICATION {name} DROP TABLE t; UPDATE t SET a = 'lost'; ALTER PUBLICATION {name} ADD"
    " TABLE t"
)
# What makes the chunks unlike one another, and what is said of it
APART = {
    "leaves and returns": (LEAVE_AND_RETURN, "it left the publication and came back"),
    "only leaves": ("ALTER PUBLICATION {name} DROP TABLE t", "left the publication"),
    "row filter": ("ALTER PUBLICATION {name} SET TABLE t WHERE (id > 0), t2, u", "its row filter"),
    "key made anew": (
        "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id)",
        "its key was made anew",
    ),
    "dropped": ("DROP TABLE t", "not there any more"),
}
TOGETHER = {
    "truncated": "TRUNCATE t; INSERT INTO t VALUES (2, 'new', 'b'), (40, 'new', 'b')",
    "vacuumed": "VACUUM FULL t",
    "rewritten": "ALTER TABLE t ALTER a TYPE text USING upper(a)",
    "statistics": "ALTER TABLE t ALTER a SET STATISTICS 7",
    "renamed to and fro": "ALTER TABLE t RENAME TO x; UPDATE x SET a = 'y'; ALTER TABLE x RENAME"
    " TO t",
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
    config = pipeline("public.t", "public.u", schema_changes="stop")
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
    assert not has_mirror(config, "public.t")
    assert mirror_rows(config, "public.u", "id") == [(1,)]

    converge(database, config)


@pytest.mark.parametrize("swapped", SWAPS)
def test_a_copy_that_names_stopped_is_made_anew(
    database: ScratchDatabase, config: PipelineConfig, swapped: str
) -> None:
    with at_step("chunk_committed", 2, lambda: database.execute(SWAPS[swapped])):
        assert set(errors_of(sync_once(config))) == {"public.t"}

    database.execute("INSERT INTO t VALUES (9, 'late', 'b')")
    converge(database, config)
    database.execute("UPDATE t SET a = 'new', id = id + 20 WHERE id < 5")
    converge(database, config)


def run(database: ScratchDatabase, config: PipelineConfig, statements: str) -> None:
    for statement in statements.format(name=config.source.publication).split("; "):
        database.execute(statement)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("apart", APART)
def test_chunks_that_are_of_no_moment_are_no_copy(
    database: ScratchDatabase, config: PipelineConfig, apart: str, number: int
) -> None:
    """Not even in the run that copies: neither between chunks nor behind the last but one."""
    statements, said = APART[apart]
    with at_step("chunk_committed", number, lambda: run(database, config, statements)):
        errors = errors_of(sync_once(config))
    assert set(errors) == {"public.t"}
    if apart != "dropped":  # else the next chunk can't be read, and says it in its own words
        assert said in str(errors["public.t"])
    assert not has_mirror(config, "public.t")
    assert mirror_rows(config, "public.u", "id") == [(1,)]
    if apart not in ("only leaves", "dropped"):
        converge(database, config)


def test_what_is_altered_behind_the_last_chunk_stops_the_run_that_copied(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    with at_step("chunk_committed", 3, lambda: run(database, config, LEAVE_AND_RETURN)):
        errors = errors_of(sync_once(config))
    assert set(errors) == {"public.t"}
    assert "it left the publication and came back" in str(errors["public.t"])
    converge(database, config)


@pytest.mark.parametrize("together", TOGETHER)
def test_what_leaves_the_chunks_alike_does_not_stop_the_copy(
    database: ScratchDatabase, config: PipelineConfig, together: str
) -> None:
    with at_step("chunk_committed", 2, lambda: run(database, config, TOGETHER[together])):
        converge(database, config)


@pytest.mark.parametrize(
    ("ddl", "says"),
    [
        ("DROP TABLE t", "table 'public.t' was dropped on the source"),
        ("ALTER TABLE t RENAME TO other", "is called 'public.other' on the source now"),
    ],
)
def test_a_table_that_goes_while_it_is_copied(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    ddl: str,
    says: str,
) -> None:
    monkeypatch.setattr(copying, "CHUNK_ROWS", 2)
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)")
    database.execute("CREATE TABLE u (id int PRIMARY KEY)")
    config = pipeline("public.t", "public.u", schema_changes="stop")
    with at_step("chunk_committed", 1, lambda: database.execute(ddl)):
        error = errors_of(sync_once(config))["public.t"]
    assert "was dropped or renamed while it was read" in error.message
    assert "cdc-assets check" in error.hint
    assert [problem.message for problem in find_problems(config) if says in problem.message]
