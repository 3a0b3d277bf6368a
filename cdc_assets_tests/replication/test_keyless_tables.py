"""Tables of which changes alone are kept: they need no key, and equal rows are counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import ConfigError, TableError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.operations.removal import teardown
from cdc_assets.progress import TableCompared
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.previewing import preview
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.steps import Step
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.shaping import functions
from cdc_assets_tests.syncs import errors_of, has_mirror, kept, query, sync_all, sync_once
from cdc_assets_tests.waiting import wait_until_unlocked

pytestmark = pytest.mark.usefixtures("small")

EVENTS = "public.events"
ROWS = 600
# Between a writer's transactions: more than is applied meanwhile would make each run longer
PACE_SECONDS = 0.02


@pytest.fixture
def events(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """A table without a key, with rows that are equal, some twice and some ten times."""
    database.execute(
        f"""
        CREATE TABLE events (kind text, amount int, body text);
        INSERT INTO events SELECT 'kind ' || n % 60, n % 5,
            CASE WHEN n % 3 = 0 THEN repeat(md5((n % 60)::text), 90) END
        FROM generate_series(1, {ROWS}) AS n;
        ALTER TABLE events REPLICA IDENTITY FULL;
        CREATE TABLE audit (n bigserial, op text, old text, new text);
        CREATE FUNCTION write_audit() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO audit (op, old, new) VALUES (lower(TG_OP), OLD::text, NEW::text);
            RETURN NULL;
        END $$;
        CREATE TRIGGER audit_rows AFTER INSERT OR UPDATE OR DELETE ON events
            FOR EACH ROW EXECUTE FUNCTION write_audit();
        CREATE TRIGGER audit_truncates AFTER TRUNCATE ON events
            FOR EACH STATEMENT EXECUTE FUNCTION write_audit();
        """
    )
    return kept(pipeline(EVENTS, schema_changes="stop"), ["changes"])


_STATEMENTS = (
    "INSERT INTO events VALUES ('new', {n} % 3, NULL), ('new', {n} % 3, NULL)",
    "INSERT INTO events SELECT 'many', 1, repeat(md5('m'), 90) FROM generate_series(1, 5)",
    "UPDATE events SET amount = amount + 1 WHERE kind = 'kind {n}'",
    "UPDATE events SET body = repeat(md5('{n}'), 90) WHERE kind = 'kind {n}'",
    "DELETE FROM events WHERE ctid IN (SELECT ctid FROM events WHERE kind = 'kind {n}' LIMIT 2)",
)


def write(database: ScratchDatabase, seed: int, transactions: int = 40) -> None:
    chosen = random.Random(seed)
    with database.connect() as connection:
        for _ in range(transactions):
            with connection.transaction():
                for _ in range(chosen.randrange(1, 4)):
                    connection.execute(_statement(chosen))


def _statement(chosen: random.Random) -> bytes:
    return chosen.choice(_STATEMENTS).format(n=chosen.randrange(60)).encode()


@contextmanager
def writing(database: ScratchDatabase, seed: int) -> Iterator[None]:
    stop, failures = Event(), list[BaseException]()

    def run() -> None:
        try:
            at = 0
            while not stop.wait(PACE_SECONDS):
                at += 1
                write(database, seed + at, 3)
        except BaseException as error:
            failures.append(error)

    thread = Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failures


_OWN = "kind, amount, body"


def rows_of(database: ScratchDatabase, columns: str = _OWN) -> Counter[tuple[Any, ...]]:
    return Counter(database.execute(f"SELECT {columns} FROM events"))


def replayed(config: PipelineConfig) -> Counter[tuple[Any, ...]]:
    """Apply the change table's rows one by one to nothing, as a multiset."""
    state: Counter[tuple[Any, ...]] = Counter()
    told = query(
        config,
        f"SELECT _cdc_op, {_OWN}, _cdc_before FROM public.events__changes"
        " ORDER BY _cdc_lsn, _cdc_seq",
    )
    for op, *new, before in told:
        if op == "truncate":
            state.clear()
        if before is not None:
            gone = tuple(before.values())
            assert state[gone] > 0, "a row went that was not there"
            state[gone] -= 1
        if op not in ("delete", "truncate"):
            state[tuple(new)] += 1
    return +state


