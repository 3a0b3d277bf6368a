"""Whatever is kept, however it is shaped and whatever happens: mirror, changes and history agree.

What the source shows is noted after every commit. At each LSN that a history or a change table
says to know, it has what the config makes of these rows.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from itertools import pairwise

import duckdb
import psycopg
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import CdcError
from cdc_assets.progress import TableCompared
from cdc_assets.replication import beside_syncs, copying
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.replication.resync import resync
from cdc_assets.replication.sync import sync
from cdc_assets.steps import Step, observers
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.documents import DOCS, KEYS, Documents, Row
from cdc_assets_tests.kept_plans import (
    FILTERED,
    Plan,
    Rows,
    any_plan,
    kept_otherwise,
    shaped_otherwise,
)
from cdc_assets_tests.syncs import errors_of, query, sync_once

HAPPENINGS = 12
# What happens, by the name of its method, and how often
WEIGHTS = {
    "sync": 6,
    "bounded": 2,
    "kill": 5,
    "backfill": 4,
    "repair": 2,
    "damage": 2,
    "lose": 1,
    "lose_slot": 0.7,
    "alter": 0.5,
    "rewrite": 0.5,
    "keep_otherwise": 1,
    "shape_otherwise": 0.7,
}
DAMAGE = (
    "DELETE FROM public.docs WHERE rowid % 4 = 1",
    "UPDATE public.docs SET state = 'wrong' WHERE rowid % 5 = 1",
    "INSERT INTO public.docs BY NAME SELECT * REPLACE (id || '0' AS id) FROM public.docs"
    " WHERE rowid % 7 = 1",
)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", range(1, 5))
def test_what_is_kept_is_what_the_source_showed(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(copying, "CHUNK_ROWS", 15)
    pick = random.Random(seed)
    if pick.random() < 0.5:
        monkeypatch.setattr(beside_syncs, "TURN_SECONDS", 0)
    with closing(database.connect()) as connection:
        docs = Documents(database, connection, pick)
        world = World(connection, docs, pipeline(str(DOCS)), pick)
        try:
            world.live()
        except BaseException as error:
            error.add_note(f"{world.plan}, {world.log}")
            raise


class Killed(BaseException):
    """What a run is ended with at one of its steps."""


class World:
    """A source that is written, and a warehouse that follows, whatever happens to them."""

    def __init__(
        self,
        connection: psycopg.Connection,
        docs: Documents,
        base: PipelineConfig,
        pick: random.Random,
    ) -> None:
        self.connection, self.docs, self.base, self.pick = connection, docs, base, pick
        self.log: list[str] = []
        self.columns = 0
        self.is_damaged = False
        plan = any_plan(pick)
        connection.execute(f"ALTER TABLE docs REPLICA IDENTITY {plan.identity}")
        if plan.row_filter:
            connection.execute(
                f'ALTER PUBLICATION "{base.source.publication}" SET TABLE docs'
                f" WHERE (id < {FILTERED})"
            )
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """Keep the table in this way from now on."""
        self.plan = plan
        self.config = load_config(rewrite(self.base, tables=[plan.table()]))

    def live(self) -> None:
        """Have things happen, and look after some of them."""
        for _ in range(HAPPENINGS):
            (name,) = self.pick.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))
            self.log.append(name)
            self.docs.write(self.pick.randrange(4))
            try:
                getattr(self, name)()
            except CdcError as error:
                self.log.append(f"error: {error.message}")
            if self.pick.random() < 0.4:
                self.check()
        self.check()

    @contextmanager
    def stepping(self, *, kills: bool = False) -> Iterator[None]:
        """Inside the block write at steps of runs, and end the run at one of the first steps."""
        last = self.pick.randrange(1, 25) if kills else None
        steps = 0

        def act(step: Step) -> None:
            nonlocal steps
            steps += 1
            if self.pick.random() < 0.3:
                self.docs.write()
            if steps == last:
                self.log.append(f"killed at {step}")
                raise Killed

        observers.append(act)
        try:
            with suppress(Killed):
                yield
        finally:
            observers.remove(act)

    # What may happen

    def sync(self) -> None:
        with self.stepping():
            sync_once(self.config)

    def bounded(self) -> None:
        with self.stepping():
            list(sync(self.config, copy_seconds=self.pick.choice((0.0, 0.02))))

    def kill(self) -> None:
        with self.stepping(kills=True):
            sync_once(self.config)

    def backfill(self) -> None:
        kind = self.pick.choice(("whole", "bucket", "where"))
        with self.stepping(kills=self.pick.random() < 0.3), suppress(CdcError):
            if kind == "bucket":
                list(backfill(self.config, DOCS, buckets=[f"0{self.pick.randrange(8)}"]))
            elif kind == "where":
                list(backfill(self.config, DOCS, where=f"id > {self.pick.randrange(KEYS)}"))
            else:
                list(backfill(self.config, DOCS))

    def repair(self) -> None:
        with self.stepping(), suppress(CdcError):
            list(reconcile(self.config, repair=True))

    def damage(self) -> None:
        with (
            suppress(duckdb.CatalogException),  # there is no mirror yet
            duckdb.connect(str(self.config.warehouse_path)) as warehouse,
        ):
            warehouse.execute(self.pick.choice(DAMAGE))
        self.is_damaged = True
        self.backfill()

    def lose(self) -> None:
        """Move the slot past changes that were not read."""
        self.docs.write(2)
        self.connection.execute(
            "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())",
            [self.config.source.slot],
        )
        self.docs.write()

    def lose_slot(self) -> None:
        self.connection.execute("SELECT pg_drop_replication_slot(%s)", [self.config.source.slot])
        self.docs.write(2)
        with self.stepping(kills=self.pick.random() < 0.3):
            list(resync(self.config))

    def alter(self) -> None:
        self.columns += 1
        self.docs.add_column(f"extra{self.columns}")

    def rewrite(self) -> None:
        self.connection.execute("VACUUM FULL docs")

    def keep_otherwise(self) -> None:
        self.follow(kept_otherwise(self.plan, self.pick))

    def shape_otherwise(self) -> None:
        self.follow(shaped_otherwise(self.plan, self.pick))

    # What must hold

    def check(self) -> None:
        """Fail unless everything that is kept is what the source showed."""
        self.settle()
        if self.is_damaged:  # a part of which was put right, and what changes have run into
            self.recover()
            self.is_damaged = False
            self.settle()
        self.docs.note()
        sync_once(self.config)
        self.check_mirror()
        if "history" in self.plan.keep:
            self.check_history()
        if "changes" in self.plan.keep:
            self.check_changes()

    def settle(self) -> None:
        """Bring the warehouse to where the quiet source is, whatever was broken."""
        for _ in range(6):
            try:
                errors = errors_of(sync_once(self.config))
            except CdcError as error:
                errors = {"": error}
            if errors:
                self.log.append(f"failed: {[error.message for error in errors.values()]}")
                self.recover()
                continue
            is_read = query(self.config, "SELECT count(*) FROM _cdc.fences") == [(0,)]
            phases = query(self.config, "SELECT phase FROM _cdc.checkpoints")
            if phases != [("streaming",)]:  # a sync leaves the copy of a backfill to that
                self.recover()
            elif is_read:
                return
        raise AssertionError(f"it does not settle: {self.log}")

    def recover(self) -> None:
        self.log.append("recover")
        list(backfill(self.config, DOCS))

    def check_mirror(self) -> None:
        rows = [own(row) for row in self.rows_of("SELECT * FROM public.docs") if is_live(row)]
        assert_same(keyed(rows), self.plan.shaped(self.docs.states[-1][1]), "mirror")
        (compared,) = [one for one in reconcile(self.config) if isinstance(one, TableCompared)]
        assert compared.equal, compared

    def check_history(self) -> None:
        versions = self.rows_of(
            "SELECT * FROM public.docs__history ORDER BY id, _cdc_valid_from_lsn"
        )
        for one in versions:
            to_lsn, to = one["_cdc_valid_to_lsn"], one["_cdc_valid_to"]
            assert to_lsn is None or one["_cdc_valid_from_lsn"] < to_lsn, one
            assert to is None or one["_cdc_valid_from"] <= to, one
        for one, later in pairwise(versions):
            if one["id"] == later["id"]:
                end = one["_cdc_valid_to_lsn"]
                assert end is not None and end <= later["_cdc_valid_from_lsn"], (one, later)
        is_known = False
        for lsn, rows in self.docs.states:
            try:
                found = self.rows_of(f"SELECT * FROM public.docs__as_of_lsn({lsn})")
            except duckdb.Error as error:
                assert "begins at" in str(error) or "not followed" in str(error), error
                is_known = False
                continue
            is_known = True
            self.check_then(lsn, keyed(found), rows, "history")
        assert is_known, "the history knows nothing of now"

    def check_changes(self) -> None:
        changes = self.rows_of("SELECT * FROM public.docs__changes ORDER BY _cdc_lsn, _cdc_seq")
        places = Counter((change["_cdc_lsn"], change["_cdc_seq"]) for change in changes)
        assert not places or max(places.values()) == 1
        ((since,),) = query(
            self.config, "SELECT since_lsn FROM _cdc.change_tables WHERE until_lsn IS NULL"
        )
        gaps = query(
            self.config,
            "SELECT from_lsn, coalesce(to_lsn, 2::UBIGINT ** 63) FROM _cdc.record_gaps"
            " WHERE name = 'public.docs__changes'",
        )
        assert not any(low < self.docs.states[-1][0] < high for low, high in gaps), gaps
        state: Rows = {}
        for lsn, rows in self.docs.states:
            if lsn < since:
                continue
            while changes and changes[0]["_cdc_lsn"] <= lsn:
                replay(state, changes.pop(0))
            if not any(low < lsn < high for low, high in gaps):
                self.check_then(lsn, state, rows, "changes")
        assert not changes, "changes that nobody made"

    def check_then(self, lsn: int, found: Rows, rows: list[Row], what: str) -> None:
        expected = self.plan.shaped(rows)
        if self.plan.row_filter and self.plan.identity != "FULL":
            # a row that enters without a large value is known later
            expected = {
                key: row
                for key, row in expected.items()
                if key in found or len(row["body"] or "") < 100
            }
        assert_same(found, expected, f"{what} at {lsn}")

    def rows_of(self, sql: str) -> list[Row]:
        with duckdb.connect(str(self.config.warehouse_path), read_only=True) as warehouse:
            result = warehouse.execute(sql)
            names = [column[0] for column in result.description or ()]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def keyed(rows: list[Row]) -> Rows:
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), "keys twice"
    return found


def is_live(row: Row) -> bool:
    return not row.get("_cdc_deleted")


def own(row: Row) -> Row:
    return {name: value for name, value in row.items() if not name.startswith("_cdc_")}


def replay(state: Rows, change: Row) -> None:
    """Do to rows what a change says."""
    op, old, row = change["_cdc_op"], change["_cdc_before"], own(change)
    if op == "truncate":
        state.clear()
    elif op == "delete":
        state.pop(old["id"], None)
    else:
        before = state.pop(old["id"] if old is not None else row["id"], None)
        for name in change["_cdc_unchanged"]:
            row[name] = before[name] if before else None
        state[row["id"]] = row


def assert_same(found: Rows, expected: Rows, what: str) -> None:
    different = {
        key: (shortened(found.get(key)), shortened(expected.get(key)))
        for key in found.keys() | expected.keys()
        if found.get(key) != expected.get(key)
    }
    assert not different, (what, different)


def shortened(row: Row | None) -> Row | None:
    if row is None:
        return None
    return {name: value[:8] if isinstance(value, str) else value for name, value in row.items()}
