"""Rows are traced to the run that wrote them, and columns to the source's."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import SchemaChangeError
from cdc_assets.identifiers import TableName
from cdc_assets.progress import RunMark
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.replication.sync import sync
from cdc_assets.steps import Step
from cdc_assets_tests.command_line import rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import kill_at
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.lineage import Place, documented, query, traced, windows
from cdc_assets_tests.syncs import kept, sync_all, sync_once
from cdc_assets_tests.waiting import wait_until_unlocked

pytestmark = pytest.mark.usefixtures("small")

ALL = ["mirror", "changes", "history"]
LINES, CUSTOMERS, ORDERS = (TableName("public", name) for name in ("lines", "customers", "orders"))


@pytest.fixture
def ledger(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    create_ledger(database)
    return kept(pipeline(*TABLES), ALL)


def spoil(config: PipelineConfig) -> None:
    """Alter, delete and add a row of a mirror behind the product's back."""
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(
            "USE public; UPDATE lines SET amount = -1"
            " WHERE account = (SELECT min(account) FROM lines);"
            "DELETE FROM lines WHERE account = (SELECT max(account) FROM lines)"
        )


def test_every_row_is_traced_to_the_run_that_wrote_it(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    writer, wrote = Writer(database, seed=21), dict[Place, str | None]()

    def ran(name: str, events: Iterable[object]) -> None:
        for _ in events:
            continue
        for place, found in traced(ledger).items():
            assert found == wrote.setdefault(place, name), place

    ran("copy", sync(ledger, run=RunMark("sync", "copy")))
    for name in ("first", "second"):
        writer.commit(60)
        ran(name, sync(ledger, run=RunMark("sync", name)))
    writer.commit(20)
    spoil(ledger)
    ran("filled", backfill(ledger, LINES, run=RunMark("backfill", "filled")))
    writer.commit(20)
    spoil(ledger)
    ran("mended", reconcile(ledger, repair=True, run=RunMark("reconcile", "mended")))

    assert {"copy", "first", "second", "filled", "mended"} <= set(wrote.values())
    kinds = {(run, kind) for run, kind, *_ in windows(ledger)}
    assert {("copy", "sync"), ("filled", "backfill"), ("mended", "reconcile")} <= kinds


def test_rows_without_a_key_and_rows_that_were_read_by_themselves_are_traced_too(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE events (kind text); INSERT INTO events VALUES ('a'), ('a');"
        "CREATE TABLE notes (id int PRIMARY KEY, kind text, body text);"
        "ALTER TABLE notes ALTER body SET STORAGE EXTERNAL;"
        "INSERT INTO notes SELECT i, 'draft', repeat('x', 9000) FROM generate_series(1, 3) i"
    )
    tables = [
        {"source": "public.events", "keep": ["changes"]},
        {"source": "public.notes", "where": "kind <> 'draft'"},
    ]
    config = load_config(rewrite(pipeline("public.events", "public.notes"), tables=tables))
    list(sync(config, run=RunMark("sync", "copy")))
    database.execute("INSERT INTO events VALUES ('a'); UPDATE notes SET kind = 'kept' WHERE id < 3")
    list(sync(config, run=RunMark("sync", "next")))

    found = {(str(name), is_read): run for (name, _, is_read), run in traced(config).items()}
    assert found == {
        ("public.events__changes", True): "copy",
        ("public.events__changes", False): "next",
        ("public.notes", True): "next",
    }


def test_rows_that_a_partner_brings_up_to_date_are_traced_too(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE customers (id int PRIMARY KEY, email text);"
        "CREATE TABLE orders (id int PRIMARY KEY, customer_id int);"
        "INSERT INTO customers VALUES (1, 'a'), (2, 'b'); INSERT INTO orders VALUES (1, 1), (2, 2)"
    )
    config = shop(pipeline("public.customers", "public.orders"), keep="current")
    list(sync(config, run=RunMark("sync", "copy")))
    database.execute("UPDATE customers SET email = 'c' WHERE id = 1")
    list(sync(config, run=RunMark("sync", "next")))
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(
            "UPDATE public.customers SET email = 'wrong';"
            "UPDATE public.orders SET customer_email = 'wrong'"
        )
    list(backfill(config, CUSTOMERS, run=RunMark("backfill", "mended")))

    runs = sorted((lsn, run) for (name, lsn, _), run in traced(config).items() if name == ORDERS)
    assert [run for _, run in runs] == ["mended"]
    ((_, _, tables),) = [one[-3:] for one in windows(config) if one[0] == "next"]
    assert {name: of["rows"] for name, of in tables.items()} == {
        "public.customers": 1,
        "public.orders": 1,
    }


def test_a_run_of_the_command_line_has_an_id_of_its_own(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    assert run_command(ledger, "sync").code == 0
    Writer(database, seed=22).commit(5)
    assert run_command(ledger, "sync").code == 0

    assert all(run.startswith("cli-") for run, *_ in windows(ledger))
    assert len({run for run, *_ in windows(ledger)}) == 2


def test_what_finds_nothing_leaves_nothing(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    sync_all(ledger)
    before = windows(ledger)
    database.execute("CREATE TABLE elsewhere (id int); INSERT INTO elsewhere VALUES (1)")

    sync_all(ledger)
    list(reconcile(ledger, tables=[LINES], repair=True))
    list(backfill(ledger, LINES))

    assert windows(ledger) == before


@pytest.mark.parametrize("step", ["before_commit", "window_committed"])
def test_a_window_has_one_note_if_it_has_committed_and_none_if_not(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    sync_all(ledger)
    before = len(windows(ledger))
    Writer(database, seed=23).commit(20)

    assert kill_at(ledger, step, 1)
    wait_until_unlocked(database)
    with duckdb.connect(str(ledger.warehouse_path)):  # a reader, and the log is read
        pass
    assert len(windows(ledger)) == before + (step == "window_committed")

    Writer(database, seed=25).commit(80)
    assert kill_at(ledger, step, 2)
    wait_until_unlocked(database)
    sync_all(ledger)
    assert_notes_add_up(ledger)


@pytest.mark.parametrize("step", ["copy_staged", "copy_placed"])
def test_what_a_copy_has_put_in_place_is_noted_once(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    Writer(database, seed=24).commit(10)
    for number in (1, 2):
        assert kill_at(ledger, step, number)
        wait_until_unlocked(database)
    sync_all(ledger)

    assert None not in traced(ledger).values()
    placed = [
        name for *_, tables in windows(ledger) for name, of in tables.items() if of["read_lsns"]
    ]
    assert sorted(placed) == sorted(
        f"public.{table}{kept}"
        for table in ("accounts", "Notes", "lines")
        for kept in ("", "__changes", "__history")
    )


def assert_notes_add_up(config: PipelineConfig) -> None:
    """Every change of the stream is in one window, as often as it is in the change table."""
    for table in config.table_names:
        name = f"{table}__changes"
        noted = [
            tables[name] | {"end": end} for *_, end, tables in windows(config) if name in tables
        ]
        streamed = [one for one in noted if not one["read_lsns"]]
        (there,) = query(
            config,
            f"SELECT count(*) FROM public.\"{table.name}__changes\" WHERE _cdc_source = 'stream'",
        )
        assert sum(one["rows"] for one in streamed) == there[0]
        for one, later in pairwise(streamed):
            assert one["after_lsn"] < one["end"] <= later["after_lsn"]
    assert None not in traced(config).values()


def test_the_page_tells_of_a_row_a_change_and_a_column(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE customers (id int PRIMARY KEY, email text);"
        "CREATE TABLE orders (id int PRIMARY KEY, customer_id int);"
        "INSERT INTO customers VALUES (1, 'a@example.com')"
    )
    config = shop(pipeline("public.customers", "public.orders"), mask={"email": "sha256"})
    sync_all(config)
    database.execute("INSERT INTO orders VALUES (42, 1); UPDATE orders SET customer_id = 2")
    list(sync(config, run=RunMark("sync", "this one")))
    ((xid, committed),) = database.execute(
        "SELECT xmin::text::bigint, pg_xact_commit_timestamp(xmin) FROM orders"
        if database.execute("SHOW track_commit_timestamp") == [("on",)]
        else "SELECT xmin::text::bigint, NULL FROM orders"
    )
    of_row, of_change, of_column = documented()

    ((lsn, at, run, kind, _, _),) = query(config, of_row)
    changes = query(config, of_change)

    assert (run, kind) == ("this one", "sync")
    assert [(op, who) for op, _, _, _, who, *_ in changes] == [
        ("insert", "this one"),
        ("update", "this one"),
    ]
    assert (changes[-1][1], changes[-1][2], changes[-1][3]) == (lsn, xid, at)
    assert committed in (None, at)
    assert sorted(query(config, of_column)) == [
        ("public.customers", "email", "masked by sha256"),
        ("public.orders", "customer_email", "taken where customer_id = id, masked by sha256"),
        (
            "public.orders__changes",
            "customer_email",
            "taken where customer_id = id, masked by sha256",
        ),
    ]


def shop(
    config: PipelineConfig, *, keep: str = "as_written", **customers: object
) -> PipelineConfig:
    """Give the pipeline in which orders take the email of customers."""
    enrich = {
        "from": "public.customers",
        "on": {"customer_id": "id"},
        "columns": {"email": "customer_email"},
        "keep": keep,
    }
    kept = ["mirror", "changes"] if keep == "as_written" else ["mirror"]
    orders = {"source": "public.orders", "keep": kept, "enrich": [enrich]}
    tables = [{"source": "public.customers", **customers}, orders]
    return load_config(rewrite(config, tables=tables))


def test_lineage_changes_with_the_rows_and_not_with_the_config(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE customers (id int PRIMARY KEY, email text);"
        "CREATE TABLE orders (id int PRIMARY KEY, customer_id int)"
    )
    config = shop(pipeline("public.customers", "public.orders"))
    sync_all(config)
    before = lineage(config)
    assert ("public.customers", "email", "as it is") in before

    config = shop(config, mask={"email": "sha256"})
    with pytest.raises(SchemaChangeError):
        sync_once(config)
    assert lineage(config) == before

    for name in ("customers", "orders"):
        list(backfill(config, TableName("public", name)))
    after = lineage(config)
    assert ("public.customers", "email", "masked by sha256") in after
    assert len(after) == len(before)
    versions = query(config, "SELECT DISTINCT table_name, code_version FROM _cdc.lineage")
    assert len(versions) == 3


def lineage(config: PipelineConfig) -> list[tuple[str, str, str]]:
    return sorted(query(config, "SELECT table_name, column_name, how FROM _cdc.lineage"))  # type: ignore[arg-type]


def test_a_table_that_is_forgotten_has_no_lineage(ledger: PipelineConfig) -> None:
    sync_all(ledger)
    done = run_command(ledger, "teardown", "--table", "public.lines")

    assert done.code == 0
    named = {name for name, *_ in lineage(ledger)}
    assert named == {
        f"public.{table}{kept}"
        for table in ("accounts", "Notes")
        for kept in ("", "__changes", "__history")
    }