def assert_as_audited(database: ScratchDatabase, config: PipelineConfig) -> list[str]:
    """Fail unless the change table has what happened since it began: all, once, in order."""
    happened = database.execute(
        "SELECT op, (old::events).kind, (old::events).amount, (old::events).body,"
        " (new::events).kind, (new::events).amount, (new::events).body FROM audit ORDER BY n"
    )
    told = query(
        config,
        "SELECT _cdc_op, _cdc_before.kind, _cdc_before.amount, _cdc_before.body,"
        f" {_OWN} FROM public.events__changes WHERE _cdc_source = 'stream'"
        " ORDER BY _cdc_lsn, _cdc_seq",
    )
    assert told == happened[len(happened) - len(told) :]
    assert replayed(config) == rows_of(database)
    ((doubled,),) = query(
        config,
        "SELECT count(*) - count(DISTINCT (_cdc_lsn, _cdc_seq)) FROM public.events__changes",
    )
    assert not doubled
    return [row[0] for row in told]


def sources(config: PipelineConfig) -> list[str]:
    found = query(
        config, "SELECT _cdc_source FROM public.events__changes ORDER BY _cdc_lsn, _cdc_seq"
    )
    return [source for (source,) in found]


def test_equal_rows_are_recorded_as_often_as_they_came(
    database: ScratchDatabase, events: PipelineConfig
) -> None:
    sync_all(events)
    assert sources(events) == ["snapshot"] * ROWS
    assert replayed(events) == rows_of(database)
    write(database, seed=1)
    database.execute(
        "INSERT INTO events VALUES ('same', 1, NULL), ('same', 1, NULL), ('same', 1, NULL);"
        "TRUNCATE events; INSERT INTO events VALUES ('same', 1, NULL), ('same', 1, NULL)"
    )
    write(database, seed=2)

    sync_all(events)

    told = assert_as_audited(database, events)
    assert len(told) == database.execute("SELECT count(*) FROM audit")[0][0]
    assert set(told) == {"insert", "update", "delete", "truncate"}
    assert not has_mirror(events, EVENTS)


def test_what_is_written_while_it_is_copied_is_neither_lost_nor_doubled(
    database: ScratchDatabase, events: PipelineConfig
) -> None:
    with writing(database, seed=100):
        sync_all(events)
    sync_all(events)

    assert_as_audited(database, events)

    found = sources(events)
    first = found.index("stream")
    assert found[:first] == ["snapshot"] * first
    assert set(found[first:]) == {"stream"}


def test_what_the_snapshot_shows_and_what_it_does_not_is_told_by_the_transaction(
    database: ScratchDatabase, events: PipelineConfig
) -> None:
    """A transaction that is open when the rows are read follows them; later ones do, too."""
    with database.connect() as early, database.connect() as other:
        early.execute("BEGIN; INSERT INTO events VALUES ('early', 1, NULL)")
        other.execute("INSERT INTO events VALUES ('before', 1, NULL)")

        def commit() -> None:
            early.execute("COMMIT")
            other.execute("INSERT INTO events VALUES ('after', 1, NULL)")
            other.execute("DELETE FROM events WHERE kind = 'kind 7'")

        with at_step("chunk_committed", 1, commit):
            sync_all(events)
    sync_all(events)

    told = dict(
        query(
            events,
            "SELECT kind, _cdc_source FROM public.events__changes"
            " WHERE kind IN ('early', 'before', 'after')",
        )
    )
    assert told == {"early": "stream", "before": "snapshot", "after": "stream"}
    assert replayed(events) == rows_of(database)


@pytest.mark.parametrize(
    "step",
    ["chunk_read", "chunk_staged", "chunk_committed", "copy_staged", "copy_placed"],
)
@pytest.mark.parametrize("number", [1])
def test_a_kill_while_it_is_copied_neither_loses_nor_doubles(
    database: ScratchDatabase, events: PipelineConfig, step: Step, number: int
) -> None:
    with writing(database, seed=200):
        kill_at(events, step, number)
        wait_until_unlocked(database)
        sync_all(events)
    sync_all(events)

    assert_as_audited(database, events)


@pytest.mark.parametrize(
    "step",
    ["window_read", "changes_appended", "before_commit", "window_committed", "window_confirmed"],
)
def test_a_kill_while_changes_come_neither_loses_nor_doubles(
    database: ScratchDatabase, events: PipelineConfig, step: Step
) -> None:
    sync_all(events)
    write(database, seed=3, transactions=80)
    assert kill_at(events, step, 2 if step != "changes_appended" else 1)
    wait_until_unlocked(database)
    sync_all(events)

    told = assert_as_audited(database, events)

    assert len(told) == database.execute("SELECT count(*) FROM audit")[0][0]


