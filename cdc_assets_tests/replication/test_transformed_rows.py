"""Rows go through a function of the project, by copy and by stream alike."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.identifiers import TableName
from cdc_assets.progress import TableCompared
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets_tests.command_line import rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.shaping import functions
from cdc_assets_tests.syncs import errors_of, mirror_rows, sync_all, sync_once

pytestmark = pytest.mark.usefixtures("small")

T = TableName("public", "t")
SHAPED = "id, upper(status), total, total - cost, length(body)"
KEPT = "id, status, total, margin, length"


@pytest.fixture
def made(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, status text, total numeric(12,2), cost numeric(12,2),"
        " body text); ALTER TABLE t ALTER body SET STORAGE EXTERNAL;"
        " INSERT INTO t SELECT i, 'new', i % 50, i % 40, repeat(md5(i::text), 90)"
        " FROM generate_series(1, 150) i;"
        " CREATE TABLE plain (id int PRIMARY KEY)"
    )
    return pipeline("public.t", "public.plain")


@pytest.fixture
def config(made: PipelineConfig) -> PipelineConfig:
    return through(made, "shape_orders")


def through(config: PipelineConfig, function: str, **more: Any) -> PipelineConfig:
    """Give the config with a function of the tests, or with a longer `transform`."""
    named: dict[str, Any] = {"transform": f"{functions.MODULE}:{function}"}
    tables = [{"source": "public.t", **named, **more}, {"source": "public.plain"}]
    return load_config(rewrite(config, tables=tables))


def churn(database: ScratchDatabase) -> None:
    """Make rows enter, leave and stay, most without carrying the value in `body`."""
    database.execute(
        "UPDATE t SET total = cost - total WHERE id % 4 = 0;"
        "UPDATE t SET status = 'paid' WHERE id % 5 = 0;"
        "UPDATE t SET body = repeat('b', 4000 + id % 7), cost = 0 WHERE id % 7 = 0;"
        "UPDATE t SET cost = cost + 1 WHERE id % 14 = 0;"
        "UPDATE t SET id = id + 1000 WHERE id % 11 = 0 AND id < 1000;"
        "UPDATE t SET id = id + 2000, total = 9 WHERE id % 13 = 0 AND id < 1000;"
        "DELETE FROM t WHERE id % 17 = 0;"
        "INSERT INTO t SELECT max(id) + 1, 'x', 0, 1, 'x' FROM t;"
        "INSERT INTO t SELECT max(id) + 1, NULL, 5, 1, repeat('y', 5000) FROM t;"
        "INSERT INTO t SELECT max(id) + 1, 'null', NULL, 1, NULL FROM t;"
        "UPDATE t SET total = 7 WHERE id = (SELECT max(id) - 1 FROM t)"
    )


def assert_shaped(database: ScratchDatabase, config: PipelineConfig) -> None:
    """Fail unless the mirror is what the function makes of the source's rows."""
    sync_all(config)
    expected = database.execute(
        f"SELECT {SHAPED} FROM t WHERE total - cost > 0 ORDER BY 1, 2, 3, 4, 5"
    )
    assert mirror_rows(config, "public.t", KEPT) == [tuple(row) for row in expected]
    assert sync_all(config).counts.total == 0


def test_copy_and_stream_transform_alike(database: ScratchDatabase, config: PipelineConfig) -> None:
    assert_shaped(database, config)
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        described = warehouse.execute("DESCRIBE public.t").fetchall()
    assert [(name, kind) for name, kind, *_ in described if not name.startswith("_cdc")] == [
        ("id", "INTEGER"),
        ("status", "VARCHAR"),
        ("total", "DECIMAL(12,2)"),
        ("margin", "DECIMAL(13,2)"),
        ("length", "BIGINT"),
    ]
    for _ in range(3):
        churn(database)
        assert_shaped(database, config)
        churn(database)
    assert_shaped(database, config)
    database.execute("TRUNCATE t; INSERT INTO t VALUES (1, 'a', 2, 1, 'b'), (2, 'a', 1, 2, 'b')")
    assert_shaped(database, config)


