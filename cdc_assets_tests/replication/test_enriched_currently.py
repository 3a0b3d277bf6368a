"""Rows have what another table's rows are now, in the window in which these become it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ConfigError
from cdc_assets.progress import TableCompared
from cdc_assets.replication import applying
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.shop import CUSTOMERS, ENRICH, ORDERS, SHOP_SQL, TAKEN, Writer, enriched
from cdc_assets_tests.syncs import errors_of, mirror_rows, sync_all, sync_once
from cdc_assets_tests.waiting import wait_until_unlocked

pytestmark = pytest.mark.usefixtures("small")

CURRENT = [{**ENRICH, "keep": "current"}]
OWN = "id, area, customer, n"
JOINED = """
SELECT o.id, o.region, o.customer, o.n, c.email, encode(sha256(c.phone::bytea), 'hex'), c.body
FROM orders o LEFT JOIN customers c ON c.region = o.region AND c.id = o.customer{}
"""


@pytest.fixture
def made(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(SHOP_SQL)
    return pipeline("public.customers", "public.orders", "public.plain", schema_changes="stop")


@pytest.fixture
def config(made: PipelineConfig) -> PipelineConfig:
    return enriched(made, enrich=CURRENT)


def assert_current(database: ScratchDatabase, config: PipelineConfig, which: str = "") -> None:
    """Fail unless every row has what its partner is on the source."""
    rows = mirror_rows(config, "public.orders", ", ".join([OWN, *TAKEN]))
    expected = sorted(map(tuple, database.execute(JOINED.format(which))), key=repr)
    assert sorted(rows, key=repr) == expected
    assert rows


def check_all(database: ScratchDatabase, config: PipelineConfig, which: str = "") -> None:
    sync_all(config)
    assert_current(database, config, which)


def written(config: PipelineConfig, sql: str) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(sql)


def compared(config: PipelineConfig, *, repair: bool = False) -> dict[str, TableCompared]:
    events = reconcile(config, repair=repair)
    return {str(one.table): one for one in events if isinstance(one, TableCompared)}


@pytest.mark.parametrize(
    ("seed", "apply_bytes", "identity"), [(1, 100_000, "DEFAULT"), (2, 3_000, "FULL")]
)
def test_every_row_has_what_is_there_now(
    database: ScratchDatabase,
    config: PipelineConfig,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    apply_bytes: int,
    identity: str,
) -> None:
    monkeypatch.setattr(applying, "APPLY_BYTES", apply_bytes)
    for table in ("customers", "orders"):
        database.execute(f"ALTER TABLE {table} REPLICA IDENTITY {identity}")
    check_all(database, config)
    writer = Writer(database, seed)
    for transactions in (30, 50):
        writer.commit(transactions)
        check_all(database, config)
        assert [str(table) for table, found in compared(config).items() if not found.equal] == []


def test_what_a_row_is_of_does_not_depend_on_how_the_stream_is_cut(
    database: ScratchDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of the last transaction that changed it, or what it has of its partner."""
    database.execute(SHOP_SQL)
    configs = []
    for name in ("often", "once"):
        (tmp_path / name).mkdir()
        tables = ("public.customers", "public.orders", "public.plain")
        made = make_pipeline(database, tmp_path / name, *tables, name=name, schema_changes="stop")
        configs.append(enriched(made, enrich=CURRENT))
        sync_all(configs[-1])
    often, once = configs
    writer = Writer(database, seed=3)
    for _ in range(6):
        writer.commit(10)
        monkeypatch.setattr(applying, "APPLY_BYTES", 2_000)
        sync_all(often)
    monkeypatch.setattr(applying, "APPLY_BYTES", 10_000_000)
    sync_all(once)
    assert_current(database, once)
    columns = f"{OWN}, {', '.join(TAKEN)}, _cdc_commit_ts"
    lsn = "CASE WHEN _cdc_commit_ts IS NOT NULL THEN _cdc_lsn END"
    rows = [mirror_rows(one, "public.orders", f"{columns}, {lsn}") for one in configs]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("seed", [4])
def test_crashes_and_copies_under_writes(
    database: ScratchDatabase, config: PipelineConfig, seed: int
) -> None:
    writer = Writer(database, seed)
    kill_at(config, "copy_staged", 2)
    writer.commit(5)
    check_all(database, config)
    for step in ("dependents_renewed", "before_commit", "window_committed"):
        writer.commit(15)
        assert kill_at(config, step, 1)  # type: ignore[arg-type]
        wait_until_unlocked(database)
        writer.commit(5)
        with at_step("window_committed", 1, lambda: writer.commit(3)):
            sync_all(config)
        check_all(database, config)
        for table in (CUSTOMERS, ORDERS):
            with at_step("chunk_committed", 1, lambda: writer.commit(5)):
                list(backfill(config, table))
            check_all(database, config)


