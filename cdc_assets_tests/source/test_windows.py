"""Windows are bounded and hold whole transactions; each table has a checkpoint of its own."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import SourceChangedError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.operations.removal import forget_tables
from cdc_assets.progress import SyncFinished, WindowApplied
from cdc_assets.replication.sync import sync
from cdc_assets.source import window
from cdc_assets.source.window import _OpenTransaction
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, kill_at, make_small
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_all, sync_once
from cdc_assets_tests.waiting import wait_until_unlocked

MEGABYTE = 1_048_576
A, B = TableName.parse("public.a"), TableName.parse("public.b")


@pytest.fixture
def two_tables(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE a (id int PRIMARY KEY, t text); CREATE TABLE b (LIKE a)")
    database.execute("ALTER TABLE b ADD PRIMARY KEY (id)")
    return pipeline("public.a", "public.b", max_wal_bytes=MEGABYTE, schema_changes="stop")


def windows_of(config: PipelineConfig, **options: Any) -> list[WindowApplied]:
    return [event for event in sync(config, **options) if isinstance(event, WindowApplied)]


def slot_lsn(database: ScratchDatabase, config: PipelineConfig) -> LSN:
    ((text,),) = database.execute(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s",
        [config.source.slot],
    )
    return LSN.parse(text)


def checkpoints(config: PipelineConfig) -> dict[str, LSN]:
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        rows = warehouse.execute("SELECT source_table, lsn FROM _cdc.checkpoints").fetchall()
    return {table: LSN(lsn) for table, lsn in rows}


def fill(database: ScratchDatabase, table: str, start: int, count: int) -> None:
    database.execute(
        f"INSERT INTO {table} SELECT n, repeat('x', 200)"
        f" FROM generate_series({start}, {start + count - 1}) AS n"
    )


def test_windows_end_near_their_bound_and_follow_one_another(
    database: ScratchDatabase, two_tables: PipelineConfig
) -> None:
    sync_all(two_tables)
    for start in range(0, 12_000, 500):
        fill(database, "a", start, 500)

    windows = windows_of(two_tables)

    assert len(windows) > 3
    for event in windows:
        assert event.end_lsn - event.start_lsn < 1.5 * MEGABYTE
    assert [event.start_lsn for event in windows[1:]] == [event.end_lsn for event in windows[:-1]]
    assert sum(event.transactions for event in windows) == 24
    assert sum(event.changes for event in windows) == 12_000
    assert [event.remaining_bytes for event in windows][-1] == 0
    converge(database, two_tables)


def test_a_transaction_larger_than_a_window_is_not_split(
    database: ScratchDatabase, two_tables: PipelineConfig
) -> None:
    sync_all(two_tables)
    database.execute(
        "INSERT INTO a SELECT n, repeat('x', 200) FROM generate_series(1, 12000) AS n;"
        "INSERT INTO b SELECT * FROM a"
    )

    windows = [event for event in windows_of(two_tables) if event.changes]

    assert [event.tables[A].inserted for event in windows] == [12_000]
    assert [event.tables[B].inserted for event in windows] == [12_000]
    converge(database, two_tables)


def test_a_transaction_past_the_memory_bound_waits_in_a_file(
    database: ScratchDatabase, two_tables: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch.setattr)
    spooled = 0
    spool = _OpenTransaction._spool

    def counting(self: _OpenTransaction) -> None:
        nonlocal spooled
        spooled += 1
        spool(self)

    monkeypatch.setattr(_OpenTransaction, "_spool", counting)
    sync_all(two_tables)
    fill(database, "b", 1, 10)
    database.execute(
        "INSERT INTO a SELECT n, repeat('x', 200) FROM generate_series(1, 9000) AS n;"
        "UPDATE a SET t = 'y' WHERE id % 3 = 0; DELETE FROM a WHERE id % 7 = 0;"
        "UPDATE a SET id = -id WHERE id % 5 = 0; INSERT INTO b SELECT id, t FROM a WHERE id > 100"
    )
    fill(database, "b", -100, 10)

    converge(database, two_tables)

    assert spooled > 5
    assert not list(two_tables.warehouse_path.parent.glob("cdc-open-transaction-*"))


def test_a_sync_with_nothing_published_still_moves_the_slot(
    database: ScratchDatabase, two_tables: PipelineConfig
) -> None:
    sync_all(two_tables)
    before = slot_lsn(database, two_tables)
    database.execute("CREATE TABLE elsewhere AS SELECT generate_series(1, 5000) AS n")
    end = LSN.parse(database.execute("SELECT pg_current_wal_lsn()::text")[0][0])

    finished = sync_all(two_tables)

    assert finished.counts.total == 0
    assert before < end <= slot_lsn(database, two_tables) == finished.confirmed_lsn
    assert set(checkpoints(two_tables).values()) == {finished.confirmed_lsn}


def test_until_lsn_ends_at_the_first_commit_at_or_past_it(
    database: ScratchDatabase, two_tables: PipelineConfig
) -> None:
    sync_all(two_tables)
    ends = []
    for number in range(1, 4):
        fill(database, "a", number, 1)
        ends.append(LSN.parse(database.execute("SELECT pg_current_wal_lsn()::text")[0][0]))

    *_, finished = sync(two_tables, until_lsn=ends[1])

    assert isinstance(finished, SyncFinished)
    assert mirror_rows(two_tables, "public.a", "id") == [(1,), (2,)]
    assert ends[1] <= finished.confirmed_lsn < ends[2]
    *_, again = sync(two_tables, until_lsn=ends[0])
    assert isinstance(again, SyncFinished)
    assert again.windows == 0
    assert again.confirmed_lsn == finished.confirmed_lsn
    converge(database, two_tables)


def test_a_subset_of_tables_keeps_checkpoints_of_its_own(
    database: ScratchDatabase, two_tables: PipelineConfig
) -> None:
    sync_all(two_tables)
    start = slot_lsn(database, two_tables)
    fill(database, "a", 1, 3)
    fill(database, "b", 1, 3)

    *_, only_b = sync(two_tables, tables=[B])

    assert isinstance(only_b, SyncFinished)
    assert [table.table for table in only_b.tables] == [B]
    assert mirror_rows(two_tables, "public.a") == []
    assert len(mirror_rows(two_tables, "public.b")) == 3
    assert slot_lsn(database, two_tables) == start == checkpoints(two_tables)["public.a"]
    assert checkpoints(two_tables)["public.b"] > start
    database.execute("UPDATE b SET t = 'again'; DELETE FROM b WHERE id = 2")
    finished = converge(database, two_tables)
    counts = {table.table: table.counts for table in finished.tables}
    assert (counts[A].inserted, counts[B].inserted) == (3, 0)
    assert (counts[B].updated, counts[B].deleted) == (3, 1)
    assert set(checkpoints(two_tables).values()) == {slot_lsn(database, two_tables)}


def test_a_slot_behind_the_checkpoint_is_read_again_and_skipped(
    database: ScratchDatabase, two_tables: PipelineConfig
) -> None:
    sync_all(two_tables)
    fill(database, "a", 1, 5)
    assert kill_at(two_tables, "window_committed", 1)
    wait_until_unlocked(database)
    assert slot_lsn(database, two_tables) < min(checkpoints(two_tables).values())
    fill(database, "a", 6, 1)

    finished = converge(database, two_tables)

    assert finished.counts.inserted == 1


@pytest.mark.parametrize("changed", ["xid", "commit_micros", "end_lsn"])
def test_another_last_transaction_than_the_applied_one_stops_the_run(
    database: ScratchDatabase, two_tables: PipelineConfig, changed: str
) -> None:
    sync_all(two_tables)
    fill(database, "a", 1, 5)
    assert kill_at(two_tables, "window_committed", 1)
    wait_until_unlocked(database)
    with duckdb.connect(str(two_tables.warehouse_path)) as warehouse:
        ((text,),) = warehouse.execute(
            "SELECT DISTINCT last_transaction FROM _cdc.checkpoints"
        ).fetchall()
        last = json.loads(text)
        last[changed] -= 1
        warehouse.execute("UPDATE _cdc.checkpoints SET last_transaction = ?", [json.dumps(last)])
    before = checkpoints(two_tables)
    fill(database, "a", 6, 1)

    with pytest.raises(SourceChangedError) as raised:
        sync_once(two_tables)

    assert "restored from an older copy" in str(raised.value)
    assert checkpoints(two_tables) == before


def test_a_failed_table_holds_the_slot_and_is_tried_again_while_others_go_on(
    database: ScratchDatabase, two_tables: PipelineConfig
) -> None:
    sync_all(two_tables)
    fill(database, "a", 1, 2)
    database.execute("ALTER TABLE b ALTER COLUMN t TYPE varchar(500)")
    fill(database, "b", 1, 2)
    fill(database, "a", 3, 2)

    for round_number in range(2):
        fill(database, "a", 10 + round_number, 1)
        finished = sync_once(two_tables)
        assert list(errors_of(finished)) == ["public.b"]
        assert len(mirror_rows(two_tables, "public.a")) == 5 + round_number
        assert mirror_rows(two_tables, "public.b") == []
        assert slot_lsn(database, two_tables) == checkpoints(two_tables)["public.b"]
        assert checkpoints(two_tables)["public.a"] > checkpoints(two_tables)["public.b"]

    forget_tables(two_tables, [B])
    converge(database, two_tables)
    assert set(checkpoints(two_tables).values()) == {slot_lsn(database, two_tables)}


def test_an_error_after_the_first_windows_keeps_what_they_have_committed(
    database: ScratchDatabase, two_tables: PipelineConfig
) -> None:
    sync_all(two_tables)
    for start in range(0, 9_000, 500):
        fill(database, "a", start, 500)

    class StopError(Exception):
        pass

    def stop() -> None:
        raise StopError

    with pytest.raises(StopError), at_step("window_read", 3, stop):
        sync_once(two_tables)

    assert 0 < len(mirror_rows(two_tables, "public.a", "id")) < 9_000
    assert checkpoints(two_tables)["public.a"] == slot_lsn(database, two_tables)
    converge(database, two_tables)


def test_memory_bounds_do_not_change_the_outcome(
    database: ScratchDatabase, two_tables: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices so small that a row's changes lie in several of one transaction."""
    make_small(monkeypatch.setattr)
    monkeypatch.setattr("cdc_assets.replication.applying.APPLY_BYTES", 0)
    monkeypatch.setattr(window, "MEMORY_BYTES", 0)
    monkeypatch.setattr("cdc_assets.source.arrow.BATCH_BYTES", 1)
    database.execute("ALTER TABLE a ALTER COLUMN t SET STORAGE EXTERNAL")
    database.execute(
        "INSERT INTO a SELECT n, repeat(md5(n::text), 90) FROM generate_series(1, 9) n"
    )
    sync_all(two_tables)

    database.execute(
        "UPDATE a SET id = id + 100; UPDATE a SET id = id - 95 WHERE id % 2 = 0;"
        "DELETE FROM a WHERE id = 101; UPDATE a SET t = 'x' || t WHERE id = 103;"
        "UPDATE a SET id = 1 WHERE id = 103; INSERT INTO b SELECT * FROM a; TRUNCATE b;"
        "INSERT INTO b SELECT id, 'after' FROM a; UPDATE a SET id = id WHERE id = 1"
    )

    converge(database, two_tables)