def test_copies_of_transformed_tables(database: ScratchDatabase, config: PipelineConfig) -> None:
    with at_step("chunk_committed", 1, lambda: churn(database)):
        assert_shaped(database, config)
    churn(database)
    with at_step("chunk_committed", 1, lambda: churn(database)):
        list(backfill(config, T))
    change = "UPDATE t SET total = total + 1 WHERE id % 4 = 0"
    with at_step("chunk_committed", 1, lambda: database.execute(change)):
        list(backfill(config, T, buckets=["02"]))
    assert_shaped(database, config)
    compared = [event for event in reconcile(config) if isinstance(event, TableCompared)]
    assert [table.equal for table in compared] == [True, True]
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("UPDATE public.t SET margin = 0")
    (table, _) = [event for event in reconcile(config) if isinstance(event, TableCompared)]
    assert not table.equal
    list(backfill(config, T))
    assert_shaped(database, config)


def test_kills_beside_copies(database: ScratchDatabase, config: PipelineConfig) -> None:
    for step in ("chunk_committed", "before_commit", "window_committed"):
        churn(database)
        kill_at(config, step, 1)  # type: ignore[arg-type]
        churn(database)
        assert_shaped(database, config)


def test_behind_a_condition_and_masks(database: ScratchDatabase, made: PipelineConfig) -> None:
    """It gets the rows that are kept, and values that are masked, under their new names."""
    config = through(
        made,
        "as_it_is",
        where="state <> 'paid'",
        mask={"status": "sha256"},
        columns={"rename": {"status": "state"}, "exclude": ["body"]},
    )
    for _ in range(2):
        sync_all(config)
        expected = database.execute(
            "SELECT id, encode(sha256(status::bytea), 'hex') FROM t WHERE status <> 'paid'"
            " ORDER BY id"
        )
        assert mirror_rows(config, "public.t", "id, state") == [tuple(row) for row in expected]
        churn(database)


def test_changes_are_those_of_transformed_rows(
    database: ScratchDatabase, made: PipelineConfig
) -> None:
    config = through(made, "shape_orders", keep=["mirror", "changes"])
    assert "REPLICA IDENTITY FULL" in run_command(config, "check").err
    assert set(errors_of(sync_once(config))) == {"public.t"}
    database.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    assert_shaped(database, config)
    for _ in range(2):
        churn(database)
        assert_shaped(database, config)
    replayed: dict[int, tuple[Any, ...]] = {}
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        changes = warehouse.execute(
            f"SELECT _cdc_op, _cdc_before, _cdc_unchanged, {KEPT} FROM public.t__changes"
            " ORDER BY _cdc_lsn, _cdc_seq"
        ).fetchall()
    for op, before, unchanged, *row in changes:
        assert not unchanged
        if op in ("update", "delete"):
            assert replayed.pop(before["id"]) == tuple(before.values())
        if op != "delete":
            assert row[0] not in replayed
            replayed[row[0]] = tuple(row)
    assert sorted(replayed.values()) == mirror_rows(config, "public.t", KEPT)
    assert {op for op, *_ in changes} == {"snapshot", "insert", "update", "delete"}


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("gone", "has no 'gone'"),
        ("MODULE", "is no function"),
        ("no_frame", "gave list, expected a DataFrame"),
        ("without_key", "loses the key's column 'id'"),
        ("text_key", "changes the type of the key's column 'id'"),
        ("reserved_name", "gave a column '_cdc_lsn'"),
        ("two_spellings", "'status' and 'Status', which are one name"),
        ("no_type", "gives 'extra' of an empty frame without a type"),
        ("needs_rows", "raised IndexError"),
    ],
)
def test_what_a_check_finds(made: PipelineConfig, function: str, said: str) -> None:
    config = through(made, function)
    done = run_command(config, "check")
    assert said in done.err and "Traceback" not in done.err, done.err
    assert set(errors_of(sync_once(config))) == {"public.t"}
    sync_all(through(made, "as_it_is"))
    assert said in errors_of(sync_once(config))["public.t"].message


def test_a_module_that_is_not_there(made: PipelineConfig) -> None:
    config = through(made, "as_it_is", transform="frobnicate.functions:add")
    assert "module 'frobnicate' is not there" in run_command(config, "check").err


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("reset_index", "none of the frame's"),
        ("other_keys", "other values of the key's column 'id'"),
        ("named_by_values", "gave more columns"),
    ],
)
def test_what_only_rows_show(made: PipelineConfig, function: str, said: str) -> None:
    config = through(made, function)
    error = errors_of(sync_once(config))["public.t"]
    assert said in error.message
    assert "'new'" not in error.message + error.hint