@pytest.mark.parametrize("step", ["chunk_committed", "copy_staged", "copy_placed"])
def test_a_backfill_begins_another_change_table(
    database: ScratchDatabase, events: PipelineConfig, step: Step
) -> None:
    sync_all(events)
    write(database, seed=4)
    sync_all(events)
    before = query(events, "SELECT count(*) FROM public.events__changes")
    with writing(database, seed=300):
        assert kill_at(events, step, 1, work="backfill events")
        wait_until_unlocked(database)
        sync_all(events)
        list(backfill(events, TableName.parse(EVENTS)))
    sync_all(events)

    assert_as_audited(database, events)

    aside = query(
        events,
        "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'events__changes__until_%'"
        " ORDER BY 1",
    )
    assert len(aside) == 1 + (step == "copy_placed")
    for ((name, until),) in [
        query(
            events,
            "SELECT name, until_lsn FROM _cdc.change_tables WHERE name LIKE '%until%'"
            " ORDER BY until_lsn LIMIT 1",
        )
    ]:
        assert LSN.parse(name.partition("__until_")[2].replace("_", "/").rstrip("/")) == until
    assert query(events, f'SELECT count(*) FROM public."{aside[0][0]}"') >= before


def test_syncs_take_their_turns_beside_a_backfill(
    database: ScratchDatabase, events: PipelineConfig
) -> None:
    sync_all(events)
    work = backfill(events, TableName.parse(EVENTS))
    write(database, seed=5)
    next(work)
    work.close()
    sync_all(events)
    assert_as_audited(database, events)
    list(backfill(events, TableName.parse(EVENTS)))
    assert_as_audited(database, events)


def test_without_an_identity_inserts_come_alone(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE events (kind text); CREATE TABLE bare (kind text);"
        "ALTER TABLE bare REPLICA IDENTITY NOTHING"
    )
    config = kept(pipeline(EVENTS, "public.bare", schema_changes="stop"), ["changes"])
    sync_all(config)
    database.execute("INSERT INTO events VALUES ('a'), ('a'); INSERT INTO bare VALUES ('b'), ('b')")
    database.execute("TRUNCATE bare")
    for table in ("events", "bare"):
        with pytest.raises(Exception, match="does not have a replica identity"):
            database.execute(f"UPDATE {table} SET kind = 'c'")
    sync_all(config)

    for table, told in {"events": 2, "bare": 3}.items():
        found = query(
            config,
            f"SELECT _cdc_op, kind, _cdc_before FROM public.{table}__changes"
            " ORDER BY _cdc_lsn, _cdc_seq",
        )
        assert (
            found
            == [
                ("insert", table[0] if table == "bare" else "a", None),
                ("insert", "b" if table == "bare" else "a", None),
                ("truncate", None, None),
            ][:told]
        )


