"""A history holds every version that a row had: no gap, no overlap, each with its transaction."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName, quote
from cdc_assets.operations.removal import teardown
from cdc_assets.replication.backfill import backfill
from cdc_assets.steps import Step, observers
from cdc_assets_tests.audit import FULL, create_audit
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, errors_of, kept, query, sync_all, sync_once
from cdc_assets_tests.versions import (
    assert_current_as_mirrors,
    assert_versions_as_audited,
    histories,
)
from cdc_assets_tests.waiting import wait_until_unlocked

pytestmark = pytest.mark.usefixtures("small")

ALL = ["mirror", "changes", "history"]
DOC = "id, state, length(body)"


@pytest.fixture
def ledger(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    create_ledger(database)
    database.execute(f"ALTER TABLE {TableName.parse(FULL).sql} REPLICA IDENTITY FULL")
    create_audit(database)
    return kept(pipeline(*TABLES, schema_changes="stop"), ALL)


def write(database: ScratchDatabase, writer: Writer) -> None:
    """Change rows in all ways, some of them to what they are, and truncate amidst."""
    writer.commit(60)
    database.execute(
        "UPDATE accounts SET owner = owner; UPDATE lines SET amount = amount WHERE account < 20"
    )
    database.execute(
        "INSERT INTO lines VALUES (9000, 1, 1); TRUNCATE lines, accounts;"
        " INSERT INTO accounts SELECT n, 'anew', n, repeat(md5(n::text), 90)"
        " FROM generate_series(1, 200) n; INSERT INTO lines VALUES (9000, 1, 2)"
    )
    database.execute(
        "INSERT INTO lines VALUES (9001, 1, 1); DELETE FROM lines WHERE account = 9001;"
        "UPDATE accounts SET id = -id WHERE id < 5; UPDATE accounts SET id = -id WHERE id < 0"
    )
    writer.commit(60)


def test_every_version_is_there_once(database: ScratchDatabase, ledger: PipelineConfig) -> None:
    converge(database, ledger)
    write(database, Writer(database, seed=21))

    converge(database, ledger)

    assert assert_versions_as_audited(database, ledger) > 1500
    assert_current_as_mirrors(ledger)


@pytest.mark.parametrize(
    "step",
    ["versions_written", "table_applied", "before_commit", "window_committed", "window_confirmed"],
)
def test_a_kill_neither_loses_nor_doubles_a_version(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    converge(database, ledger)
    Writer(database, seed=22).commit(80)
    assert kill_at(ledger, step, 2)
    wait_until_unlocked(database)

    converge(database, ledger)

    assert_versions_as_audited(database, ledger)


def test_a_row_that_is_kept_deleted_has_ended_in_the_history(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    config = kept(ledger, ALL, deletes="soft")
    converge(database, config)
    write(database, Writer(database, seed=25))
    assert kill_at(config, "versions_written", 2)
    wait_until_unlocked(database)
    converge(database, config)
    for sql in ("DELETE FROM lines", "INSERT INTO lines VALUES (1, 1, 5)"):
        database.execute(sql)
        converge(database, config)
    list(backfill(config, TableName("public", "lines")))

    assert assert_versions_as_audited(database, config) > 1500
    assert_current_as_mirrors(config)
    deleted = "SELECT count(*) > 100 FROM public.lines WHERE _cdc_deleted"
    assert query(config, deleted) == [(True,)]
    *_, ended, back = histories(config, "public.lines")[1, 1]
    assert ended.to_lsn is not None
    assert (back.row["amount"], back.to_lsn) == (5, None)
    assert ended.to_lsn < back.from_lsn


@pytest.mark.parametrize("step", ["copy_staged", "copy_placed"])
def test_a_kill_while_a_history_begins_leaves_one_beginning(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    writer = Writer(database, seed=23)
    with writer.running():
        assert kill_at(ledger, step, 2)
        wait_until_unlocked(database)
        sync_all(ledger)
    converge(database, ledger)

    assert_current_as_mirrors(ledger)
    for table in TABLES:
        versions = [one for of in histories(ledger, table).values() for one in of]
        ((since,),) = query(
            ledger, f"SELECT since_lsn FROM _cdc.histories WHERE source_table = '{table}'"
        )
        assert min(version.from_lsn for version in versions) == since


def test_a_table_is_shown_as_of_a_moment(database: ScratchDatabase, ledger: PipelineConfig) -> None:
    writer = Writer(database, seed=24)
    converge(database, ledger)
    moments = []
    for _ in range(4):
        writer.commit(25)
        converge(database, ledger)
        ((lsn, time),) = database.execute(
            "SELECT pg_current_wal_insert_lsn() - '0/0', clock_timestamp()"
        )
        rows = {table: sorted_rows(database, table) for table in TABLES}
        sync_once(ledger)
        ((checkpoint,),) = query(ledger, "SELECT min(lsn) FROM _cdc.checkpoints")
        assert checkpoint >= lsn
        moments.append((int(lsn), time, rows))
    database.execute('TRUNCATE "Notes"; DELETE FROM lines')
    converge(database, ledger)

    for lsn, time, rows in moments:
        for table in TABLES:
            name = TableName.parse(table)
            macro = f"{quote(name.schema)}.{{}}".format
            by_lsn, by_time = (
                macro(quote(name.name + "__as_of_lsn")),
                macro(quote(name.name + "__as_of")),
            )
            assert query(ledger, f"SELECT * FROM {by_lsn}({lsn}) ORDER BY 1, 2") == rows[table]
            assert (
                query(ledger, f"SELECT * FROM {by_time}(TIMESTAMPTZ '{time}') ORDER BY 1, 2")
                == rows[table]
            )


def sorted_rows(database: ScratchDatabase, table: str) -> list[tuple[Any, ...]]:
    """Give a table's rows as the source shows them, in bytes' order of the first two columns."""
    name = TableName.parse(table)
    order = '"Key" COLLATE "C"' if table == FULL else "1, 2"
    return database.execute(f"SELECT * FROM {name.sql} ORDER BY {order}")


def test_what_a_history_does_not_know_is_refused(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    for asked, said in (
        ("as_of_lsn(5)", r"the history of public.lines begins at \d+ \([0-9A-F]+/[0-9A-F]+\)"),
        ("as_of(TIMESTAMPTZ '2001-01-01')", "the history of public.lines begins at 20"),
        ("as_of_lsn(18446744073709551615)", "this LSN is not reached yet"),
        ("as_of(TIMESTAMPTZ '2999-01-01')", "this time is not reached yet"),
    ):
        with pytest.raises(duckdb.InvalidInputException, match=said):
            query(ledger, f"SELECT count(*) FROM public.lines__{asked}")


def test_a_backfill_corrects_what_differs_and_nothing_else(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    before = histories(ledger, "public.accounts")
    with duckdb.connect(str(ledger.warehouse_path)) as warehouse:
        warehouse.execute(
            "DELETE FROM public.accounts WHERE id = 3;"
            "UPDATE public.accounts SET owner = 'wrong' WHERE id = 4;"
            "UPDATE public.accounts__history SET owner = 'wrong' WHERE id = 5;"
            "UPDATE public.accounts SET owner = 'wrong' WHERE id = 5;"
        )
    database.execute("UPDATE accounts SET balance = -9 WHERE id = 9")
    list(backfill(ledger, TableName("public", "accounts")))

    after = histories(ledger, "public.accounts")

    assert {key for key in after if after[key] != before[key]} == {(5,), (9,)}
    wrong, right = after[5,]
    assert (wrong.row["owner"], right.row["owner"]) == ("wrong", "owner 5")
    assert (right.source, right.to_lsn) == ("backfill", None)


def test_a_table_of_another_shape_sets_its_history_aside(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    of_before = query(ledger, "SELECT count(*) FROM public.lines__history")
    database.execute("ALTER TABLE lines ADD note text; UPDATE lines SET note = 'n'")
    assert list(errors_of(sync_once(ledger))) == ["public.lines"]
    list(backfill(ledger, TableName("public", "lines")))
    converge(database, ledger)

    names = [name for (name,) in query(ledger, "SELECT table_name FROM duckdb_tables()")]
    (aside,) = [name for name in names if name.startswith("lines__history__until_")]
    assert query(ledger, f'SELECT count(*) FROM public."{aside}"') == of_before
    ((lsn,),) = query(ledger, "SELECT max(lsn) FROM _cdc.checkpoints")
    assert query(ledger, f"SELECT count(note) FROM public.lines__as_of_lsn({lsn})") == query(
        ledger, "SELECT count(*) FROM public.lines"
    )
    teardown(ledger, drop_tables=True)
    left = query(ledger, "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public'")
    assert left == []


@pytest.mark.parametrize("what", ["key", "shaping"])
def test_records_of_rows_that_mean_something_else_are_set_aside(
    database: ScratchDatabase, ledger: PipelineConfig, what: str
) -> None:
    converge(database, ledger)
    if what == "key":
        database.execute(
            "ALTER TABLE lines DROP CONSTRAINT lines_pkey, ADD PRIMARY KEY (line, account)"
        )
    else:
        for table in ledger.table_names:
            database.execute(f"ALTER TABLE {table.sql} REPLICA IDENTITY FULL")
        ledger = kept(ledger, ALL, where="1 = 1")
    for table in ledger.table_names:
        list(backfill(ledger, table))
    converge(database, ledger)

    names = [name for (name,) in query(ledger, "SELECT table_name FROM duckdb_tables()")]
    assert sum(name.startswith("lines__history__until_") for name in names) == 1
    assert sum(name.startswith("lines__changes__until_") for name in names) == 1
    begun = query(ledger, "SELECT DISTINCT _cdc_op FROM public.lines__changes")
    assert begun == [("snapshot",)]
    assert_current_as_mirrors(ledger)


@pytest.mark.parametrize("anew", ["first copy", "copied anew"])
def test_a_history_does_not_begin_without_rows_that_its_copy_lacks(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, anew: str
) -> None:
    config = kept(create_docs(database, pipeline), ["mirror", "history"])
    monkeypatch.setattr("cdc_assets.replication.sync.ROUNDS", 1)
    monkeypatch.setattr("cdc_assets.replication.catching_up.ROUNDS", 1)
    monkeypatch.setattr("cdc_assets.replication.beside_syncs._MOST_ROUNDS", 1)
    if anew == "copied anew":
        sync_all(config)
        database.execute("ALTER TABLE docs ADD more int")
        assert errors_of(sync_once(config))

    def enter() -> None:
        database.execute("UPDATE docs SET state = 'final' WHERE id = 1")

    with at_step("chunk_committed", 1, enter):
        if anew == "first copy":
            sync_once(config)
        else:
            list(backfill(config, TableName("public", "docs")))
    begun = False
    for number in range(100, 104):
        if shown := as_of_now(config):
            begun = True
            assert shown == query(config, f"SELECT {DOC} FROM public.docs ORDER BY id")
        database.execute(f"INSERT INTO docs VALUES ({number}, 'final', 'short')")
        sync_once(config)

    assert begun
    assert (1, "final", 2880) in (as_of_now(config) or ())


def create_docs(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """Make a table of which rows with a large value enter the publication."""
    database.execute(
        "CREATE TABLE docs (id int, state text, body text, PRIMARY KEY (id, state));"
        "ALTER TABLE docs ALTER COLUMN body SET STORAGE EXTERNAL;"
        "INSERT INTO docs SELECT n, CASE WHEN n < 7 THEN 'draft' ELSE 'final' END,"
        " repeat(md5(n::text), 90) FROM generate_series(1, 9) n"
    )
    config = pipeline("public.docs", schema_changes="stop")
    database.execute(
        f"ALTER PUBLICATION {config.source.publication} SET TABLE docs WHERE (state = 'final')"
    )
    return config


def as_of_now(config: PipelineConfig) -> list[tuple[Any, ...]] | None:
    """Give what the history has at the checkpoint; None where there is none that goes on."""
    if not query(config, "SELECT 1 FROM _cdc.histories WHERE until_lsn IS NULL"):
        return None
    ((lsn,),) = query(config, "SELECT lsn FROM _cdc.checkpoints")
    return query(config, f"SELECT {DOC} FROM public.docs__as_of_lsn({lsn}) ORDER BY id")


def test_rows_that_enter_without_a_value_are_taken_in_when_it_was_read(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = kept(create_docs(database, pipeline), ["mirror", "history"])
    database.execute("DELETE FROM docs WHERE state = 'final'")
    sync_all(config)
    for n in (1, 2, 3):
        database.execute(f"UPDATE docs SET state = 'final' WHERE id = {n}")
    database.execute("UPDATE docs SET state = 'draft' WHERE id = 2")
    sync_all(config)
    sync_all(config)

    found = query(
        config,
        "SELECT id, state, length(body), _cdc_valid_to_lsn IS NULL FROM public.docs__history"
        " WHERE _cdc_valid_to_lsn IS NULL ORDER BY id",
    )

    assert found == [(1, "final", 2880, True), (3, "final", 2880, True)]


def test_a_wrong_row_that_never_held_leaves_no_version(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    with duckdb.connect(str(ledger.warehouse_path)) as warehouse:
        warehouse.execute(
            "UPDATE public.lines__history SET amount = -1 WHERE account = 1 AND line = 1;"
            "UPDATE public.lines SET amount = -1 WHERE account = 1 AND line = 1;"
        )

    def open_at_the_last_moment(step: Step) -> None:
        if step == "window_committed":
            with duckdb.connect(str(ledger.warehouse_path)) as warehouse:
                warehouse.execute(
                    "UPDATE public.lines__history SET _cdc_valid_from_lsn ="
                    " (SELECT lsn FROM _cdc.checkpoints WHERE source_table = 'public.lines')"
                )

    open_at_the_last_moment("window_committed")  # there may be no other window
    observers.append(open_at_the_last_moment)
    try:
        list(backfill(ledger, TableName("public", "lines")))
    finally:
        observers.remove(open_at_the_last_moment)

    (only,) = histories(ledger, "public.lines")[1, 1]

    assert (only.row["amount"], only.source, only.to_lsn) == (6000, "backfill", None)


def test_the_clock_of_a_history_never_runs_backwards(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    database.execute("UPDATE lines SET amount = 1 WHERE account = 1 AND line = 1")
    converge(database, ledger)
    with duckdb.connect(str(ledger.warehouse_path)) as warehouse:  # as if the clock was set back
        warehouse.execute(
            "UPDATE public.lines__history SET _cdc_valid_from = TIMESTAMPTZ '2999-01-01'"
            " WHERE account = 1 AND line = 1 AND _cdc_valid_to IS NULL"
        )
    database.execute("UPDATE lines SET amount = 2 WHERE account = 1 AND line = 1")
    database.execute("UPDATE lines SET amount = 3 WHERE account = 1 AND line = 1")
    converge(database, ledger)

    versions = histories(ledger, "public.lines")[1, 1][1:]

    assert [version.row["amount"] for version in versions] == [1, 2, 3]
    assert {version.valid_from.year for version in versions} == {2999}


def test_values_of_many_types_are_compared_and_filled_as_they_are(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE many (id uuid PRIMARY KEY, body text, doc jsonb, raw bytea, at timestamptz,"
        " day date, hour time, price numeric(12, 2), ratio float8, few float4[], tags text[],"
        " ref uuid, ok bool, small int2);"
        "ALTER TABLE many ALTER COLUMN body SET STORAGE EXTERNAL;"
        "ALTER TABLE many ALTER COLUMN doc SET STORAGE EXTERNAL;"
        "INSERT INTO many SELECT md5(n::text)::uuid, repeat(md5(n::text), 90),"
        " jsonb_build_object('k', repeat(md5(n::text), 90)), '\\x00ff', now(), '2024-02-29',"
        " '23:59:59', 1.10, 'NaN', '{1.5,NaN,-0}', '{a,NULL,\"b,c\"}', md5('r')::uuid, true, 1"
        " FROM generate_series(1, 3) n"
    )
    config = kept(pipeline("public.many", schema_changes="stop"), ["mirror", "history"])
    converge(database, config)
    database.execute("UPDATE many SET small = small")
    converge(database, config)
    assert query(config, "SELECT count(*) FROM public.many__history") == [(3,)]
    database.execute("UPDATE many SET ratio = '-0', small = 2; UPDATE many SET small = small")
    database.execute("UPDATE many SET ratio = 0; UPDATE many SET ratio = ratio")
    database.execute("BEGIN; UPDATE many SET small = 7; UPDATE many SET small = 2; COMMIT")
    database.execute("UPDATE many SET few = '{1.5,NaN,0}'; DELETE FROM many WHERE tags IS NULL")
    converge(database, config)

    history = query(
        config,
        "SELECT id, list(small ORDER BY _cdc_valid_from_lsn),"
        " list(signbit(ratio) ORDER BY _cdc_valid_from_lsn),"
        ' count(DISTINCT (body, doc, raw, "at", day, hour, price, tags, ref, ok)), count(body)'
        " FROM public.many__history GROUP BY id",
    )

    assert len(history) == 3
    for _, small, negative, kinds, bodies in history:
        assert small == [1, 2, 2, 2]
        assert negative[1:] == [True, False, False]
        assert (kinds, bodies) == (1, 4)
    current = (
        "SELECT * EXCLUDE (_cdc_valid_from, _cdc_valid_to, _cdc_valid_from_lsn, _cdc_valid_to_lsn,"
        " _cdc_source) FROM public.many__history WHERE _cdc_valid_to_lsn IS NULL"
    )
    mirror = "SELECT * EXCLUDE (_cdc_lsn, _cdc_commit_ts) FROM public.many"
    assert query(config, f"{current} EXCEPT ALL {mirror}") == []
