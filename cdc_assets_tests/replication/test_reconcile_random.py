"""Overlapping sessions, commits that nobody sees yet, syncs, backfills and reconciles, at random.

No reconcile may call anything different, and each finds what was done to a mirror afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.identifiers import TableName
from cdc_assets.progress import TableCompared
from cdc_assets.replication import beside_syncs
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.steps import Step, observers
from cdc_assets_tests.conftest import SERVER_SETTINGS, make_pipeline, serve
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import make_small
from cdc_assets_tests.ledger import TABLES, Overlapping, create_ledger
from cdc_assets_tests.syncs import converge, sync_once
from cdc_assets_tests.waiting import wait_for_row

NAMES = [TableName.parse(table) for table in TABLES]
# What is done to a mirror; each leaves one row too many, too few or another
DAMAGE = {
    "changed": "UPDATE {table} SET {column} = NULL WHERE rowid = {row}",
    "removed": "DELETE FROM {table} WHERE rowid = {row}",
    "doubled": "INSERT INTO {table} SELECT * FROM {table} WHERE rowid = {row}",
}
COLUMNS = dict(zip(NAMES, ("owner", '"At"', "amount"), strict=True))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A server of these tests alone: they have it wait for a standby."""
    directory = tmp_path_factory.mktemp("postgres")
    yield from serve(EmbeddedPostgres(directory, settings=SERVER_SETTINGS))


@pytest.fixture
def source(server: EmbeddedPostgres) -> Iterator[ScratchDatabase]:
    scratch = ScratchDatabase(server, "reconciled")
    scratch.create()
    try:
        # those that are to wait for a standby say so
        scratch.execute("ALTER DATABASE reconciled SET synchronous_commit = local")
        yield scratch
    finally:
        scratch.drop()


@contextmanager
def hidden_commit(database: ScratchDatabase, number: int) -> Iterator[None]:
    """Inside the block, a transaction over all tables is committed, and the source hides it."""
    sql = (
        f"SET synchronous_commit = on; UPDATE accounts SET owner = 'hidden {number}' WHERE id < 20;"
        f" DELETE FROM lines WHERE account = {number};"
        f' UPDATE "Notes" SET "Body" = \'hidden {number}\' WHERE "Key" < \'k0010\''
    )
    waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    configure(database, "ALTER SYSTEM SET synchronous_standby_names = 'none_such'")
    waiter = Thread(target=database.execute, args=[sql])
    try:
        waiter.start()
        wait_for_row(database, waits, "a commit that waits for a standby")
        yield
    finally:
        configure(database, "ALTER SYSTEM RESET synchronous_standby_names")
        waiter.join()


def configure(database: ScratchDatabase, sql: str) -> None:
    database.execute(sql)
    database.execute("SELECT pg_reload_conf()")


def compared(config: PipelineConfig, **options: object) -> list[TableCompared]:
    events = reconcile(config, **options)  # type: ignore[arg-type]
    return [event for event in events if isinstance(event, TableCompared)]


def act(config: PipelineConfig, pick: random.Random) -> list[TableCompared]:
    """Run what comes by chance, and give what was compared."""
    match pick.choice(("sync", "backfill", "bucket", "sample", "repair")):
        case "sync":
            sync_once(config)
        case "backfill":
            list(backfill(config, pick.choice(NAMES)))
        case "bucket":
            list(backfill(config, pick.choice(NAMES), buckets=[f"0{pick.randrange(8)}"]))
        case "sample":
            return compared(config, sample=pick.choice((0.1, 0.4)))
        case _:
            return compared(config, tables=[pick.choice(NAMES)], repair=True)
    return []


@contextmanager
def written_at_every_step(sessions: Overlapping) -> Iterator[None]:
    """Inside the block, every step of a run finds some more statements behind it."""

    def write(_: Step) -> None:
        sessions.go_on(3)

    observers.append(write)
    try:
        yield
    finally:
        observers.remove(write)


@pytest.mark.parametrize("seed", [1, 2])
def test_no_load_makes_a_false_alarm_and_no_damage_stays_hidden(
    source: ScratchDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    make_small(monkeypatch.setattr)
    monkeypatch.setattr("cdc_assets.source.window._VISIBLE_TIMEOUT_SECONDS", 0.1)
    if seed % 2:
        monkeypatch.setattr(beside_syncs, "TURN_SECONDS", 0)
    create_ledger(source)
    config = make_pipeline(source, tmp_path, *TABLES)
    sync_once(config)
    pick = random.Random(seed)
    with Overlapping(source, seed, sessions=5) as sessions, written_at_every_step(sessions):
        for number in range(3):
            with ExitStack() as hidden:
                if number % 2 != seed % 2:
                    sessions.end()  # else the commit to be hidden waits for their locks
                    hidden.enter_context(hidden_commit(source, number))
                    found = compared(config, tables=[pick.choice(NAMES)])
                    sync_once(config)
                else:
                    found = act(config, pick)
            different = [one for table in found for one in table.buckets if not one.equal]
            assert different == []
        found = compared(config)
        assert [(table.equal, table.not_compared) for table in found] == [(True, "")] * 3
    converge(source, config)
    for table, kind in zip(pick.sample(NAMES, 3), DAMAGE, strict=True):
        damage(config, table, kind, pick)
    for table in compared(config, repair=True):
        (bucket,) = [one for one in table.buckets if not one.equal]
        assert bucket.missing + bucket.extra + bucket.different == 1
    converge(source, config)


def damage(config: PipelineConfig, table: TableName, kind: str, pick: random.Random) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        column = COLUMNS[table]
        rows = warehouse.execute(
            f"SELECT rowid FROM {table.sql} WHERE {column} IS NOT NULL"
        ).fetchall()
        row = pick.choice(sorted(rows))[0]
        warehouse.execute(DAMAGE[kind].format(table=table.sql, column=column, row=row))
