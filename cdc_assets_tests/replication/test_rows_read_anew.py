"""Rows whose change lacks a value that the warehouse lacks too: they are read by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import TableError
from cdc_assets.replication import copying
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step
from cdc_assets_tests.replication.test_rows_publications import publish
from cdc_assets_tests.source.test_unusual_sources import as_role
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

SPELLINGS = {
    "numeric": ("1.00", "1.0", [2, 3, 4, 5, 6], "20"),
    "float8": ("-0", "0", [2, 3, 4, 5, 6], "20"),
    "citext": ("a", "A", ["b", "c", "d", "e", "f"], "z"),
}
MOVES = {
    "to the place of another": (
        "DELETE FROM t WHERE k = '{first}'; UPDATE t SET k = '{second}' WHERE k = '{last}'"
    ),
    "and is spelled anew": (
        "DELETE FROM t WHERE k = '{first}'; UPDATE t SET k = '{second}' WHERE k = '{last}';"
        "UPDATE t SET k = '{first}' WHERE k = '{second}'"
    ),
    "and back": (
        "DELETE FROM t WHERE k = '{first}'; UPDATE t SET k = '{second}' WHERE k = '{last}';"
        "UPDATE t SET k = '{last}' WHERE k = '{first}';"
        "INSERT INTO t VALUES ('{first}', 'another')"
    ),
}


@pytest.mark.parametrize("moved", MOVES)
@pytest.mark.parametrize("kind", SPELLINGS)
def test_a_row_that_moves_to_an_equal_key_of_another_spelling_is_there_once(
    older_database: ScratchDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    moved: str,
) -> None:
    monkeypatch.setattr(copying, "CHUNK_ROWS", 5)
    first, second, others, last = SPELLINGS[kind]
    older_database.execute("CREATE EXTENSION citext")
    older_database.execute(f"CREATE TABLE t (k {kind} PRIMARY KEY, body text)")
    older_database.execute("ALTER TABLE t ALTER body SET STORAGE EXTERNAL")
    for key, body in ((first, "old"), *((other, "short") for other in others), (last, "x" * 9000)):
        older_database.execute(f"INSERT INTO t VALUES ('{key}', %s)", [body])
    config = make_pipeline(older_database, tmp_path, "public.t")
    changes = MOVES[moved].format(first=first, second=second, last=last).split(";")

    def move() -> None:
        for change in changes:
            older_database.execute(change)

    with at_step("chunk_committed", 1, move):
        converge(older_database, config)
    older_database.execute("UPDATE t SET body = body || '!'")
    converge(older_database, config)


LEAVE = "UPDATE t SET region = 'us' WHERE id = 1"
CHANGE = "UPDATE t SET body = repeat('new', 3000) WHERE id = {id}"
ENTER = "UPDATE t SET region = 'eu' WHERE id = {id}"
PATHS = {
    "leaves, changes, enters": [LEAVE, CHANGE.format(id=1), ENTER.format(id=1)],
    "leaves, enters": [LEAVE, ENTER.format(id=1)],
    "again and again": [LEAVE, ENTER.format(id=1), LEAVE, CHANGE.format(id=1), ENTER.format(id=1)],
    "enters for the first time": [ENTER.format(id=3)],
    "enters, changes its key": [ENTER.format(id=3), "UPDATE t SET id = 7 WHERE id = 3"],
    "enters, is changed": [ENTER.format(id=3), CHANGE.format(id=3)],
    "enters, is deleted": [ENTER.format(id=3), "DELETE FROM t WHERE id = 3"],
}


@pytest.fixture
def filtered(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """A table of which the rows of one region are published, and one beside it."""
    database.execute("CREATE TABLE t (id int, region text, body text, PRIMARY KEY (id, region))")
    database.execute("ALTER TABLE t ALTER body SET STORAGE EXTERNAL")
    database.execute(
        "INSERT INTO t VALUES (1, 'eu', repeat('old', 3000)), (2, 'eu', 'x'),"
        " (3, 'us', repeat('out', 3000))"
    )
    database.execute("CREATE TABLE u (id int PRIMARY KEY)")
    config = pipeline("public.t", "public.u")
    publish(database, config, "t WHERE (region = 'eu'), u")
    return config


def expect_filtered(database: ScratchDatabase, config: PipelineConfig) -> None:
    assert errors_of(sync_once(config)) == {}
    sql = "SELECT id, region, body FROM t WHERE region = 'eu' ORDER BY id"
    assert mirror_rows(config, "public.t", "id, region, body") == database.execute(sql)


@pytest.mark.parametrize("path", PATHS)
def test_a_row_that_enters_the_row_filter_comes_with_its_stored_apart_text(
    database: ScratchDatabase, filtered: PipelineConfig, path: str
) -> None:
    expect_filtered(database, filtered)
    for change in PATHS[path]:
        database.execute(change)
    expect_filtered(database, filtered)
    database.execute("UPDATE t SET id = id + 10 WHERE region = 'eu'")
    expect_filtered(database, filtered)


@pytest.fixture
def role(database: ScratchDatabase) -> Iterator[str]:
    """A role that may replicate, and read nothing yet."""
    role = f"limited_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'")
    yield role
    database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_row_that_may_not_be_read_any_more_stops_its_table_alone(
    database: ScratchDatabase, filtered: PipelineConfig, role: str
) -> None:
    config = as_role(filtered, database, role)
    database.execute(f"GRANT SELECT ON t, u TO {role}")
    expect_filtered(database, config)
    before = mirror_rows(config, "public.t")
    for change in PATHS["leaves, changes, enters"]:
        database.execute(change)
    database.execute(f"REVOKE SELECT ON t FROM {role}; INSERT INTO u VALUES (1)")
    errors = errors_of(sync_once(config))
    assert set(errors) == {"public.t"}
    assert isinstance(errors["public.t"], TableError)
    assert "can't be read" in str(errors["public.t"])
    assert "SELECT" in str(errors["public.t"].hint)
    assert mirror_rows(config, "public.t") == before
    assert mirror_rows(config, "public.u", "id") == [(1,)]

    database.execute(f"GRANT SELECT ON t TO {role}")
    expect_filtered(database, config)
