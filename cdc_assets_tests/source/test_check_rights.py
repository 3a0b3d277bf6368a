"""check finds what a setup and a sync will lack on the source, before there is anything."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import CdcError
from cdc_assets.operations.checking import find_problems
from cdc_assets.source import preflight
from cdc_assets.source.setup import setup
from cdc_assets_tests.command_line import rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.hints import follow
from cdc_assets_tests.syncs import converge


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> Iterator[PipelineConfig]:
    """A pipeline without a publication, under a role that may nothing but connect."""
    role = f"limited_{database.name}"
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    database.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'")
    dsn = f"postgresql://{role}:x@127.0.0.1:{database.server.port}/{database.name}"
    try:
        config = pipeline("public.a", "public.b", create=False)
        yield load_config(rewrite(config, source__dsn=dsn))
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def problem_of(config: PipelineConfig, says: str) -> CdcError:
    """Give the first problem that says something."""
    found = find_problems(config)
    return next((one for one in found if says in one.message), None) or pytest.fail(str(found))


def test_a_check_finds_every_right_that_is_lacking_at_once(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("ALTER TABLE b ENABLE ROW LEVEL SECURITY")
    said = [problem.message for problem in find_problems(config)]
    role = f"limited_{database.name}"
    assert [one for one in said if "may not create it" in one] == [
        f"publication {config.source.publication!r} does not exist: 2 tables are not published; "
        f"role {role!r} may not create it: it lacks CREATE on database {database.name!r} and "
        "ownership of 'public.a' and 1 more"
    ]
    for table in ("public.a", "public.b"):
        assert any(f"may not read table {table!r}" in one for one in said)
    assert any("row-level security hides rows of table 'public.b'" in one for one in said)

    for _ in range(9):
        problems = find_problems(config)
        if not problems:
            break
        follow(problems[0].hint, database, config)
    assert find_problems(config) == []
    converge(database, config)


def test_a_setup_without_rights_says_who_may(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    with pytest.raises(CdcError, match="may not create it: it lacks CREATE on database"):
        setup(config)
    database.execute(
        f"GRANT CREATE ON DATABASE {database.name} TO limited_{database.name};"
        f"ALTER TABLE b OWNER TO limited_{database.name}"
    )
    with pytest.raises(CdcError, match=r"it lacks ownership of 'public\.a'"):
        setup(config)
    publication = config.source.publication
    database.execute(f"CREATE PUBLICATION {publication} FOR TABLE b")
    with pytest.raises(CdcError, match=r"'public\.a' is not in publication") as refused:
        setup(config)
    follow(refused.value.hint, database, config)
    assert setup(config) == [f"created slot {config.source.slot!r}"]


@pytest.mark.parametrize("limit", ["ROLE limited_{}", "DATABASE {}"])
def test_too_few_sessions_for_a_run_are_found(
    database: ScratchDatabase, config: PipelineConfig, limit: str
) -> None:
    database.execute(f"ALTER {limit.format(database.name)} CONNECTION LIMIT 2")
    problem = problem_of(config, "a run needs 3 of them")
    follow(problem.hint.split(", or")[0], database, config)
    assert not any("a run needs" in one.message for one in find_problems(config))


def test_a_server_without_room_is_found(
    config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "SESSIONS", 100_000)
    assert "raise max_connections" in problem_of(config, "the source has room for").hint


def test_a_problem_of_many_tables_is_printed_once(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    names = [f"public.many{number}" for number in range(1, 9)]
    for name in names:
        database.execute(f"CREATE TABLE {name} (id int PRIMARY KEY)")
    database.execute("CREATE TABLE bare1 (id int); CREATE TABLE bare2 (id int)")
    config = pipeline(*names, "public.bare1", "public.bare2", create=False)
    slot = config.source.slot
    printed = run_command(config, "check").err
    assert f"error: publication {slot!r} does not exist: 10 tables are not published" in printed
    assert printed.count("has no replica identity") == 1
    assert "alike for 1 more: 'public.bare2'" in printed
    assert "(this is 'public.bare1': --json has the hint of every table)" in printed

    database.execute(f"CREATE PUBLICATION {slot} FOR TABLE many1")
    database.execute(
        "ALTER TABLE bare1 ADD PRIMARY KEY (id); ALTER TABLE bare2 ADD PRIMARY KEY (id)"
    )
    done = run_command(config, "check")
    lines = [line for line in done.err.splitlines() if "not in publication" in line]
    assert lines == [
        f"error: 9 tables are not in publication {slot!r}: 'public.many2', 'public.many3', "
        "'public.many4', 'public.many5', 'public.many6' and 4 more"
    ]
    plain = run_command(config, "check", "--json").json["problems"]
    assert len([one for one in plain if "is not in publication" in one["error"]]) == 9


def test_a_table_of_another_schema_is_meant_before_one_that_is_spelled_alike(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.order_lines (id int)")
    database.execute("CREATE TABLE public.order_line (id int PRIMARY KEY)")
    config = pipeline("public.order_lines", create=False)
    assert problem_of(config, "does not exist on the source").hint == (
        "did you mean 'elsewhere.order_lines'?"
    )


def test_what_a_mirror_will_not_hold_is_a_note(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, s int GENERATED ALWAYS AS (id) STORED);"
        "CREATE TABLE c () INHERITS (t); CREATE TABLE loose (id int)"
    )
    config = pipeline("public.t", create=False)
    database.execute(f"CREATE PUBLICATION {config.source.publication} FOR TABLE ONLY t, loose")
    run_command(config, "setup")
    done = run_command(config, "check")
    assert done.code == 0
    assert "note: the mirror of 'public.t' is without 's'" in done.err
    assert "not those of its child tables 'public.c'" in done.err
    assert "also publishes 'public.loose', whose UPDATE and DELETE fail" in done.err