def test_a_row_is_of_the_transaction_that_changed_its_partner(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    sync_all(config)
    database.execute("UPDATE orders SET n = 5 WHERE id = 2")
    database.execute("UPDATE customers SET body = 'x', email = email WHERE id = 2")
    sync_all(config)
    before, at = moment_of(config, 2)
    database.execute("UPDATE customers SET id = id WHERE id = 2")  # nothing that is taken
    sync_all(config)
    assert moment_of(config, 2) == (before, at)
    database.execute("DELETE FROM customers WHERE id = 2")
    sync_all(config)
    after, later = moment_of(config, 2)
    assert after > before
    assert later > at
    of_before = moment_of(config, 3)
    database.execute("TRUNCATE customers")
    sync_all(config)
    assert moment_of(config, 2) == (after, later)
    assert moment_of(config, 3) > of_before
    assert_current(database, config)


def moment_of(config: PipelineConfig, order: int) -> tuple[Any, ...]:
    """Give the LSN and the time of an order's row."""
    rows = mirror_rows(config, "public.orders", "id, _cdc_lsn, _cdc_commit_ts")
    return next((lsn, at) for id_, lsn, at in rows if id_ == order)


def test_comparisons_see_what_is_there_now(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    sync_all(config)
    written(config, "UPDATE public.orders SET customer_email = 'wrong' WHERE id = 2")
    found = compared(config)
    assert found["public.customers"].equal
    assert not found["public.orders"].equal
    assert found["public.orders"].keys == (("2",),)
    compared(config, repair=True)
    assert_current(database, config)


@pytest.mark.parametrize("how", ["backfill", "repair"])
def test_what_is_made_right_at_the_partner_reaches_its_dependents(
    database: ScratchDatabase, config: PipelineConfig, how: str
) -> None:
    sync_all(config)
    written(
        config,
        "UPDATE public.customers SET email = 'wrong' WHERE key = 2;"
        "UPDATE public.orders SET customer_email = 'wrong' WHERE customer = 2 AND area = 'eu';"
        "UPDATE public.orders SET customer_email = NULL, customer_body = NULL,"
        " customer_phone = NULL WHERE customer = 3;"
        "DELETE FROM public.customers WHERE key = 3",
    )
    database.execute("INSERT INTO customers VALUES ('eu', 99, 'new', '1', 'x')")
    if how == "repair":
        compared(config, repair=True)
    else:
        list(backfill(config, CUSTOMERS))
    check_all(database, config)
    assert all(found.equal for found in compared(config).values())


def test_rows_of_the_partner_that_are_not_kept_are_none(
    database: ScratchDatabase, made: PipelineConfig
) -> None:
    database.execute("ALTER TABLE customers REPLICA IDENTITY FULL")
    where = "email <> 'mail4' AND email NOT LIKE '%7'"
    config = enriched(made, enrich=CURRENT, of={"where": where, "deletes": "soft"})
    which = " AND c.email <> 'mail4' AND c.email NOT LIKE '%%7'"
    check_all(database, config, which)
    database.execute("UPDATE customers SET email = 'm7' WHERE id = 2")
    database.execute(
        "UPDATE customers SET email = 'm5' WHERE id = 4; DELETE FROM customers WHERE id = 5"
    )
    check_all(database, config, which)
    writer = Writer(database, seed=6)
    for _ in range(2):
        writer.commit(30)
        check_all(database, config, which)
    list(backfill(config, ORDERS))
    assert_current(database, config, which)


def test_a_partner_that_was_copied_anew(database: ScratchDatabase, config: PipelineConfig) -> None:
    sync_all(config)
    database.execute("ALTER TABLE customers ADD COLUMN extra int; UPDATE customers SET email = 'b'")
    assert set(errors_of(sync_once(config))) == {"public.customers", "public.orders"}
    list(backfill(config, CUSTOMERS))
    assert set(errors_of(sync_once(config))) == {"public.orders"}
    list(backfill(config, ORDERS))
    check_all(database, config)


def test_what_is_there_now_and_what_was_then_side_by_side(
    database: ScratchDatabase, made: PipelineConfig
) -> None:
    then = {**ENRICH, "columns": {"email": "email_then"}}
    config = enriched(made, enrich=[*CURRENT, then])
    sync_all(config)
    database.execute("UPDATE orders SET n = n")
    writer = Writer(database, seed=7)
    writer.commit(40)
    check_all(database, config)
    rows = mirror_rows(config, "public.orders", "saw_email, email_then")
    assert [row for row in rows if row[0] != row[1]] == []


def test_another_moment_stops_the_table(database: ScratchDatabase, config: PipelineConfig) -> None:
    sync_all(config)
    then = enriched(config)
    assert "shaped otherwise" in errors_of(sync_once(then))["public.orders"].message
    list(backfill(then, ORDERS))
    database.execute("UPDATE customers SET email = 'x'")
    sync_all(then)
    emails = {row for (row,) in mirror_rows(then, "public.orders", "customer_email")}
    assert "x" not in emails


@pytest.mark.parametrize(
    ("orders", "said"),
    [
        ({"keep": ["mirror", "changes"]}, "its change table and its history would not tell"),
        ({"keep": ["mirror", "history"]}, "its change table and its history would not tell"),
        ({"deletes": "soft"}, "a deleted row stays as it was last"),
    ],
)
def test_what_the_config_refuses(made: PipelineConfig, orders: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        enriched(made, enrich=CURRENT, **orders)
