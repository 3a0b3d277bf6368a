"""Publishing a table never breaks those who write it: setup refuses first, and its hint works."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError
from cdc_assets.operations.checking import find_problems
from cdc_assets.source.setup import setup
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.hints import follow, ways_of
from cdc_assets_tests.syncs import converge, mirror_rows, sync_all

WRITE = "UPDATE t SET a = a + 10 WHERE id = 1; DELETE FROM t WHERE id = 2"
ROWS = "INSERT INTO t (id, a) VALUES (1, 1), (2, 2), (3, 3)"
STORED = "s int GENERATED ALWAYS AS (a * 2) STORED"
VIRTUAL = "v int GENERATED ALWAYS AS (a * 2) VIRTUAL"


@dataclass(frozen=True)
class Case:
    """A table that can't be published as it is.

    Attributes:
        ddl: Makes it; `publication` stands for the publication's name.
        says: What setup and check say.
    """

    ddl: str
    says: str


NOT_PUBLISHED_YET = {
    "full with a stored generated column": Case(
        f"CREATE TABLE t (id int PRIMARY KEY, a int, {STORED});ALTER TABLE t REPLICA IDENTITY FULL",
        "generated columns that are not published ('s')",
    ),
    "full with a virtual generated column": Case(
        f"CREATE TABLE t (id int PRIMARY KEY, a int, {VIRTUAL});"
        "ALTER TABLE t REPLICA IDENTITY FULL",
        "generated columns that are not published ('v')",
    ),
    "a key that is generated": Case(
        "CREATE TABLE t (id int, a int, k int GENERATED ALWAYS AS (id) STORED PRIMARY KEY)",
        "generated columns that are not published ('k')",
    ),
    "a partition with identity full and a generated column": Case(
        f"CREATE TABLE t (id int PRIMARY KEY, a int, {STORED}) PARTITION BY RANGE (id);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9);"
        "ALTER TABLE t1 REPLICA IDENTITY FULL",
        "partition 'public.t1' of table 'public.t' holds generated columns",
    ),
}
ON_EVERY_VERSION = {
    "no key": Case("CREATE TABLE t (id int, a int)", "has no replica identity"),
    "a unique index that is not the identity": Case(
        "CREATE TABLE t (id int NOT NULL, a int); CREATE UNIQUE INDEX t_id ON t (id)",
        "has no replica identity",
    ),
    "a unique index over a column that may be null": Case(
        "CREATE TABLE t (id int UNIQUE, a int)", "has no replica identity"
    ),
    "a deferrable key": Case(
        "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, a int)", "has no replica identity"
    ),
    "identity nothing": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a int); ALTER TABLE t REPLICA IDENTITY NOTHING",
        "has REPLICA IDENTITY NOTHING",
    ),
    "an identity index that was dropped": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL); CREATE UNIQUE INDEX t_a ON t (a);"
        "ALTER TABLE t REPLICA IDENTITY USING INDEX t_a; DROP INDEX t_a",
        "has no replica identity",
    ),
    "a partition with identity nothing": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9);"
        "ALTER TABLE t1 REPLICA IDENTITY NOTHING",
        "partition 'public.t1' of table 'public.t' has another replica identity",
    ),
    "an unlogged partition": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);"
        "CREATE UNLOGGED TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9)",
        "partition 'public.t1' of table 'public.t' is unlogged",
    ),
    "an unlogged table": Case("CREATE UNLOGGED TABLE t (id int PRIMARY KEY, a int)", "is unlogged"),
}


def expect_refused(database: ScratchDatabase, config: PipelineConfig, says: str) -> str:
    """Expect that setup refuses the table, that check says so too, and that nothing is published.

    Returns:
        The hint.
    """
    with pytest.raises(CdcError) as refused:
        setup(config)
    assert says in refused.value.message
    problems = find_problems(config)
    assert [one.hint for one in problems if says in one.message] == [refused.value.hint]
    assert database.execute("SELECT FROM pg_publication_tables") == []
    return refused.value.hint


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("case", NOT_PUBLISHED_YET)
def test_generated_columns_in_an_identity(
    database: ScratchDatabase, pipeline: MakePipeline, case: str, way: int
) -> None:
    expect_way_out(database, pipeline("public.t", create=False), NOT_PUBLISHED_YET[case], way)


@pytest.mark.parametrize("case", ON_EVERY_VERSION)
def test_tables_without_a_usable_identity(
    database: ScratchDatabase, pipeline: MakePipeline, case: str
) -> None:
    expect_way_out(database, pipeline("public.t", create=False), ON_EVERY_VERSION[case], 0)


@pytest.mark.parametrize("case", ON_EVERY_VERSION)
def test_tables_without_a_usable_identity_on_an_older_server(
    older_database: ScratchDatabase, tmp_path: Path, case: str
) -> None:
    config = make_pipeline(older_database, tmp_path, "public.t", create=False)
    expect_way_out(older_database, config, ON_EVERY_VERSION[case], 0)


def expect_way_out(database: ScratchDatabase, config: PipelineConfig, case: Case, way: int) -> None:
    database.execute(f"{case.ddl}; {ROWS}")
    ways = ways_of(expect_refused(database, config, case.says))
    database.execute(WRITE)
    follow(ways[way % len(ways)], database, config)
    setup(config)
    converge(database, config)
    database.execute("UPDATE t SET a = a + 10 WHERE id = 1; DELETE FROM t WHERE id = 3")
    converge(database, config)
    assert find_problems(config) == []


# As a publication that somebody made has them; the writers fail already
PUBLISHED = {
    "a column list without the key": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a int); CREATE PUBLICATION {} FOR TABLE t (a)",
        "does not publish its key column 'id'",
    ),
    "a column list and identity full": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a int); ALTER TABLE t REPLICA IDENTITY FULL;"
        "CREATE PUBLICATION {} FOR TABLE t (id, a)",
        "REPLICA IDENTITY FULL and a column list",
    ),
    "a row filter outside the key": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a int);"
        "CREATE PUBLICATION {} FOR TABLE t WHERE (a < 100 OR id > 100)",
        "uses columns outside its replica identity ('a')",
    ),
    "a row filter outside the key and a column list": Case(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int);"
        "CREATE PUBLICATION {} FOR TABLE t (id, a) WHERE (a < 100)",
        "uses columns outside its replica identity ('a')",
    ),
    "a row filter outside a partition's identity": Case(
        "CREATE TABLE t (id int, a int, PRIMARY KEY (id, a)) PARTITION BY RANGE (id);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9);"
        "CREATE PUBLICATION {} FOR TABLE t WHERE (a < 100)"
        " WITH (publish_via_partition_root = true);"
        "CREATE UNIQUE INDEX t1_id ON t1 (id); ALTER TABLE t1 REPLICA IDENTITY USING INDEX t1_id",
        "partition 'public.t1' of table 'public.t' has another replica identity",
    ),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_publications_that_break_their_tables(
    database: ScratchDatabase, pipeline: MakePipeline, case: str
) -> None:
    expect_repaired(database, pipeline("public.t", create=False), PUBLISHED[case])


@pytest.mark.parametrize("case", PUBLISHED)
def test_publications_that_break_their_tables_on_an_older_server(
    older_database: ScratchDatabase, tmp_path: Path, case: str
) -> None:
    config = make_pipeline(older_database, tmp_path, "public.t", create=False)
    expect_repaired(older_database, config, PUBLISHED[case])


def expect_repaired(database: ScratchDatabase, config: PipelineConfig, case: Case) -> None:
    database.execute(case.ddl.format(config.source.publication) + f"; {ROWS}")
    with pytest.raises(psycopg.errors.Error, match="cannot update table"):
        database.execute(WRITE)
    with pytest.raises(CdcError) as refused:
        setup(config)
    assert case.says in refused.value.message
    database.execute(
        f"SELECT pg_create_logical_replication_slot('{config.source.slot}', 'pgoutput')"
    )
    (problem,) = find_problems(config)
    assert problem.message == refused.value.message
    ways = ways_of(problem.hint)
    follow(ways[0], database, config)
    database.execute(WRITE)
    sync_all(config)
    assert mirror_rows(config, "public.t", "id, a") == [(1, 11), (3, 3)]
    assert find_problems(config) == []


@pytest.mark.parametrize("kind", ["plain", "with its own key"])
def test_child_tables_are_not_published_with_their_parent(
    database: ScratchDatabase, pipeline: MakePipeline, kind: str
) -> None:
    """A child without identity would refuse the parent's UPDATE once it is published."""
    key = ", PRIMARY KEY (id)" if kind != "plain" else ""
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a int)")
    database.execute(f"CREATE TABLE c (b int{key}) INHERITS (t)")
    database.execute(f"{ROWS}; INSERT INTO c VALUES (1, 1), (2, 2)")
    config = pipeline("public.t", create=False)

    setup(config)

    database.execute(WRITE)
    assert database.execute("SELECT tablename FROM pg_publication_tables") == [("t",)]
    converge(database, config)
    assert mirror_rows(config, "public.t", "id, a") == [(1, 11), (3, 3)]


