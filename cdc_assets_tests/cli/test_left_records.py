"""What stays of change tables and histories that go on no more is said, with how to drop it."""

from __future__ import annotations

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets_tests.command_line import rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import kept, query, sync_all

CANARY = "canary-90b1"


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(
        f"CREATE TABLE t (id int PRIMARY KEY, email text); INSERT INTO t VALUES (1, '{CANARY}')"
    )
    made = kept(pipeline("public.t"), ["mirror", "changes", "history"])
    sync_all(made)
    return made


def drops_in(text: str) -> list[str]:
    """Give the statements that a note ends in."""
    (note,) = [line for line in text.splitlines() if "in DuckDB: " in line]
    return note.partition("in DuckDB: ")[2].split("; ")


def test_what_was_kept_before_a_mask(config: PipelineConfig) -> None:
    table = {"source": "public.t", "keep": ["mirror", "changes", "history"]}
    assert "note: " not in run_command(config, "check").err
    path = rewrite(config, tables=[{**table, "mask": {"email": "sha256"}}])
    done = run_command(path, "backfill", "public.t")
    assert (done.code, done.err.count("set aside")) == (0, 0), done
    names = query(
        config,
        "SELECT name FROM _cdc.change_tables WHERE until_lsn IS NOT NULL"
        " UNION ALL SELECT name FROM _cdc.histories WHERE until_lsn IS NOT NULL",
    )
    assert len(names) == 2
    checked = run_command(path, "check")
    assert checked.code == 0, checked.err
    for name, *_ in names:
        assert repr(name) in done.out
        assert repr(name) in checked.err
    assert drops_in(done.out) == drops_in(checked.err)
    told = run_command(path, "backfill", "public.t", "--json").json["tables"][0]["notes"]
    assert len(told) == 1
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        for statement in drops_in(checked.err):
            warehouse.execute(statement)
        for (name,) in warehouse.execute(
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public'"
        ).fetchall():
            rows = warehouse.execute(f"SELECT * FROM public.{name}").fetchall()
            assert CANARY not in str(rows)
    assert "note: " not in run_command(path, "check").err
    assert run_command(path, "sync").code == 0


def test_shaped_otherwise_and_nothing_hidden(config: PipelineConfig) -> None:
    table = {"source": "public.t", "keep": ["mirror", "changes", "history"]}
    path = rewrite(config, tables=[{**table, "columns": {"rename": {"email": "contact"}}}])
    assert "note: " not in run_command(path, "backfill", "public.t").out
    assert "note: " not in run_command(path, "check").err


def test_what_is_not_kept_any_more(config: PipelineConfig) -> None:
    path = rewrite(config, tables=[{"source": "public.t", "keep": ["mirror", "history"]}])
    before = run_command(path, "check")
    assert before.code == 0, before.err
    assert "the next sync ends the change table 'public.t__changes', as 'changes'" in before.err
    said = "the change table 'public.t__changes' has ended"
    first, second = run_command(path, "sync"), run_command(path, "sync")
    assert (said in first.out, said in second.out) == (True, False), (first, second)
    after = run_command(path, "check")
    assert said in after.err
    assert "the next sync ends" not in after.err
    assert run_command(path, "sync", "--json").json["notes"] == []
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        for statement in drops_in(after.err):
            warehouse.execute(statement)
    assert "note: " not in run_command(path, "check").err
    assert run_command(config, "sync").code == 0  # another one begins
    assert query(config, "SELECT _cdc_op FROM public.t__changes") == [("snapshot",)]
