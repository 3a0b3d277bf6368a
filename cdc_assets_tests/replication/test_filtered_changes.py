"""Change tables of filtered tables hold what happened to the rows that the condition keeps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.identifiers import TableName
from cdc_assets.replication.backfill import backfill
from cdc_assets.steps import Step
from cdc_assets_tests.audit import (
    Change,
    Recorded,
    assert_replayed,
    audited,
    create_audit,
    recorded,
)
from cdc_assets_tests.command_line import rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_all, sync_once
from cdc_assets_tests.waiting import wait_until_unlocked

pytestmark = pytest.mark.usefixtures("small")

BOTH = ["mirror", "changes"]
# The first reads what moves often, the second a long value that is stored apart, the third the key
WHERE = {
    "public.accounts": "balance > 20",
    "public.Notes": 'length("Body") > 10 AND "Key" < \'k0350\'',
    "public.lines": "line % 2 = 0",
}


@pytest.fixture
def ledger(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    create_ledger(database)
    for table in TABLES:
        database.execute(f"ALTER TABLE {TableName.parse(table).sql} REPLICA IDENTITY FULL")
    create_audit(database)
    tables = [{"source": table, "keep": BOTH, "where": WHERE[table]} for table in TABLES]
    return load_config(rewrite(pipeline(*TABLES, schema_changes="stop"), tables=tables))


def expected(database: ScratchDatabase) -> list[Change]:
    """Tell what the triggers wrote as of the kept rows alone; Postgres says which these are."""
    sides = ", ".join(
        f"CASE source {' '.join(_kept(table, side) for table in TABLES)} END"
        for side in ("old", "new")
    )
    kept = database.execute(f"SELECT {sides} FROM audit ORDER BY n")
    found = []
    for change, (old, new) in zip(audited(database), kept, strict=True):
        if change.op == "truncate":
            found.append(change)
        elif change.op == "update" and old and not new:
            found.append(replace(change, op="delete", new=None))
        elif change.op == "update" and new and not old:
            found.append(replace(change, op="insert", old=None))
        elif old or new:
            found.append(change)
    return found


def _kept(table: str, side: str) -> str:
    row = f"jsonb_populate_record(NULL::{TableName.parse(table).sql}, {side})"
    return f"WHEN '{table}' THEN (SELECT coalesce({WHERE[table]}, false) FROM {row} AS r)"


def assert_as_expected(database: ScratchDatabase, config: PipelineConfig) -> list[Recorded]:
    rows = recorded(config)
    streamed = [row for row in rows if row.source == "stream"]
    assert not any(row.unchanged for row in streamed)
    assert [row.change for row in streamed] == expected(database)
    assert len({(row.lsn, row.seq) for row in rows}) == len(rows)
    assert_replayed(config, rows)
    return streamed


def write(database: ScratchDatabase, writer: Writer) -> None:
    writer.commit(60)
    database.execute(
        "UPDATE accounts SET balance = 100 - balance;"
        "UPDATE accounts SET id = -1 - id, balance = 30 - balance WHERE id % 3 = 0;"
        'UPDATE "Notes" SET "Body" = CASE WHEN length("Body") > 10 THEN \'s\''
        '  ELSE repeat(md5("Key"), 90) END WHERE "Key" > \'k0100\';'
        'UPDATE "Notes" SET "At" = "At" + interval \'1 h\';'
        "UPDATE lines SET line = line + 7 WHERE account % 2 = 0"
    )
    database.execute(
        "INSERT INTO lines VALUES (9000, 1, 1); TRUNCATE lines, accounts;"
        " INSERT INTO accounts SELECT n, 'anew', n, repeat(md5(n::text), 90)"
        " FROM generate_series(1, 200) n; INSERT INTO lines VALUES (9000, 2, 2), (9000, 3, 2)"
    )
    writer.commit(60)


def test_changes_of_kept_rows_are_kept(database: ScratchDatabase, ledger: PipelineConfig) -> None:
    converge(database, ledger)
    write(database, Writer(database, seed=31))

    finished = converge(database, ledger)

    streamed = assert_as_expected(database, ledger)
    changes = audited(database)
    told = [row.change for row in streamed]
    turned = {
        (before.op, after.op)
        for before in changes
        for after in told
        if before.op != after.op and before.xid == after.xid and before.table == after.table
    }
    assert {("update", "insert"), ("update", "delete")} <= turned
    counts = {str(table.table): table.counts for table in finished.tables}
    for table in TABLES:
        ops = [change.op for change in told if change.table == table]
        assert counts[table].inserted == ops.count("insert")
        assert counts[table].updated == ops.count("update")
        assert counts[table].deleted == ops.count("delete")


@pytest.mark.parametrize("step", ["changes_appended", "before_commit", "window_committed"])
def test_a_kill_neither_loses_nor_doubles_a_change(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    converge(database, ledger)
    Writer(database, seed=32).commit(80)
    assert kill_at(ledger, step, 2)
    wait_until_unlocked(database)
    converge(database, ledger)
    assert_as_expected(database, ledger)


def test_copies_beside_changes(database: ScratchDatabase, ledger: PipelineConfig) -> None:
    """What a copy has seen is kept out of its rows, whatever became of the changes."""
    writer = Writer(database, seed=33)
    converge(database, ledger)
    for table in ledger.table_names:
        with at_step("chunk_committed", 1, lambda: write(database, writer)):
            list(backfill(ledger, table))
        with at_step("chunk_committed", 1, lambda: writer.commit(20)):
            list(backfill(ledger, table, buckets=["02", "05"]))
    converge(database, ledger)
    assert_as_expected(database, ledger)


def test_a_mirror_that_lacks_a_row_is_found(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    """An old row tells that it was kept, so the mirror must have it."""
    converge(database, ledger)
    with duckdb.connect(str(ledger.warehouse_path)) as warehouse:
        warehouse.execute("DELETE FROM public.accounts WHERE id = 299")
    database.execute("UPDATE accounts SET balance = balance + 1 WHERE id = 299")
    assert "differs from the source" in errors_of(sync_once(ledger))["public.accounts"].message
    list(backfill(ledger, TableName("public", "accounts")))
    rows = recorded(ledger)
    converge(database, ledger)
    assert_replayed(ledger, rows)


def test_old_rows_have_to_come_whole(database: ScratchDatabase, ledger: PipelineConfig) -> None:
    database.execute("ALTER TABLE lines REPLICA IDENTITY DEFAULT")
    assert "only a whole old row tells" in run_command(ledger, "check").err
    assert set(errors_of(sync_once(ledger))) == {"public.lines"}
    database.execute("ALTER TABLE lines REPLICA IDENTITY FULL")
    converge(database, ledger)

    database.execute("ALTER TABLE lines REPLICA IDENTITY DEFAULT; DELETE FROM lines WHERE line = 2")
    database.execute("ALTER TABLE lines REPLICA IDENTITY FULL")
    assert "do not come whole" in errors_of(sync_once(ledger))["public.lines"].message
    list(backfill(ledger, TableName("public", "lines")))
    database.execute("UPDATE lines SET line = line + 11 WHERE account % 3 = 0")
    converge(database, ledger)
    rows = recorded(ledger)
    assert_replayed(ledger, rows)


def test_a_condition_that_reads_no_column(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int); ALTER TABLE t REPLICA IDENTITY FULL"
    )
    table = {"source": "public.t", "keep": BOTH, "where": "1 = 1"}
    config = load_config(rewrite(pipeline("public.t"), tables=[table]))
    sync_all(config)
    database.execute("INSERT INTO t VALUES (1, 1), (2, 2); UPDATE t SET n = 3; DELETE FROM t")
    sync_all(config)
    assert ops_of(config) == ["insert", "insert", "update", "update", "delete", "delete"]


def test_what_is_told_of_old_rows_is_told_before_masks(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, state text, n int);"
        "ALTER TABLE t REPLICA IDENTITY FULL; INSERT INTO t VALUES (1, 'a', 1), (2, 'b', 2)"
    )
    table = {
        "source": "public.t",
        "keep": BOTH,
        "where": "status = 'a'",
        "columns": {"rename": {"state": "status"}},
        "mask": {"state": "redact", "id": "sha256"},
    }
    config = load_config(rewrite(pipeline("public.t"), tables=[table]))
    sync_all(config)
    database.execute("UPDATE t SET state = 'b', n = 3 WHERE id = 1")
    database.execute("UPDATE t SET state = 'a', id = 5 WHERE id = 2")
    database.execute("UPDATE t SET id = 6 WHERE id = 1")
    sync_all(config)
    assert ops_of(config) == ["snapshot", "delete", "insert"]
    assert mirror_rows(config, "public.t", "status, n") == [("***", 2)]


def test_changes_alone_of_a_table_without_a_key(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (id int, n int); ALTER TABLE t REPLICA IDENTITY FULL;"
        "INSERT INTO t VALUES (1, 1), (2, 2), (2, 2)"
    )
    made = pipeline("public.t")
    for where, more in (("n > 1", ["insert", "delete", "delete"]), ("1 = 1", ["update"] * 3)):
        tables = [{"source": "public.t", "keep": ["changes"], "where": where}]
        config = load_config(rewrite(made, tables=tables))
        list(backfill(config, TableName("public", "t")))
        before = ops_of(config)
        assert set(before) == {"snapshot"}
        database.execute("UPDATE t SET n = CASE n WHEN 1 THEN 2 ELSE 1 END")
        sync_all(config)
        assert ops_of(config)[len(before) :] == more


def ops_of(config: PipelineConfig) -> list[Any]:
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        sql = "SELECT _cdc_op FROM public.t__changes ORDER BY _cdc_lsn, _cdc_seq"
        return [op for (op,) in warehouse.execute(sql).fetchall()]


def test_partitions_have_old_rows_of_their_own(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100);"
        "ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE t1 REPLICA IDENTITY FULL"
    )
    table = {"source": "public.t", "keep": BOTH, "where": "n > 1"}
    config = load_config(rewrite(pipeline("public.t"), tables=[table]))
    assert "it is partitioned" in run_command(config, "check").err


@pytest.mark.parametrize("deletes", ["hard", "soft"])
def test_a_mirror_is_the_same_with_changes_and_without(
    database: ScratchDatabase, tmp_path: Path, deletes: str
) -> None:
    """Two ways lead to a filtered mirror: by old rows, and by the new ones alone."""
    create_ledger(database)
    for table in TABLES:
        database.execute(f"ALTER TABLE {TableName.parse(table).sql} REPLICA IDENTITY FULL")
    configs = []
    for name, keep in (("alone", ["mirror"]), ("beside", BOTH)):
        (tmp_path / name).mkdir()
        made = make_pipeline(database, tmp_path / name, *TABLES, name=name)
        tables = [
            {"source": table, "keep": keep, "where": WHERE[table], "deletes": deletes}
            for table in TABLES
        ]
        configs.append(load_config(rewrite(made, tables=tables)))
        sync_all(configs[-1])
    writer = Writer(database, seed=34)
    lsn = "CASE WHEN _cdc_commit_ts IS NOT NULL THEN _cdc_lsn END"
    for _ in range(3):
        write(database, writer)
        for config in configs:
            converge(database, config)
        for table in TABLES:
            one, other = (
                mirror_rows(config, table, f"* REPLACE ({lsn} AS _cdc_lsn)") for config in configs
            )
            assert one == other