def test_a_table_that_is_added_comes_without_its_children(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE u (id int PRIMARY KEY); CREATE TABLE t (id int PRIMARY KEY, a int)"
    )
    database.execute(f"CREATE TABLE c () INHERITS (t); {ROWS}")
    config = pipeline("public.u", "public.t", create=False)
    database.execute(f"CREATE PUBLICATION {config.source.publication} FOR TABLE u")

    setup(config)

    database.execute(WRITE)
    assert sorted(database.execute("SELECT tablename FROM pg_publication_tables")) == [
        ("t",),
        ("u",),
    ]


@pytest.mark.parametrize(
    ("ddl", "says"),
    [
        ("CREATE TABLE u (id int)", "it has no replica identity"),
        (
            f"CREATE TABLE u (id int PRIMARY KEY, a int, {VIRTUAL});"
            "ALTER TABLE u REPLICA IDENTITY FULL",
            "generated columns that are not published",
        ),
    ],
)
def test_kinds_of_changes_are_not_added_where_they_break_other_tables(
    database: ScratchDatabase, pipeline: MakePipeline, ddl: str, says: str
) -> None:
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, a int); {ddl}; {ROWS}")
    database.execute("INSERT INTO u VALUES (1)")
    config = pipeline("public.t", create=False)
    database.execute(
        f"CREATE PUBLICATION {config.source.publication} FOR TABLE t, u WITH (publish = 'insert')"
    )

    with pytest.raises(CdcError) as refused:
        setup(config)

    assert says in refused.value.message
    database.execute("UPDATE u SET id = 2; DELETE FROM u")
    follow(ways_of(refused.value.hint)[0], database, config)
    setup(config)
    database.execute(f"INSERT INTO u VALUES (1); UPDATE u SET id = 2; {WRITE}; DELETE FROM u")
    converge(database, config)
