"""A mirror that somebody altered stops its own table, by name; what lies beside it does no harm."""

from __future__ import annotations

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.operations.checking import find_problems
from cdc_assets.warehouse.layout import KEEPS_UNIQUE_INDEXES
from cdc_assets_tests.command_line import assert_readable, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

ALTERATIONS = {
    "a column more": ("ALTER TABLE {t} ADD COLUMN note VARCHAR", "has a column 'note' more"),
    "a column less": ("ALTER TABLE {t} DROP COLUMN a", "lacks column 'a'"),
    "another name": ("ALTER TABLE {t} RENAME a TO b", "lacks column 'a'"),
    "another case": ("ALTER TABLE {t} RENAME a TO A", "has a column 'A' more"),
    "another type": (
        "ALTER TABLE {t} ALTER a TYPE INTEGER",
        "has INTEGER as type of column 'a', expected VARCHAR",
    ),
    "another scale": (
        "ALTER TABLE {t} ALTER n TYPE DECIMAL(10,1)",
        "expected DECIMAL(10,2)",
    ),
    "no position": ("ALTER TABLE {t} DROP COLUMN _cdc_lsn", "lacks column '_cdc_lsn'"),
    "another order": (
        "ALTER TABLE {t} DROP COLUMN a; ALTER TABLE {t} ADD COLUMN a VARCHAR",
        "in another order",
    ),
    "a view": (
        "ALTER TABLE {t} RENAME TO kept; CREATE VIEW {t} AS SELECT * FROM public.kept",
        "is a view",
    ),
    "a view of nothing": (
        "DROP TABLE {t}; CREATE TABLE public.x (i int); CREATE VIEW {t} AS FROM public.x;"
        "DROP TABLE public.x",
        "is a view",
    ),
    "nothing": ("DROP TABLE {t}", "not in the warehouse any more"),
}
UNIQUE_INDEX = "CREATE UNIQUE INDEX by_id ON {t}(id)"
HARMLESS = {
    "a view": "CREATE VIEW public.seen AS SELECT id, a FROM {t}",
    "a broken view": "CREATE TABLE public.x (i int); CREATE VIEW public.seen AS FROM public.x;"
    "DROP TABLE public.x",
    "an index": "CREATE INDEX by_a ON {t}(a)",
    "an index over two": "CREATE INDEX by_both ON {t}(id, a)",
    "a primary key": "ALTER TABLE {t} ADD PRIMARY KEY (id)",
    "comments": "COMMENT ON TABLE {t} IS 'ours'; COMMENT ON COLUMN {t}.a IS 'a'",
    "a default": "ALTER TABLE {t} ALTER a SET DEFAULT 'x'",
    "a table and a macro": "CREATE TABLE public.mine (i int); CREATE MACRO public.m(x) AS x + 1",
}
BROKEN = {"NOT NULL": "ALTER TABLE {t} ALTER a SET NOT NULL"}
if KEEPS_UNIQUE_INDEXES:
    HARMLESS["a unique index"] = UNIQUE_INDEX
    BROKEN["a unique index"] = "CREATE UNIQUE INDEX by_a ON {t}(a)"
else:
    ALTERATIONS["a unique index"] = (UNIQUE_INDEX, "has a unique index")


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a text, n numeric(10, 2));"
        "ALTER TABLE t ALTER a SET STORAGE EXTERNAL; CREATE TABLE other (id int PRIMARY KEY);"
        "INSERT INTO t SELECT i, i::text, i FROM generate_series(1, 5000) i"
    )
    return pipeline("public.t", "public.other")


def alter(config: PipelineConfig, ddl: str) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(ddl.format(t="public.t"))


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_an_altered_mirror_stops_its_table_alone_and_comes_back(
    database: ScratchDatabase, config: PipelineConfig, alteration: str
) -> None:
    ddl, says = ALTERATIONS[alteration]
    converge(database, config)
    alter(config, ddl)
    database.execute("INSERT INTO t VALUES (-1); INSERT INTO other VALUES (1)")

    assert [problem.message for problem in find_problems(config) if says in problem.message]
    assert run_command(config, "status").code == 1
    (error,) = errors_of(sync_once(config)).items()
    assert error[0] == "public.t"
    assert says in error[1].message
    assert "the mirror of 'public.t'" in error[1].message
    assert "backfill public.t" in error[1].hint
    assert mirror_rows(config, "public.other", "id") == [(1,)]
    assert run_command(config, "status").code == 1

    assert run_command(config, "teardown", "--table", "public.t").code == 0
    converge(database, config)


@pytest.mark.parametrize("beside", HARMLESS)
def test_what_lies_beside_a_mirror_does_no_harm(
    database: ScratchDatabase, config: PipelineConfig, beside: str
) -> None:
    converge(database, config)
    alter(config, HARMLESS[beside])
    assert find_problems(config) == []

    database.execute("UPDATE t SET a = a || '!' WHERE id < 3000; INSERT INTO t VALUES (9001, 'x')")
    database.execute("UPDATE t SET id = id + 10000 WHERE id % 2 = 0; DELETE FROM t WHERE id < 500")
    database.execute("INSERT INTO t SELECT i, repeat('long', 3000) FROM generate_series(1, 9) i")
    converge(database, config)
    database.execute("UPDATE t SET n = 7 WHERE id < 600; UPDATE t SET id = id + 1 WHERE id = 9001")
    database.execute("BEGIN; DELETE FROM t; INSERT INTO t VALUES (1, 'one'), (2, 'two'); COMMIT")
    converge(database, config)
    database.execute("TRUNCATE t; INSERT INTO t VALUES (1, 'again')")
    converge(database, config)

    assert run_command(config, "teardown", "--table", "public.t").code == 0
    converge(database, config)


@pytest.mark.parametrize("constraint", BROKEN)
def test_a_constraint_that_a_row_breaks_stops_its_table_alone(
    database: ScratchDatabase, config: PipelineConfig, constraint: str
) -> None:
    converge(database, config)
    alter(config, BROKEN[constraint])
    database.execute("INSERT INTO t VALUES (-1, 'secret'), (-2, 'secret'), (-3, NULL)")
    database.execute("INSERT INTO other VALUES (1)")

    (error,) = errors_of(sync_once(config)).items()

    assert error[0] == "public.t"
    assert "does not take what the source has: ConstraintException" in error[1].message
    assert "secret" not in str(error[1])
    assert mirror_rows(config, "public.other", "id") == [(1,)]
    assert "does not take" in find_problems(config)[0].message
    assert run_command(config, "teardown", "--table", "public.t").code == 0
    converge(database, config)


def test_a_mirror_is_altered_back_and_goes_on(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    alter(config, "ALTER TABLE {t} ADD COLUMN note VARCHAR")
    database.execute("INSERT INTO t VALUES (-1)")
    assert_readable(run_command(config, "check"), says="'note' more", hint="undo that, or")
    assert list(errors_of(sync_once(config))) == ["public.t"]

    alter(config, "ALTER TABLE {t} DROP COLUMN note")

    assert converge(database, config).counts.copied == 0