def test_an_identity_may_change_in_the_middle(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE events (id int PRIMARY KEY, body text)")
    config = kept(pipeline(EVENTS, schema_changes="stop"), ["changes"])
    sync_all(config)
    database.execute("INSERT INTO events VALUES (1, 'a'); UPDATE events SET id = 2")
    database.execute("ALTER TABLE events REPLICA IDENTITY FULL")
    database.execute("UPDATE events SET body = 'b'")
    database.execute("ALTER TABLE events REPLICA IDENTITY DEFAULT; DELETE FROM events")
    database.execute(
        "ALTER TABLE events DROP CONSTRAINT events_pkey; INSERT INTO events VALUES (3)"
    )
    sync_all(config)

    assert query(
        config,
        "SELECT _cdc_op, id, body, _cdc_before FROM public.events__changes"
        " ORDER BY _cdc_lsn, _cdc_seq",
    ) == [
        ("insert", 1, "a", None),
        ("update", 2, "a", {"id": 1, "body": None}),
        ("update", 2, "b", {"id": 2, "body": "a"}),
        ("delete", None, None, {"id": 2, "body": None}),
        ("insert", 3, None, None),
    ]


def test_taking_the_mirror_out_stops_the_table_until_it_is_backfilled(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE events (kind int PRIMARY KEY); INSERT INTO events VALUES (1)")
    both = kept(pipeline(EVENTS, schema_changes="stop"), ["mirror", "changes"])
    sync_all(both)
    alone = kept(both, ["mirror"], append_only=True)
    database.execute("INSERT INTO events VALUES (2)")

    with pytest.raises(
        TableError, match="shaped otherwise by the config now than when it was copied: keep"
    ):
        sync_once(alone)
    list(backfill(alone, TableName.parse(EVENTS)))
    assert not has_mirror(alone, EVENTS)
    told = "SELECT _cdc_op, kind FROM public.events__changes ORDER BY _cdc_lsn, _cdc_seq"
    assert query(alone, told) == [("snapshot", 1), ("snapshot", 2)]
    database.execute("INSERT INTO events VALUES (3)")
    sync_all(alone)
    assert query(alone, told)[2:] == [("insert", 3)]

    both = kept(alone, ["mirror", "changes"])
    with pytest.raises(
        TableError, match="shaped otherwise by the config now than when it was copied: keep"
    ):
        sync_once(both)
    list(backfill(both, TableName.parse(EVENTS)))
    assert query(both, "SELECT kind FROM public.events ORDER BY 1") == [(1,), (2,), (3,)]


def test_an_altered_table_stops_until_it_is_begun_anew(
    database: ScratchDatabase, events: PipelineConfig
) -> None:
    sync_all(events)
    database.execute("ALTER TABLE events ADD more int")
    assert "added 'more'" in errors_of(sync_once(events))[EVENTS].message
    list(backfill(events, TableName.parse(EVENTS)))
    sync_all(events)
    assert query(events, "SELECT count(*), count(more) FROM public.events__changes") == [(ROWS, 0)]


def test_parts_are_refused_and_there_is_nothing_to_compare(events: PipelineConfig) -> None:
    sync_all(events)
    table = TableName.parse(EVENTS)
    with pytest.raises(ConfigError, match="has no mirror"):
        list(backfill(events, table, buckets=["0"]))
    with pytest.raises(ConfigError, match="has no mirror"):
        list(backfill(events, table, where="true"))
    (found,) = reconcile(events)
    assert isinstance(found, TableCompared)
    assert found.no_mirror
    assert "no mirror to compare" in found.not_compared


def test_a_change_table_that_somebody_dropped_is_begun_anew_by_a_backfill(
    database: ScratchDatabase, events: PipelineConfig
) -> None:
    sync_all(events)
    with duckdb.connect(str(events.warehouse_path)) as warehouse:
        warehouse.execute("DROP TABLE public.events__changes")
    with pytest.raises(TableError, match="is not in the warehouse any more"):
        sync_once(events)
    list(backfill(events, TableName.parse(EVENTS)))
    sync_all(events)
    assert_as_audited(database, events)


def test_rows_are_kept_by_a_condition_from_the_first_on(
    database: ScratchDatabase, events: PipelineConfig
) -> None:
    config = kept(events, ["changes"], where="total > 2", columns={"rename": {"amount": "total"}})
    with writing(database, seed=400):
        sync_all(config)
    database.execute("UPDATE events SET amount = 4 - amount WHERE amount < 5")
    sync_all(config)

    state: Counter[tuple[Any, ...]] = Counter()
    for op, kind, total, gone in query(
        config,
        "SELECT _cdc_op, kind, total, _cdc_before FROM public.events__changes"
        " ORDER BY _cdc_lsn, _cdc_seq",
    ):
        if gone is not None:
            assert state[gone["kind"], gone["total"]] > 0
            state[gone["kind"], gone["total"]] -= 1
        if op != "delete":
            state[kind, total] += 1
    there = Counter(database.execute("SELECT kind, amount FROM events WHERE amount > 2"))
    assert +state == there


def test_values_of_all_kinds_are_the_same_from_snapshot_and_stream(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        """
        CREATE TYPE mood AS ENUM ('fine', 'so so');
        CREATE TABLE events (a smallint, b bigint, c numeric(20, 4), d numeric, e real,
            f double precision, g boolean, h text, i bytea, j date, k time, l timestamp,
            m timestamptz, n uuid, o jsonb, p int[], q mood, r inet, s char(5), t interval);
        ALTER TABLE events REPLICA IDENTITY FULL;
        CREATE FUNCTION more() RETURNS void LANGUAGE sql AS $$
            INSERT INTO events SELECT 1, -2, 3.5, 1e30, -0.5, 'NaN', true, 'é"\\', '\\x00ff',
                '1969-12-31', '23:59:59.999999', '2024-02-29 12:00', '2024-02-29 12:00+03',
                '00000000-0000-0000-0000-000000000001', '{"a": [1]}', '{1,NULL,3}', 'so so',
                '10.0.0.1/8', 'ab', '1 day 2 hours';
            INSERT INTO events (a) VALUES (NULL);
        $$;
        SELECT more()
        """
    )
    config = kept(pipeline(EVENTS, schema_changes="stop"), ["changes"])
    sync_all(config)
    database.execute("SELECT more(); DELETE FROM events")
    sync_all(config)

    own = "COLUMNS('^[^_]')"
    rows = [
        query(
            config,
            f"SELECT {own} FROM public.events__changes WHERE _cdc_op = '{op}'"
            " ORDER BY _cdc_lsn, _cdc_seq",
        )
        for op in ("snapshot", "insert")
    ]
    assert repr(rows[0]) == repr(rows[1])
    assert len(rows[0]) == 2
    gone = query(
        config,
        "SELECT _cdc_before FROM public.events__changes WHERE _cdc_op = 'delete'"
        " ORDER BY _cdc_lsn, _cdc_seq",
    )
    assert repr([tuple(row.values()) for (row,) in gone]) == repr(rows[0] * 2)


def test_a_view_of_the_tables_name_is_left_alone(events: PipelineConfig) -> None:
    sync_all(events)
    with duckdb.connect(str(events.warehouse_path)) as warehouse:
        warehouse.execute("CREATE VIEW public.events AS SELECT 1 AS mine")
    sync_all(events)
    teardown(events, drop_tables=True)
    assert query(events, "SELECT mine FROM public.events") == [(1,)]
    assert not has_mirror(events, "public.events__changes")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"keep": ["changes"], "append_only": True}, "append_only: goes with keep: [mirror]"),
        ({"keep": ["mirror", "changes"], "append_only": True}, "append_only: goes with"),
        ({"keep": ["changes"], "deletes": "soft"}, "deletes: soft marks rows of a mirror"),
    ],
)
def test_what_needs_a_mirror_is_refused_without_one(
    events: PipelineConfig, table: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(rewrite(events, tables=[{"source": EVENTS, **table}]))
    assert said in " ".join(refused.value.problems)


def test_changes_go_through_a_function(database: ScratchDatabase, events: PipelineConfig) -> None:
    config = kept(events, ["changes"], transform=f"{functions.MODULE}:shape_events")
    with writing(database, seed=700):
        sync_all(config)
    ((copied,),) = query(config, "SELECT count(*) FROM public.events__changes")
    for seed in (7, 8):
        write(database, seed)
        assert kill_at(config, "changes_appended", 1)
        wait_until_unlocked(database)
        database.execute("TRUNCATE events; INSERT INTO events VALUES ('anew', 1, NULL)")
        sync_all(config)

    told = query(
        config,
        "SELECT _cdc_op, _cdc_before.kind, _cdc_before.amount, kind, amount"
        " FROM public.events__changes WHERE _cdc_source = 'stream' ORDER BY _cdc_lsn, _cdc_seq",
    )
    happened = database.execute(
        "WITH rows AS (SELECT n, op, old::events AS old, new::events AS new FROM audit), kept AS ("
        " SELECT *, coalesce((old).amount > 0, false) AS had, coalesce((new).amount > 0, false)"
        " AS has FROM rows) SELECT CASE WHEN op <> 'update' OR had AND has THEN op"
        " WHEN had THEN 'delete' ELSE 'insert' END,"
        " CASE WHEN had THEN upper((old).kind) END, CASE WHEN had THEN -(old).amount END,"
        " CASE WHEN has THEN upper((new).kind) END, CASE WHEN has THEN -(new).amount END"
        " FROM kept WHERE had OR has OR op = 'truncate' ORDER BY n"
    )
    assert copied > 100
    assert {op for op, *_ in told} == {"insert", "update", "delete", "truncate"}
    assert told == happened[len(happened) - len(told) :]
    assert len(told) > 100


def test_a_preview_needs_no_key(events: PipelineConfig) -> None:
    assert len(preview(events, TableName.parse(EVENTS), rows=3).rows) == 3


@pytest.mark.parametrize("step", ["chunk_committed", "copy_placed"])
def test_a_kill_of_a_resync_loses_nothing(
    database: ScratchDatabase, events: PipelineConfig, step: Step
) -> None:
    sync_all(events)
    slot = events.source.slot
    database.execute(f"SELECT pg_drop_replication_slot('{slot}')")
    write(database, seed=6)
    with writing(database, seed=500):
        assert kill_at(events, step, 1, work="resync")
        wait_until_unlocked(database)
        sync_all(events)
    sync_all(events)
    assert_as_audited(database, events)
