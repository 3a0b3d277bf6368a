"""A function gets rows with what they take of another table, as it was when they were written."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ConfigError
from cdc_assets.progress import TableCompared
from cdc_assets.replication import applying
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets_tests.audit import Row, create_audit
from cdc_assets_tests.command_line import run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.shaping import functions
from cdc_assets_tests.shop import (
    CUSTOMERS,
    ENRICH,
    ORDERS,
    SHOP_SQL,
    Writer,
    enriched,
    settle,
)
from cdc_assets_tests.syncs import errors_of, mirror_rows, query, sync_all, sync_once
from cdc_assets_tests.versions import assert_versions_as_audited
from cdc_assets_tests.waiting import wait_until_unlocked

pytestmark = pytest.mark.usefixtures("small")

TAKEN = {**ENRICH, "columns": {"email": "customer_email"}}
OWN = "id, area, customer, n, saw_email, customer_email, greeting"
WROTE = "SELECT id, region, customer, n, saw_email, saw_email, 'to ' || saw_email FROM orders"


@pytest.fixture
def made(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(SHOP_SQL)
    database.execute("ALTER TABLE orders REPLICA IDENTITY FULL")
    return pipeline("public.customers", "public.orders", "public.plain")


def through(made: PipelineConfig, function: str = "with_greeting", **more: Any) -> PipelineConfig:
    transform = f"{functions.MODULE}:{function}"
    return enriched(made, **{"enrich": [TAKEN], "transform": transform, **more})


def check_all(database: ScratchDatabase, config: PipelineConfig, where: str = "") -> None:
    """Fail unless every row has what the function makes of what it saw."""
    sync_all(config)
    expected = sorted(map(tuple, database.execute(WROTE + where)), key=repr)
    assert sorted(mirror_rows(config, "public.orders", OWN), key=repr) == expected
    assert expected


def compared(config: PipelineConfig) -> TableCompared:
    (found,) = (
        one
        for one in reconcile(config, tables=[ORDERS])
        if isinstance(one, TableCompared) and one.table == ORDERS
    )
    return found


@pytest.mark.parametrize(("seed", "apply_bytes"), [(1, 100_000), (2, 3_000)])
def test_the_function_sees_what_a_row_saw(
    database: ScratchDatabase,
    made: PipelineConfig,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    apply_bytes: int,
) -> None:
    monkeypatch.setattr(applying, "APPLY_BYTES", apply_bytes)
    config = through(made)
    settle(database, config)
    writer = Writer(database, seed)
    for transactions in (30, 40):
        writer.commit(transactions)
        check_all(database, config)
    database.execute("BEGIN; TRUNCATE orders; INSERT INTO orders VALUES (1, 'eu', 2, 1); COMMIT")
    check_all(database, config)


def test_crashes_and_copies_under_writes(database: ScratchDatabase, made: PipelineConfig) -> None:
    """What rows took stays what it was, and what the function makes of it is compared."""
    config = through(made)
    writer = Writer(database, seed=3)
    kill_at(config, "copy_staged", 2)
    settle(database, config)
    for step in ("table_applied", "window_committed"):
        writer.commit(15)
        kill_at(config, step, 2)  # type: ignore[arg-type]
        wait_until_unlocked(database)
        writer.commit(5)
        check_all(database, config)
        with at_step("chunk_committed", 1, lambda: writer.commit(5)):
            list(backfill(config, ORDERS))
        check_all(database, config)
        assert compared(config).equal
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("UPDATE public.orders SET greeting = 'wrong' WHERE id % 3 = 0")
    assert not compared(config).equal
    list(backfill(config, ORDERS))
    check_all(database, config)


def test_changes_and_versions_are_those_of_what_the_function_makes(
    database: ScratchDatabase, made: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "APPLY_BYTES", 20_000)
    config = through(made, keep=["mirror", "changes", "history"], where="n % 5 <> 3")
    where = " WHERE n % 5 <> 3"
    sync_all(config)
    create_audit(database, [str(ORDERS)])
    database.execute("UPDATE orders SET n = n + 1")
    writer = Writer(database, seed=4)
    for step in ("versions_written", "before_commit"):
        writer.commit(25)
        assert kill_at(config, step, 1)  # type: ignore[arg-type]
        wait_until_unlocked(database)
        check_all(database, config, where)
    database.execute("TRUNCATE orders; INSERT INTO orders VALUES (1, 'eu', 2, 1)")
    writer.commit(10)
    database.execute("UPDATE orders SET n = n + 2 WHERE id % 2 = 0")
    check_all(database, config, where)
    assert assert_versions_as_audited(database, config, {str(ORDERS): ("id",)}, _shaped) > 200
    replayed: dict[int, tuple[Any, ...]] = {}
    changes = query(
        config,
        f"SELECT _cdc_op, _cdc_before, _cdc_source, {OWN} FROM public.orders__changes"
        " ORDER BY _cdc_lsn, _cdc_seq",
    )
    for op, before, _, *row in changes:
        if op == "truncate":
            replayed.clear()
        if op in ("update", "delete"):
            gone = replayed.pop(before["id"])
            assert gone == tuple(before[name] for name in OWN.split(", "))
        if op not in ("delete", "truncate"):
            assert row[0] not in replayed
            replayed[row[0]] = tuple(row)
    assert sorted(replayed.values(), key=repr) == sorted(
        mirror_rows(config, "public.orders", OWN), key=repr
    )
    assert {op for op, *_ in changes} == {"snapshot", "insert", "update", "delete", "truncate"}


def _shaped(_table: str, row: Row) -> Row | None:
    email = row["saw_email"]
    if row["n"] % 5 == 3:
        return None
    kept = {name: row[name] for name in ("id", "customer", "n", "saw_email", "saw_body")}
    greeting = None if email is None else "to " + email
    return {**kept, "area": row["region"], "customer_email": email, "greeting": greeting}


@pytest.mark.parametrize("keep", ["as_written", "current"])
def test_the_partner_may_go_through_a_function(
    database: ScratchDatabase, made: PipelineConfig, keep: str
) -> None:
    database.execute("ALTER TABLE customers REPLICA IDENTITY FULL")
    transform = f"{functions.MODULE}:upper_email"
    config = enriched(made, of={"transform": transform}, enrich=[{**TAKEN, "keep": keep}])
    settle(database, config)
    writer = Writer(database, seed=5)
    for _ in range(2):
        writer.commit(30)
        sync_all(config)
        if keep == "current":
            wanted = database.execute(
                "SELECT o.id, upper(email) FROM orders o LEFT JOIN customers c ON c.id = o.customer"
                " AND c.region = o.region AND c.email NOT LIKE '%3'"
            )
        else:
            wanted = database.execute(
                "SELECT id, CASE WHEN saw_email NOT LIKE '%3' THEN upper(saw_email) END FROM orders"
            )
        assert mirror_rows(config, "public.orders", "id, customer_email") == sorted(wanted)
        list(backfill(config, CUSTOMERS))
    assert compared(config).equal


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("without_taken", "does not leave 'customer_email' as it is"),
        ("shape_orders", "raised KeyError"),
    ],
)
def test_what_check_refuses(made: PipelineConfig, function: str, said: str) -> None:
    config = through(made, function)
    assert said in run_command(config, "check").err
    assert set(errors_of(sync_once(config))) == {"public.orders"}


def test_what_is_taken_stays_as_it_is(database: ScratchDatabase, made: PipelineConfig) -> None:
    config = through(made, "upper_taken")
    error = errors_of(sync_once(config))["public.orders"]
    assert "gave other values of 'customer_email'" in error.message
    error = errors_of(sync_once(through(made, "without_strangers")))["public.orders"]
    assert "dropped a row" in error.message
    assert "by 'where'" in error.hint
    database.execute("ALTER TABLE orders REPLICA IDENTITY DEFAULT")
    error = errors_of(sync_once(through(made)))["public.orders"]
    assert "is filtered or transformed" in error.message


def test_what_the_config_refuses(made: PipelineConfig) -> None:
    with pytest.raises(ConfigError, match="is called for rows that are written"):
        through(made, enrich=[{**TAKEN, "keep": "current"}])
    plain = {"from": "public.plain", "on": {"key": "id"}, "columns": {"id": "x"}}
    of = {"enrich": [plain], "transform": f"{functions.MODULE}:as_it_is"}
    with pytest.raises(ConfigError, match="such a table gives none"):
        enriched(made, of=of)
