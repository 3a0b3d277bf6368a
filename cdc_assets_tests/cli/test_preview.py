"""`cdc-assets preview` shows what a config makes of rows, and does nothing."""

from __future__ import annotations

from typing import Any

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets_tests.command_line import assert_readable, rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step
from cdc_assets_tests.shaping import functions
from cdc_assets_tests.syncs import sync_all

CANARY = "canary-51c0"
SHAPED: dict[str, Any] = {
    "source": "public.t",
    "columns": {"exclude": ["secret"], "rename": {"status": "state"}},
    "where": "state <> 'draft'",
    "mask": {"email": "sha256"},
    "transform": f"{functions.MODULE}:add_margin",
}


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, status text, total numeric(12,2), cost numeric(12,2),"
        " email text, secret text, body text); ALTER TABLE t ALTER body SET STORAGE EXTERNAL;"
        f" INSERT INTO t SELECT i, CASE WHEN i % 2 = 0 THEN 'draft' ELSE 'paid' END, i, 1,"
        f" '{CANARY}', '{CANARY}', repeat('b', 5000) FROM generate_series(1, 6) i"
    )
    return pipeline("public.t")


def slot_state(database: ScratchDatabase) -> list[Any]:
    return database.execute(
        "SELECT slot_name, confirmed_flush_lsn, restart_lsn FROM pg_replication_slots"
        " WHERE database = current_database()"
    )


def test_rows_as_they_are_now(database: ScratchDatabase, config: PipelineConfig) -> None:
    before = slot_state(database)
    done = run_command(rewrite(config, tables=[SHAPED]), "preview", "public.t", "--rows", "2")
    assert done.code == 0, done.err
    assert CANARY not in done.out + done.err
    lines = [line.split() for line in done.out.splitlines()]
    assert ["row", "as", "it", "is", "now", "raw", "shaped"] in lines
    assert ["status", "→", "state", "paid", "paid"] in lines
    assert ["secret", "***", "-"] in lines
    assert ["margin", "-", "0.00"] in lines
    assert "this row is left out" in done.out
    assert "looked at 6 rows as the source has them now" in done.out
    assert "left out: 3 rows" in done.out
    assert slot_state(database) == before
    assert not config.warehouse_path.exists()


def test_changes_on_the_slot(database: ScratchDatabase, config: PipelineConfig) -> None:
    sync_all(config)
    database.execute("UPDATE t SET total = 9 WHERE id = 1; UPDATE t SET status = 'draft'")
    database.execute("INSERT INTO t VALUES (7, 'new', 3, 2, NULL, 's', 'short')")
    database.execute("DELETE FROM t WHERE id = 2")
    before = slot_state(database)
    other = rewrite(config, tables=[SHAPED])
    done = run_command(other, "preview", "public.t", "--rows", "8", "--json")
    assert done.code == 0, done.err
    assert CANARY not in done.out
    found = done.json
    assert found["changes"] == {"insert": 1, "update": 7, "delete": 1, "truncate": 0}
    first, *_, last = found["rows"]
    assert (first["of"], first["raw"]["body"]) == ("update", "(not carried)")
    assert (first["shaped"], first["read_anew"]) == (None, True)
    assert (last["of"], last["shaped"]["margin"], last["raw"]["email"]) == ("insert", "1.00", None)
    assert (found["current_rows"], found["left_out"]) == (0, 0)
    assert slot_state(database) == before
    without = {**SHAPED, "transform": f"{functions.MODULE}:as_it_is", "where": "true"}
    rows = run_command(rewrite(config, tables=[without]), "preview", "public.t", "--json").json
    assert len(rows["rows"]) == 5


def test_a_sync_goes_on_beside_it(database: ScratchDatabase, config: PipelineConfig) -> None:
    sync_all(config)
    database.execute("UPDATE t SET total = 9")

    def look() -> None:
        assert run_command(config, "preview", "public.t").code == 0

    with at_step("before_commit", 1, look):
        sync_all(config)


def test_what_can_not_be_shaped(database: ScratchDatabase, config: PipelineConfig) -> None:
    failing = {"source": "public.t", "transform": f"{functions.MODULE}:fails_for_some"}
    database.execute("UPDATE t SET status = 'canary' WHERE id = 3")
    done = run_command(rewrite(config, tables=[failing]), "preview", "public.t")
    assert_readable_but_for_the_trace(done.err)
    assert "then look again: cdc-assets preview public.t" in done.err
    assert "backfill" not in done.err
    gone = {"source": "public.t", "transform": f"{functions.MODULE}:gone"}
    done = run_command(rewrite(config, tables=[gone]), "preview", "public.t")
    assert_readable(done, says="has no 'gone'", hint="write 'gone' there")
    done = run_command(config, "preview", "public.u")
    assert_readable(done, says="'public.u' is not in pipeline", hint="public.t", code=2)


def assert_readable_but_for_the_trace(err: str) -> None:
    assert "raised ValueError at" in err
    assert "in fails_for_some" in err
    assert "what is ['" not in err


def test_columns_of_other_tables_are_not_shown(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, other int); INSERT INTO t VALUES (1, 1);"
        "CREATE TABLE u (id int PRIMARY KEY, name text)"
    )
    enrich = [{"from": "public.u", "on": {"other": "id"}, "columns": {"name": "other_name"}}]
    tables = [{"source": "public.t", "enrich": enrich}, {"source": "public.u"}]
    made = pipeline("public.t", "public.u")
    other = rewrite(made, tables=tables)
    done = run_command(other, "preview", "public.t")
    assert done.code == 0, done.err
    assert "note: what enrich takes from other tables ('other_name') is not shown" in done.out
    assert ["other_name", "-", "(of", "public.u)"] in [
        line.split() for line in done.out.splitlines()
    ]
    told = run_command(other, "preview", "public.t", "--json").json
    assert told["taken"] == {"other_name": "public.u"}
    assert "other_name" not in told["rows"][0]["shaped"]
    transform = f"{functions.MODULE}:as_it_is"
    late = rewrite(made, tables=[{**tables[0], "transform": transform}, tables[1]])
    done = run_command(late, "preview", "public.t")
    assert done.code == 0, done.err
    assert "rows are shown as they are before 'transform'" in done.out


def test_without_a_slot(database: ScratchDatabase, config: PipelineConfig) -> None:
    database.execute(f"SELECT pg_drop_replication_slot('{config.source.slot}')")
    done = run_command(config, "preview", "public.t")
    assert done.code == 0, done.err
    assert "note: no changes were looked at: slot" in done.out
