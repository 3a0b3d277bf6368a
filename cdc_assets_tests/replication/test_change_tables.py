"""A change table holds what happened to its table: no more, no less, in order."""

from __future__ import annotations

import re
from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import teardown
from cdc_assets.replication.backfill import backfill
from cdc_assets.steps import Step
from cdc_assets_tests.audit import FULL, assert_as_audited, audited, create_audit, recorded
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import PROJECT, kill_at
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import (
    converge,
    errors_of,
    kept,
    mirror_rows,
    query,
    sync_all,
    sync_once,
)
from cdc_assets_tests.waiting import wait_until_unlocked

pytestmark = pytest.mark.usefixtures("small")

BOTH = ["mirror", "changes"]


@pytest.fixture
def ledger(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    create_ledger(database)
    database.execute(f"ALTER TABLE {TableName.parse(FULL).sql} REPLICA IDENTITY FULL")
    create_audit(database)
    return kept(pipeline(*TABLES), BOTH)


def set_aside(config: PipelineConfig) -> list[str]:
    """Give the names of change tables of `lines` that have ended."""
    found = query(config, "SELECT table_name FROM duckdb_tables()")
    return [name for (name,) in found if name.startswith("lines__changes__")]


def write(database: ScratchDatabase, writer: Writer) -> None:
    """Change rows in all ways, truncate several tables at once, and go on in that transaction."""
    writer.commit(60)
    database.execute(
        "INSERT INTO lines VALUES (9000, 1, 1); TRUNCATE lines, accounts;"
        " INSERT INTO accounts SELECT n, 'anew', n, repeat(md5(n::text), 90)"
        " FROM generate_series(1, 200) n; INSERT INTO lines VALUES (9000, 1, 2)"
    )
    writer.commit(60)


def test_all_changes_of_all_tables_have_one_order(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    assert {row.change.op for row in recorded(ledger)} == {"snapshot"}
    write(database, Writer(database, seed=11))

    converge(database, ledger)

    streamed = assert_as_audited(database, ledger)
    assert {row.change.op for row in streamed} == {"insert", "update", "delete", "truncate"}
    assert any(row.unchanged for row in streamed)
    happened = audited(database)
    assert [(row.change.table, row.change.op, row.change.xid) for row in streamed] == [
        (change.table, change.op, change.xid) for change in happened
    ]
    numbers: dict[int, list[int]] = {}
    for row in streamed:
        numbers.setdefault(row.lsn, []).append(row.seq)
    assert all(seqs == list(range(len(seqs))) for seqs in numbers.values())


def test_the_query_of_the_page_gives_the_table_as_of_an_lsn(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    writer = Writer(database, seed=17)
    converge(database, ledger)
    writer.commit(30)
    converge(database, ledger)
    then = mirror_rows(ledger, FULL)
    ((lsn,),) = query(ledger, 'SELECT max(_cdc_lsn) FROM public."Notes__changes"')
    writer.commit(30)
    database.execute('TRUNCATE "Notes"')
    writer.commit(30)
    converge(database, ledger)
    page = (PROJECT / "docs" / "changes.md").read_text()
    sql = re.findall(r"```sql\n(.*?);?\n```", page, re.DOTALL)[-1].rstrip(";")
    sql = sql.replace("public.orders__changes", 'public."Notes__changes"')
    sql = re.sub(r"\bid\b", '"Key"', sql)

    def as_of(at: int) -> list[tuple[Any, ...]]:
        asked = sql.replace("$lsn", str(at))
        return query(ledger, f'SELECT "Key", "Body", "At" FROM ({asked}) ORDER BY ALL')

    assert as_of(lsn) == [row[:3] for row in then]
    assert as_of(2**63) == [row[:3] for row in mirror_rows(ledger, FULL)]


def test_one_transaction_over_many_pieces_is_numbered_once(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    database.execute(
        "UPDATE accounts SET owner = owner || '!', body = repeat('x', 900);"
        'UPDATE "Notes" SET "Body" = repeat(md5("Key"), 40);'
        "UPDATE accounts SET id = -1 - id; DELETE FROM lines"
    )

    converge(database, ledger)

    streamed = assert_as_audited(database, ledger)
    assert [row.seq for row in streamed] == list(range(len(audited(database))))
    assert len({row.lsn for row in streamed}) == 1


@pytest.mark.parametrize(
    "step",
    [
        "window_read",
        "changes_appended",
        "table_applied",
        "before_commit",
        "window_committed",
        "window_confirmed",
    ],
)
def test_a_kill_neither_loses_nor_doubles_a_change(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    converge(database, ledger)
    Writer(database, seed=12).commit(80)
    assert kill_at(ledger, step, 2)
    wait_until_unlocked(database)
    converge(database, ledger)

    streamed = assert_as_audited(database, ledger)

    assert len(streamed) == len(audited(database))


@pytest.mark.parametrize("step", ["chunk_committed", "copy_staged", "copy_placed"])
def test_a_kill_while_a_change_table_begins_leaves_one_beginning(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    writer = Writer(database, seed=13)
    with writer.running():
        assert kill_at(ledger, step, 2)
        wait_until_unlocked(database)
        sync_all(ledger)
    converge(database, ledger)  # what lacked rows at first has begun at the latest now
    writer.commit(40)
    converge(database, ledger)

    assert_as_audited(database, ledger)

    for table in TABLES:
        sources = [row.source for row in recorded(ledger) if row.change.table == table]
        assert sources[: sources.index("stream")] == ["snapshot"] * sources.index("stream")


def test_a_backfill_appends_what_differs(database: ScratchDatabase, ledger: PipelineConfig) -> None:
    converge(database, ledger)
    before = recorded(ledger)
    with duckdb.connect(str(ledger.warehouse_path)) as warehouse:
        warehouse.execute(
            "DELETE FROM public.accounts WHERE id = 3;"
            "UPDATE public.accounts SET owner = 'wrong' WHERE id = 4;"
            "INSERT INTO public.accounts VALUES (100000, 'more', 1, NULL, 0, NULL)"
        )
    list(backfill(ledger, TableName("public", "accounts")))

    rows = [row for row in recorded(ledger) if row.source == "backfill"]

    assert len(recorded(ledger)) == len(before) + 3
    told = {(row.change.op, (row.change.new or row.change.old or {})["id"]) for row in rows}
    assert told == {("insert", 3), ("update", 4), ("delete", 100000)}
    olds = {row.change.op: row.change.old for row in rows}
    assert olds["insert"] is None
    assert olds["update"] is not None
    assert olds["update"]["owner"] == "wrong"
    assert olds["delete"] == {"id": 100000, "owner": "more", "balance": 1, "body": None}
    list(backfill(ledger, TableName("public", "accounts")))
    assert len(recorded(ledger)) == len(before) + 3
    Writer(database, seed=14).commit(20)
    converge(database, ledger)
    # what was written in between is not among what the stream brought: the states agree
    assert mirror_rows(ledger, "public.accounts", "id") == sorted(
        database.execute("SELECT id FROM accounts")
    )


def test_a_table_of_another_shape_sets_its_changes_aside(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    Writer(database, seed=15).commit(20)
    converge(database, ledger)
    of_before = query(ledger, "SELECT count(*) FROM public.lines__changes")
    database.execute("ALTER TABLE lines ADD note text DEFAULT random()::text")
    sync_all(ledger)
    list(backfill(ledger, TableName("public", "lines")))
    converge(database, ledger)

    (aside,) = set_aside(ledger)
    assert aside.startswith("lines__changes__until_")
    assert query(ledger, f'SELECT count(*) FROM public."{aside}"') == of_before
    assert query(ledger, "SELECT DISTINCT _cdc_op FROM public.lines__changes") == [("snapshot",)]
    assert query(ledger, "SELECT count(note) FROM public.lines__changes") == query(
        ledger, "SELECT count(*) FROM public.lines"
    )


def test_a_table_that_lost_its_slot_goes_on_with_what_differs(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    slot = ledger.source.slot
    database.execute(
        "DELETE FROM lines WHERE account = 1; UPDATE lines SET amount = -1 WHERE line = 2"
    )
    database.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [slot])
    for table in TABLES:
        list(backfill(ledger, TableName.parse(table)))
    converge(database, ledger)

    rows = [row for row in recorded(ledger) if row.source == "backfill"]

    assert {row.change.op for row in rows} == {"delete", "update"}
    assert {row.change.table for row in rows} == {"public.lines"}
    assert_as_audited(database, ledger)


def test_changes_are_kept_from_when_they_are_asked_for(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    mirrors = kept(ledger, ["mirror"])
    writer = Writer(database, seed=16)
    converge(database, mirrors)
    writer.commit(20)
    converge(database, mirrors)
    ledger = kept(ledger, BOTH)
    writer.commit(20)
    converge(database, ledger)
    assert_as_audited(database, ledger)
    of_before = query(ledger, "SELECT count(*) FROM public.lines__changes")

    mirrors = kept(ledger, ["mirror"])
    writer.commit(20)
    converge(database, mirrors)
    ledger = kept(ledger, BOTH)
    converge(database, ledger)

    assert_as_audited(database, ledger)
    (aside,) = set_aside(ledger)
    assert query(ledger, f'SELECT count(*) FROM public."{aside}"') == of_before


def test_somebody_elses_table_of_the_name_is_left_alone(ledger: PipelineConfig) -> None:
    with duckdb.connect(str(ledger.warehouse_path)) as warehouse:
        warehouse.execute("CREATE SCHEMA public; CREATE TABLE public.lines__changes (mine int)")

    errors = errors_of(sync_once(ledger))

    assert list(errors) == ["public.lines"]
    assert "'public.lines__changes'" in errors["public.lines"].message
    assert query(ledger, "SELECT count(*) FROM public.lines__changes") == [(0,)]


def test_a_change_table_that_was_altered_stops_its_table(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    with duckdb.connect(str(ledger.warehouse_path)) as warehouse:
        warehouse.execute("ALTER TABLE public.lines__changes ADD more int")

    errors = errors_of(sync_once(ledger))

    assert list(errors) == ["public.lines"]
    assert "has a column 'more' more" in errors["public.lines"].message
    list(backfill(ledger, TableName("public", "lines")))
    converge(database, ledger)
    assert_as_audited(database, ledger)


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ([], "nothing is kept"),
        (["mirror", "mirror"], "expected [mirror], with changes, history or both beside it"),
        (["history"], "a history stands beside a mirror"),
        (["mirror", "versions"], "expected [mirror], with changes, history or both beside it"),
    ],
)
def test_what_can_not_be_kept_is_refused(
    ledger: PipelineConfig, keep: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        kept(ledger, keep)
    assert said in " ".join(refused.value.problems)


def test_a_table_with_the_name_of_a_change_table_is_refused(ledger: PipelineConfig) -> None:
    tables = [{"source": "public.lines", "keep": BOTH}, {"source": "public.LINES__changes"}]
    with pytest.raises(ConfigError) as refused:
        load_config(rewrite(ledger, tables=tables))
    assert "has the name of the change table of 'public.lines'" in " ".join(refused.value.problems)


def test_old_rows_are_shaped_as_new_ones_are(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE people (id int PRIMARY KEY, email text, note text, age int);"
        "ALTER TABLE people REPLICA IDENTITY FULL;"
        "INSERT INTO people VALUES (1, 'canary-4c1f-1', 'canary-4c1f-2', 30)"
    )
    table = {
        "source": "public.people",
        "keep": BOTH,
        "columns": {"exclude": ["note"], "rename": {"age": "years"}},
        "mask": {"email": "redact"},
    }
    config = load_config(rewrite(pipeline("public.people"), tables=[table]))
    sync_all(config)
    database.execute("UPDATE people SET email = 'canary-4c1f-3', age = 31; DELETE FROM people")
    sync_all(config)

    told = query(
        config,
        "SELECT _cdc_op, years, email, _cdc_before FROM public.people__changes"
        " ORDER BY _cdc_lsn, _cdc_seq",
    )

    assert told == [
        ("snapshot", 30, "***", None),
        ("update", 31, "***", {"id": 1, "email": "***", "years": 30}),
        ("delete", None, None, {"id": 1, "email": "***", "years": 31}),
    ]
    assert b"canary" not in config.warehouse_path.read_bytes()


def test_a_teardown_takes_change_tables_along(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    teardown(ledger, drop_tables=True)
    assert (
        query(ledger, "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'public'") == []
    )


def test_a_row_that_enters_a_row_filter_follows_as_it_was_read(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE notes (id int PRIMARY KEY, open boolean, body text);"
        "ALTER TABLE notes ALTER body SET STORAGE EXTERNAL;"
        "ALTER TABLE notes ADD UNIQUE (id, open), ALTER open SET NOT NULL;"
        "INSERT INTO notes VALUES (1, false, repeat('x', 9000))"
    )
    config = pipeline("public.notes")
    publication = config.source.publication
    database.execute(
        f'ALTER PUBLICATION "{publication}" SET TABLE notes WHERE (id > 0 AND id < 100)'
    )
    config = kept(config, BOTH)
    database.execute("UPDATE notes SET id = 500")
    sync_all(config)
    database.execute("UPDATE notes SET id = 5")
    sync_all(config)
    sync_all(config)

    told = query(
        config,
        "SELECT _cdc_op, _cdc_source, id, length(body), _cdc_unchanged"
        " FROM public.notes__changes ORDER BY _cdc_lsn, _cdc_seq",
    )

    assert told == [
        ("insert", "stream", 5, None, ["body"]),
        ("snapshot", "snapshot", 5, 9000, []),
    ]
    assert mirror_rows(config, "public.notes", "id, length(body)") == [(5, 9000)]
