"""Old changes go, and what is made of the others is what it was."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import TableName, quote
from cdc_assets.lsn import LSN
from cdc_assets.progress import TableRebuilt, TableRetained
from cdc_assets.replication.rebuilding import rebuild
from cdc_assets.replication.retaining import retain
from cdc_assets.steps import Step
from cdc_assets_tests.audit import FULL
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import kill_at
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.notes import filtered_notes
from cdc_assets_tests.syncs import converge, kept, sync_all

pytestmark = pytest.mark.usefixtures("small")

Rows = list[tuple[Any, ...]]


@pytest.fixture
def ledger(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    create_ledger(database)
    database.execute(f"ALTER TABLE {TableName.parse(FULL).sql} REPLICA IDENTITY FULL")
    return limited(pipeline(*TABLES), ["mirror", "changes"])


def limited(config: PipelineConfig, keep: list[str], **more: Any) -> PipelineConfig:
    return kept(config, keep, **{"changes": {"keep_days": 30}, **more})


def execute(config: PipelineConfig, sql: str) -> Rows:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        return warehouse.execute(sql).fetchall()


def rows(config: PipelineConfig, table: str) -> Rows:
    return execute(config, f"FROM {TableName.parse(table).sql} ORDER BY ALL")


def changes_of(table: str) -> str:
    name = TableName.parse(table)
    return f"{quote(name.schema)}.{quote(name.name + '__changes')}"


def age(config: PipelineConfig) -> LSN:
    """Let all that is there have been committed 40 days ago; up to which LSN."""
    ((lsn,),) = execute(config, "SELECT max(lsn) FROM _cdc.checkpoints")
    old = "commit_ts = {0}commit_ts - INTERVAL 40 DAY WHERE {0}lsn <= " + str(lsn)
    for table in TABLES:
        for name in (TableName.parse(table).sql, changes_of(table)):
            execute(config, f"UPDATE {name} SET _cdc_" + old.format("_cdc_"))
    execute(config, "UPDATE _cdc.copied_rows SET " + old.format(""))
    return LSN(lsn)


def retained(config: PipelineConfig, table: str) -> TableRetained:
    *_, done = retain(config, TableName.parse(table))
    assert isinstance(done, TableRetained)
    return done


def rebuilt(config: PipelineConfig, table: str, **how: Any) -> TableRebuilt:
    *_, done = rebuild(config, TableName.parse(table), **how)
    assert isinstance(done, TableRebuilt)
    return done


def assert_rebuilt(config: PipelineConfig, table: str) -> None:
    """Fail unless a rebuild, in place, makes the mirror what it is."""
    there, name = rows(config, table), TableName.parse(table).sql
    execute(config, f"UPDATE {name} SET _cdc_lsn = _cdc_lsn + 1; DELETE FROM {name} WHERE 1 = 1")
    rebuilt(config, table)
    assert rows(config, table) == there


@pytest.mark.parametrize("deletes", ["hard", "soft"])
def test_what_is_older_goes_and_a_rebuild_makes_the_same(
    database: ScratchDatabase, ledger: PipelineConfig, deletes: str
) -> None:
    ledger = limited(ledger, ["mirror", "changes"], deletes=deletes)
    writer = Writer(database, seed=51)
    # no changes tell what a mirror keeps that was deleted before they began, while it was copied
    with writer.running() if deletes == "hard" else nullcontext():
        sync_all(ledger)
    sync_all(ledger)
    for _ in range(2):
        writer.commit(50)
        sync_all(ledger)
        then = age(ledger)
        writer.commit(20)
        sync_all(ledger)
        for table in TABLES:
            newer = f"FROM {changes_of(table)} WHERE _cdc_lsn > {int(then)} ORDER BY ALL"
            news, ((count,),) = (
                execute(ledger, newer),
                execute(ledger, f"SELECT count(*) FROM {changes_of(table)}"),
            )
            ((last, seq),) = execute(
                ledger,
                f"SELECT _cdc_lsn, max(_cdc_seq) FROM {changes_of(table)}"
                f" WHERE _cdc_lsn <= {int(then)} GROUP BY 1 ORDER BY 1 DESC LIMIT 1",
            )
            mirror = rows(ledger, table)

            done = retained(ledger, table)

            assert rows(ledger, table) == mirror
            assert (done.since_lsn, done.removed) == (last, count - len(news))
            assert execute(ledger, newer) == news
            read_on = f"FROM {changes_of(table)} WHERE (_cdc_lsn, _cdc_seq) > ({last}, {seq})"
            assert len(execute(ledger, read_on)) == len(news)
            ((since,),) = execute(
                ledger,
                f"SELECT since_lsn FROM _cdc.change_tables WHERE source_table = '{table}'",
            )
            assert since == done.since_lsn
    for table in TABLES:
        assert_rebuilt(ledger, table)
        nothing = retained(ledger, table)
        assert (nothing.removed, nothing.rows) == (0, None)
    writer.commit(10)
    sync_all(ledger)


def test_a_table_is_made_as_of_every_lsn_from_there_on(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    writer = Writer(database, seed=52)
    converge(database, ledger)
    writer.commit(30)
    converge(database, ledger)
    age(ledger)
    then = rows(ledger, "public.accounts")
    writer.commit(20)
    converge(database, ledger)
    ((lsn,),) = execute(ledger, "SELECT min(lsn) FROM _cdc.checkpoints")
    later = rows(ledger, "public.accounts")
    writer.commit(20)
    converge(database, ledger)

    done = retained(ledger, "public.accounts")

    into = TableName("public", "then")
    for at, there in ((done.since_lsn, then), (LSN(lsn), later)):
        rebuilt(ledger, "public.accounts", to_lsn=at, into=into)
        assert rows(ledger, "public.then") == there


@pytest.mark.parametrize("step", ["rebuild_applied", "changes_folded"])
def test_a_kill_removes_nothing(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    converge(database, ledger)
    Writer(database, seed=53).commit(30)
    converge(database, ledger)
    age(ledger)
    changes = execute(ledger, f"FROM {changes_of('public.accounts')} ORDER BY ALL")
    assert kill_at(ledger, step, 1, work="retain accounts")
    assert execute(ledger, f"FROM {changes_of('public.accounts')} ORDER BY ALL") == changes

    database.execute("UPDATE accounts SET balance = 3")
    converge(database, ledger)
    done = retained(ledger, "public.accounts")

    assert done.removed == len(changes)
    assert_rebuilt(ledger, "public.accounts")


def test_so_many_bytes_of_the_newest_changes_are_limited(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE wide (id int PRIMARY KEY, body text)")
    config = limited(
        pipeline("public.wide"), ["mirror", "changes"], changes={"keep_bytes": 1_500_000}
    )
    sync_all(config)
    for _ in range(3):
        database.execute(
            "INSERT INTO wide SELECT n, md5(random()::text) || md5(random()::text)"
            " FROM generate_series(1, 20000) n; DELETE FROM wide WHERE id > 100;"
        )
        database.execute("DELETE FROM wide")
        sync_all(config)

    done = retained(config, "public.wide")

    ((count,),) = execute(config, "SELECT count(*) FROM public.wide__changes")
    assert 0 < done.removed < 120_000
    assert count == 120_000 - done.removed + (done.rows or 0)
    assert rebuilt(config, "public.wide").rows == 0
    assert retained(config, "public.wide").removed <= done.removed // 10


def test_changes_without_a_mirror_are_removed(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE events (n int); INSERT INTO events VALUES (1), (1)")
    config = limited(pipeline("public.events"), ["changes"])
    sync_all(config)
    database.execute("INSERT INTO events VALUES (2)")
    sync_all(config)
    execute(
        config,
        "UPDATE public.events__changes SET _cdc_commit_ts = _cdc_commit_ts - INTERVAL 40 DAY",
    )
    database.execute("INSERT INTO events VALUES (3)")
    sync_all(config)

    done = retained(config, "public.events")

    assert (done.removed, done.rows) == (3, None)
    assert execute(config, "SELECT n FROM public.events__changes") == [(3,)]
    database.execute("INSERT INTO events VALUES (4)")
    sync_all(config)
    assert execute(config, "SELECT n FROM public.events__changes ORDER BY 1") == [(3,), (4,)]


def test_a_history_keeps_what_it_has_and_that_is_said(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    ledger = limited(ledger, ["mirror", "changes", "history"])
    converge(database, ledger)
    database.execute("UPDATE lines SET amount = 1")
    converge(database, ledger)
    age(ledger)
    database.execute("UPDATE lines SET amount = 2 WHERE account < 5")
    converge(database, ledger)
    history = rows(ledger, "public.lines__history")

    done = retained(ledger, "public.lines")

    assert "a rebuild leaves it as it is from now on" in " ".join(done.notes)
    assert rows(ledger, "public.lines__history") == history
    assert_rebuilt(ledger, "public.lines")
    assert rows(ledger, "public.lines__history") == history
    beside = rebuilt(ledger, "public.lines", into=TableName("public", "then"))
    assert beside.versions == 300 + 25


def test_rows_that_are_not_known_yet_keep_their_changes(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = limited(filtered_notes(database, pipeline), ["mirror", "changes"])
    sync_all(config)
    database.execute("UPDATE notes SET id = 1 WHERE id = 501")
    sync_all(config)
    ((low, high),) = execute(config, "SELECT from_lsn, upto_lsn FROM _cdc.unread")
    execute(
        config,
        "UPDATE public.notes__changes SET _cdc_commit_ts = _cdc_commit_ts - INTERVAL 40 DAY;"
        f"UPDATE _cdc.unread SET upto_lsn = {high + 10**6}",
    )

    assert retained(config, "public.notes").removed == 0

    execute(config, f"UPDATE _cdc.unread SET upto_lsn = {high}")
    database.execute("UPDATE notes SET id = 2 WHERE id = 502")
    sync_all(config)
    assert retained(config, "public.notes").since_lsn > low
    assert_rebuilt(config, "public.notes")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"keep_days": 3, "keep_bytes": 9}, "expected keep_days or keep_bytes, got both"),
        ({"keep_days": 0}, "keep_days: "),
        ({"keep_bytes": -1}, "keep_bytes: "),
        ({"keep_day": 3}, "did you mean 'keep_days'?"),
    ],
)
def test_what_is_no_limit_is_refused(
    ledger: PipelineConfig, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        limited(ledger, ["mirror", "changes"], changes=changes)
    assert said in " ".join(refused.value.problems)


def test_a_limit_needs_changes_where_a_table_says_it_itself(ledger: PipelineConfig) -> None:
    with pytest.raises(ConfigError) as refused:
        limited(ledger, ["mirror", "history"])
    assert "says how long changes are kept, and none are" in " ".join(refused.value.problems)

    tables = [
        {"source": "public.lines", "keep": ["mirror", "changes"]},
        {"source": "public.Notes"},
        {"source": "public.accounts", "append_only": True},
    ]
    shared = {"changes": {"keep_days": 7}}
    config = load_config(rewrite(ledger, tables=tables, defaults=shared))
    assert [table.changes.keep_days for table in config.tables] == [7, None, 7]
