"""A table is shown as it was by its change table alone, with every value that it had."""

from __future__ import annotations

import random
from datetime import datetime
from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.identifiers import TableName, quote
from cdc_assets.lsn import LSN
from cdc_assets.operations.removal import forget_tables, teardown
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.rebuilding import rebuild
from cdc_assets.replication.retaining import retain
from cdc_assets_tests.audit import FULL
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import make_small
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.notes import filtered_notes
from cdc_assets_tests.syncs import converge, kept, query, sync_all

BOTH = ["mirror", "changes"]
Rows = list[tuple[Any, ...]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch.setattr)


@pytest.fixture
def ledger(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    create_ledger(database)
    database.execute(f"ALTER TABLE {TableName.parse(FULL).sql} REPLICA IDENTITY FULL")
    return kept(pipeline(*TABLES), BOTH)


def shown(config: PipelineConfig, table: str, at: int | datetime) -> Rows:
    name = TableName.parse(table)
    macro, said = (
        ("as_of_lsn", str(at)) if isinstance(at, int) else ("as_of", f"TIMESTAMPTZ '{at}'")
    )
    called = f"{quote(name.schema)}.{quote(f'{name.name}__{macro}')}"
    return query(config, f"FROM {called}({said}) ORDER BY 1, 2")


def seen(database: ScratchDatabase) -> tuple[int, datetime, dict[str, Rows]]:
    """Give what the source itself shows in one snapshot, and at which LSN and time that is."""
    with database.connect() as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        ((lsn, time),) = connection.execute(
            "SELECT pg_current_wal_insert_lsn() - '0/0', clock_timestamp()"
        ).fetchall()
        rows = {
            table: connection.execute(  # type: ignore[call-overload]
                f"SELECT * FROM {TableName.parse(table).sql} ORDER BY "
                + ('"Key" COLLATE "C"' if table == FULL else "1, 2")
            ).fetchall()
            for table in TABLES
        }
    return int(lsn), time, rows


def assert_shown(
    config: PipelineConfig, moments: list[tuple[int, datetime, dict[str, Rows]]]
) -> None:
    for lsn, time, rows in moments:
        for table in TABLES:
            assert shown(config, table, lsn) == rows[table]
            assert shown(config, table, time) == rows[table]


def is_of(config: PipelineConfig, table: str) -> str:
    """Say what a table's macro reads, by what it refuses."""
    with pytest.raises(duckdb.InvalidInputException) as refused:
        shown(config, table, 5)
    return str(refused.value).split("the ")[1].split(" of ")[0]


def test_a_table_is_what_the_source_showed_then(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    writer, moments = Writer(database, seed=61), []
    with writer.running():
        sync_all(ledger)
    converge(database, ledger)
    for number in range(6):
        writer.commit(20)
        if number == 2:
            database.execute(
                "INSERT INTO lines VALUES (9000, 1, 1); TRUNCATE lines, accounts;"
                " INSERT INTO accounts SELECT n, 'anew', n, repeat(md5(n::text), 90)"
                " FROM generate_series(1, 200) n; INSERT INTO lines VALUES (9000, 1, 2)"
            )
        if number == 3:  # rows that carry no body move, meet and come back, in one transaction
            database.execute(
                "UPDATE accounts SET id = -id WHERE id < 50;"
                "UPDATE accounts SET owner = 'moved' WHERE id < 0;"
                "UPDATE accounts SET id = -id WHERE id < -20;"
                "UPDATE accounts SET id = id - 1000 WHERE id < 0;"
                "DELETE FROM accounts WHERE id = -1007; INSERT INTO accounts VALUES (7, 'other')"
            )
        if number == 4:  # nothing is to come, so what is wrong stops no sync
            converge(database, ledger)
            with duckdb.connect(str(ledger.warehouse_path)) as warehouse:
                warehouse.execute(
                    "DELETE FROM public.accounts WHERE id = (SELECT max(id) FROM public.accounts);"
                    "UPDATE public.accounts SET owner = 'wrong' WHERE id % 5 = 0"
                )
            list(backfill(ledger, TableName("public", "accounts")))
        moments.append(seen(database))
    converge(database, ledger)

    assert_shown(ledger, moments)


def test_a_table_is_at_each_lsn_what_its_changes_make_of_it(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    Writer(database, seed=62).commit(120)
    database.execute("UPDATE accounts SET id = 1000 + id WHERE id < 40")
    Writer(database, seed=63).commit(60)
    converge(database, ledger)
    pick, into = random.Random(62), TableName("public", "then")

    for table in TABLES:
        changes = quote(TableName.parse(table).name + "__changes")
        lsns = query(ledger, f"SELECT DISTINCT _cdc_lsn FROM public.{changes} ORDER BY 1")
        for (lsn,) in pick.sample(lsns, 8):
            list(rebuild(ledger, TableName.parse(table), to_lsn=LSN(lsn), into=into))
            there = query(
                ledger,
                "SELECT * EXCLUDE (_cdc_lsn, _cdc_commit_ts) FROM public.then ORDER BY 1, 2",
            )
            assert shown(ledger, table, lsn) == there


def test_a_row_that_moved_keeps_the_value_that_no_change_carried(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    for number in range(4):  # each key but the first is one that another row has had
        database.execute(
            f"UPDATE accounts SET id = {1000 + number} WHERE owner = 'owner 3';"
            f"UPDATE accounts SET id = {999 + number}, balance = 1 WHERE owner = 'owner 6'"
        )
        if number == 1:
            database.execute("UPDATE accounts SET body = repeat('x', 4000) WHERE owner = 'owner 6'")
            between = seen(database)
    end = seen(database)
    converge(database, ledger)

    assert_shown(ledger, [between, end])


def test_a_table_that_is_altered_is_shown_with_the_columns_of_now(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    lsn = seen(database)[0]
    database.execute(
        "ALTER TABLE accounts DROP COLUMN owner; ALTER TABLE accounts ADD more int DEFAULT 7;"
        "UPDATE accounts SET balance = 1 WHERE id < 9"
    )
    sync_all(ledger)
    database.execute(
        "ALTER TABLE accounts RENAME body TO words; UPDATE accounts SET balance = 2 WHERE id < 9"
    )
    sync_all(ledger)
    there = database.execute("SELECT id, words, more FROM accounts ORDER BY 1")
    called = "SELECT id, words, more FROM public.accounts__as_of_lsn({}) ORDER BY id"

    assert query(ledger, called.format(lsn)) == there
    assert query(ledger, called.format(seen_checkpoint(ledger))) == there


def seen_checkpoint(config: PipelineConfig) -> int:
    ((lsn,),) = query(config, "SELECT min(lsn) FROM _cdc.checkpoints")
    return int(lsn)


def test_what_is_not_known_is_refused(database: ScratchDatabase, ledger: PipelineConfig) -> None:
    converge(database, ledger)
    for asked, said in (
        ("_lsn(5)", "the change table of public.lines begins at"),
        ("(TIMESTAMPTZ '2001-01-01')", "the change table of public.lines begins at"),
        ("_lsn(18446744073709551615)", "this LSN is not reached yet"),
        ("(TIMESTAMPTZ '2999-01-01')", "this time is not reached yet"),
    ):
        with pytest.raises(duckdb.InvalidInputException, match=said):
            query(ledger, f"SELECT count(*) FROM public.lines__as_of{asked}")
    database.execute("DELETE FROM lines WHERE account = 1")
    database.execute(
        "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [ledger.source.slot]
    )
    for table in TABLES:
        list(backfill(ledger, TableName.parse(table)))
    converge(database, ledger)
    ((low, high),) = query(
        ledger, "SELECT from_lsn, to_lsn FROM _cdc.record_gaps WHERE name LIKE '%lines%'"
    )
    assert len(shown(ledger, "public.lines", low)) == 300
    assert len(shown(ledger, "public.lines", high)) == 295
    for between in (low + 1, high - 1):
        with pytest.raises(duckdb.Error, match="was not followed then"):
            shown(ledger, "public.lines", between)
    sync_all(kept(ledger, ["mirror"]))
    database.execute("DELETE FROM lines")
    sync_all(kept(ledger, ["mirror"]))
    ((lsn,),) = query(ledger, "SELECT max(lsn) FROM _cdc.checkpoints")
    with pytest.raises(duckdb.Error, match="was not followed then"):
        shown(ledger, "public.lines", lsn)


def test_a_time_is_not_reached_while_one_who_may_have_taken_it_is_open(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    with database.connect() as open_one, open_one.transaction():
        open_one.execute("UPDATE lines SET amount = 0 WHERE account = 1")
        _, time, _ = seen(database)
        sync_all(ledger)
        with pytest.raises(duckdb.Error, match="this time is not reached yet"):
            shown(ledger, "public.lines", time)
    _, later, rows = seen(database)
    sync_all(ledger)

    assert shown(ledger, "public.lines", later) == rows["public.lines"]


def test_rows_that_were_read_by_themselves_are_shown_from_then_on(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = kept(filtered_notes(database, pipeline), BOTH)
    sync_all(config)
    for n in (1, 2, 3):
        database.execute(f"UPDATE notes SET id = {n} WHERE id = 500 + {n}")
    database.execute("DELETE FROM notes WHERE id = 2")
    sync_all(config)
    sync_all(config)
    ((low, high),) = query(config, "SELECT from_lsn, upto_lsn FROM _cdc.unread LIMIT 1")

    assert shown(config, "public.notes", low) == []
    with pytest.raises(duckdb.Error, match=r"some rows of public\.notes are not known then"):
        shown(config, "public.notes", high - 1)
    there = database.execute("SELECT * FROM notes WHERE id < 100 ORDER BY 1")
    assert shown(config, "public.notes", high) == there


def test_old_changes_that_went_are_shown_no_more(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    ledger = kept(ledger, BOTH, changes={"keep_days": 30})
    converge(database, ledger)
    writer = Writer(database, seed=64)
    writer.commit(40)
    converge(database, ledger)
    before, ((lsn,),) = seen(database), query(ledger, "SELECT max(lsn) FROM _cdc.checkpoints")
    with duckdb.connect(str(ledger.warehouse_path)) as warehouse:
        warehouse.execute(
            "UPDATE public.accounts__changes SET _cdc_commit_ts = _cdc_commit_ts - INTERVAL 40 DAY"
        )
    writer.commit(40)
    after = seen(database)
    converge(database, ledger)

    *_, done = retain(ledger, TableName("public", "accounts"))

    assert done.removed
    since = int(done.since_lsn)
    assert shown(ledger, "public.accounts", max(since, before[0])) == before[2]["public.accounts"]
    assert shown(ledger, "public.accounts", after[0]) == after[2]["public.accounts"]
    with pytest.raises(duckdb.Error, match=r"the change table of public\.accounts begins at"):
        shown(ledger, "public.accounts", since - 1)
    assert lsn >= since


def test_macros_are_of_what_goes_back_furthest(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    assert is_of(ledger, "public.lines") == "change table"
    first = seen(database)
    database.execute("UPDATE lines SET amount = 1")
    converge(database, ledger)
    all_three = kept(ledger, [*BOTH, "history"])
    converge(database, all_three)
    assert is_of(all_three, "public.lines") == "change table"
    list(rebuild(all_three, TableName("public", "lines")))
    assert is_of(all_three, "public.lines") == "history"
    database.execute("UPDATE lines SET amount = 2")
    ledger = kept(all_three, BOTH)
    converge(database, ledger)
    assert is_of(ledger, "public.lines") == "change table"
    second = seen(database)
    database.execute("UPDATE lines SET amount = 3")
    converge(database, ledger)
    assert_shown(ledger, [second])
    assert shown(ledger, "public.lines", max(first[0], begins(ledger))) == first[2]["public.lines"]


def begins(config: PipelineConfig) -> int:
    ((lsn,),) = query(config, "SELECT min(since_lsn) FROM _cdc.change_tables")
    return int(lsn)


def test_rows_are_shown_as_they_are_shaped(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE orders (id text PRIMARY KEY, state text, total int, note text);"
        "ALTER TABLE orders REPLICA IDENTITY FULL;"
        "INSERT INTO orders SELECT n, 'draft', n, 'n' FROM generate_series(1, 60) n"
    )
    table = {
        "source": "public.orders",
        "keep": BOTH,
        "where": "state <> 'draft'",
        "mask": {"id": "sha256"},
        "columns": {"rename": {"id": "the key", "total": "sum"}, "exclude": ["note"]},
    }
    config = load_config(rewrite(pipeline("public.orders"), tables=[table]))
    sync_all(config)
    moments = []
    for n in range(1, 6):
        database.execute(
            f"UPDATE orders SET state = 'open' WHERE total % {n} = 0; UPDATE orders SET id ="
            f" id || 'x', state = 'draft' WHERE total % 7 = {n};"
        )
        sync_all(config)
        ((lsn,),) = query(config, "SELECT max(lsn) FROM _cdc.checkpoints")
        mirror = 'SELECT "the key", state, sum FROM public.orders ORDER BY 1, 2'
        moments.append((lsn, query(config, mirror)))

    for lsn, rows in moments:
        assert shown(config, "public.orders", lsn) == rows


def macros(config: PipelineConfig) -> Rows:
    return query(config, "SELECT function_name FROM duckdb_functions() WHERE NOT internal")


def test_no_macros_are_left_of_what_is_dropped(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, kept(ledger, [*BOTH, "history"]))
    ledger = kept(ledger, [*BOTH, "history"])
    assert len(macros(ledger)) == 2 * len(TABLES)
    (done, *_) = forget_tables(ledger, [TableName("public", "lines")])
    assert done == "dropped mirror, change table, history and checkpoint of 'public.lines'"
    assert len(macros(ledger)) == 2 * len(TABLES) - 2
    teardown(ledger)
    forget_tables(ledger, ledger.table_names, drop_unknown=True)

    assert macros(ledger) == []


def test_a_table_that_loses_its_mirror_loses_its_macros(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    ledger = kept(ledger, ["changes"])
    for table in TABLES:
        list(backfill(ledger, TableName.parse(table)))

    assert macros(ledger) == []