def test_declared_types(database: ScratchDatabase, made: PipelineConfig) -> None:
    def declared(function: str, **columns: str) -> PipelineConfig:
        long = {"function": f"{functions.MODULE}:{function}", "columns": columns}
        return through(made, function, transform=long)

    config = declared("add_margin", margin="double")
    sync_all(config)
    expected = database.execute("SELECT id, (total - cost)::float8 FROM t ORDER BY id")
    assert mirror_rows(config, "public.t", "id, margin") == [tuple(row) for row in expected]
    config = declared("needs_rows", first="boolean")
    list(backfill(config, T))
    assert {first for (first,) in mirror_rows(config, "public.t", "first")} == {True}
    wrong = declared("add_margin", margin="varchar")
    assert "declared as 'varchar'" in run_command(wrong, "check").err
    lossy = declared("thirds", third="decimal(18,6)")
    with pytest.raises(Exception, match="values that are others as decimal"):
        list(backfill(lossy, T))


def test_an_exception_stops_its_table_alone(
    database: ScratchDatabase, made: PipelineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = through(made, "fails_for_some")
    sync_all(config)
    database.execute("UPDATE t SET status = 'canary' WHERE id = 4; INSERT INTO plain VALUES (1)")
    finished = sync_once(config)
    error = errors_of(finished)["public.t"]
    line = f"{functions.__file__}:"
    assert "raised ValueError at " + line in error.message
    assert mirror_rows(config, "public.plain", "id") == [(1,)]
    assert "raise ValueError" in caplog.text and line.rstrip(":") in caplog.text
    assert "canary" not in error.message + error.hint
    assert "what is ['" not in caplog.text
    done = run_command(config, "sync")
    assert "in fails_for_some" in done.err and "what is ['" not in done.err
    database.execute("UPDATE t SET status = 'x' WHERE id = 4")
    list(backfill(config, T))
    sync_all(config)


def test_where_an_exception_is_of_a_library_the_functions_own_line_is_named(
    made: PipelineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = through(made, "fails_in_a_library")
    error = errors_of(sync_once(config))["public.t"]
    lines = inspect.getsourcelines(functions.fails_in_a_library)
    assert f"raised KeyError at {functions.__file__}:{lines[1] + 2}" in error.message
    assert "empty frame" not in error.message + error.hint
    assert f"{Path('pandas', 'core')}" in caplog.text  # the traceback goes on


def test_a_line_of_the_projects_other_modules_is_named(made: PipelineConfig) -> None:
    config = through(made, "", transform="calling:shape")
    source = config.root / "src"
    source.mkdir()
    called = "def total(frame):\n    return frame['gone']\n"
    (source / "called.py").write_text(called)
    calling = "import called\ndef shape(frame):\n    return frame.assign(a=called.total(frame))\n"
    (source / "calling.py").write_text(calling)
    done = run_command(config, "check")
    assert f"raised KeyError at {source / 'called.py'}:2, of an empty frame" in done.err
    assert "it is given the columns id, status, total, cost, body: let it take" in done.err


def test_a_check_finds_all_problems_of_a_table(made: PipelineConfig) -> None:
    mask = {"sum": "sha256", "totl": "redact", "status": "hmac"}
    t = {"source": "public.t", "transform": f"{functions.MODULE}:gone", "where": "status >"}
    path = rewrite(made, tables=[{**t, "mask": mask}], mask_key={"env": "CDC_ASSETS_NOT_SET"})
    found = [one["error"] for one in run_command(path, "check", "--json").json["problems"]]
    for said in (
        "'CDC_ASSETS_NOT_SET' for mask_key is not set",
        *("has no 'gone'", "does not parse", "a column 'sum'", "a column 'totl'"),
    ):
        assert sum(said in one for one in found) == 1, found
    assert not [one for one in found if "empty frame" in one]


def test_a_name_of_the_warehouse_is_told_from_one_of_the_source(made: PipelineConfig) -> None:
    renamed = {"rename": {"total": "sum"}}
    config = through(made, "as_it_is", columns=renamed, mask={"sum": "sha256"})
    assert "name it as the source does: 'total'" in run_command(config, "check").err


def test_what_the_defaults_say_is_told(made: PipelineConfig) -> None:
    tables = [{"source": "public.t"}, {"source": "public.plain"}]
    path = rewrite(made, tables=tables, defaults={"mask": {"status": "sha256"}})
    (problem,) = run_command(path, "check", "--json").json["problems"]
    assert problem["error"].startswith("table 'public.plain' can't be shaped")
    assert problem["hint"].endswith("(it has 'mask' of 'defaults')")


def test_a_function_that_is_edited_stops_its_table(made: PipelineConfig) -> None:
    """In processes of their own, as a module is imported once in each."""
    config = through(made, "as_it_is", transform="own_functions:shape")
    module = config.root / "src" / "own_functions.py"
    module.parent.mkdir()
    module.write_text("def shape(frame):\n    return frame.assign(a=1)\n")
    assert run_command(config, "sync").code == 0
    module.write_text("def shape(frame):\n    return frame.assign(a=2)\n")
    done = run_command(config, "sync")
    assert done.code == 1 and "when it was copied: transform (edited)" in done.err
    assert run_command(config, "backfill", "public.t").code == 0
    assert {a for (a,) in mirror_rows(config, "public.t", "a")} == {2}
    module.unlink()
    assert "module 'own_functions' is not there" in run_command(config, "check").err
    assert run_command(config, "sync").code == 1
    assert run_command(config, "status").code == 1
    assert run_command(config, "backfill", "public.t").code == 1
    assert {a for (a,) in mirror_rows(config, "public.t", "a")} == {2}


def test_lineage_of_what_it_makes(made: PipelineConfig) -> None:
    long = {"function": f"{functions.MODULE}:shape_orders", "lineage": {"margin": ["cost", "sum"]}}
    config = through(made, "", transform=long, columns={"rename": {"total": "sum"}})
    assert "raised KeyError" in run_command(config, "check").err
    long["function"] = f"{functions.MODULE}:add_margin"
    config = through(made, "", transform=long)
    assert "names a column 'sum' that it is not given" in run_command(config, "check").err
    long["lineage"] = {"margin": ["cost", "total"], "status": ["status", "body"]}
    finished = sync_all(through(made, "", transform=long))
    (table,) = [one for one in finished.tables if one.table == T]
    told = {one.name: tuple(of.source_column for of in one.origins) for one in table.columns}
    assert told == {
        "id": ("id",),
        "status": ("status", "body"),
        "total": ("total",),
        "cost": ("cost",),
        "body": ("body",),
        "margin": ("cost", "total"),
    }
    assert [one.name for one in table.source_columns] == list(told)[:-1]


def test_deleted_rows_are_kept_as_they_were_shaped(
    database: ScratchDatabase, made: PipelineConfig
) -> None:
    config = through(made, "shape_orders", deletes="soft", schema_changes="stop")
    assert "keeps deleted rows" in run_command(config, "check").err
    database.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    sync_all(config)
    database.execute("UPDATE t SET total = 100 WHERE id = 45; DELETE FROM t WHERE id IN (44, 45)")
    database.execute("UPDATE t SET cost = 99 WHERE id = 46")
    sync_all(config)
    live, gone = (
        {
            row[0]: row[1:3]
            for row in mirror_rows(config, "public.t", "id, total, margin, _cdc_deleted")
            if row[3] is deleted
        }
        for deleted in (False, True)
    )
    assert gone.keys() == {44, 45, 46}
    assert gone[45] == (100, 95)
    expected = database.execute("SELECT id FROM t WHERE total - cost > 0")
    assert live.keys() == {key for (key,) in expected}
    identity = "ALTER TABLE t REPLICA IDENTITY "
    database.execute(f"{identity} DEFAULT; UPDATE t SET total = 98 WHERE id = 47; {identity} FULL")
    assert "without a value that was needed" in errors_of(sync_once(config))["public.t"].message
    list(backfill(config, T))
    sync_all(config)


def test_changes_of_before_a_full_identity(database: ScratchDatabase, made: PipelineConfig) -> None:
    database.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    config = through(made, "shape_orders", keep=["mirror", "changes"], schema_changes="stop")
    sync_all(config)
    identity = "ALTER TABLE t REPLICA IDENTITY "
    database.execute(f"{identity} DEFAULT; UPDATE t SET total = 98 WHERE id = 47; {identity} FULL")
    assert "old rows do not come whole" in errors_of(sync_once(config))["public.t"].message
    list(backfill(config, T))
    assert_shaped(database, config)
