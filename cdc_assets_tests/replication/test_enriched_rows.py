"""Rows take columns of another table as it was when they were written.

The oracle is a trigger on the source: every row notes what it saw of its partner when it was
written. What is kept has to be the same.
"""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import CdcError, ConfigError
from cdc_assets.progress import TableCompared
from cdc_assets.replication import applying
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.replication.sync import sync
from cdc_assets_tests.command_line import rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.shop import (
    CUSTOMERS,
    ENRICH,
    ORDERS,
    SAW,
    SHOP_SQL,
    TAKEN,
    Writer,
    enriched,
    settle,
)
from cdc_assets_tests.syncs import errors_of, mirror_rows, sync_all, sync_once

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def made(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(SHOP_SQL)
    return pipeline("public.customers", "public.orders", "public.plain", schema_changes="stop")


@pytest.fixture
def config(made: PipelineConfig) -> PipelineConfig:
    return enriched(made)


def assert_as_written(config: PipelineConfig, table: str = "public.orders") -> None:
    """Fail unless every row has what it saw."""
    rows = mirror_rows(config, table, ", ".join(["id", *SAW, *TAKEN]))
    assert [row for row in rows if row[1:4] != row[4:]] == []
    assert rows


def check_all(database: ScratchDatabase, config: PipelineConfig) -> None:
    sync_all(config)
    own = "id, region, customer, n, saw_email, saw_body"
    assert_as_written(config)
    kept = mirror_rows(config, "public.orders", own.replace("region", "area"))
    assert kept == sorted(map(tuple, database.execute(f"SELECT {own} FROM orders ORDER BY id")))
    kept = mirror_rows(config, "public.customers", "region, key, email, body")
    own = "SELECT region, id, email, body FROM customers ORDER BY 1, 2"
    assert kept == sorted(map(tuple, database.execute(own)))


@pytest.mark.parametrize(
    ("seed", "apply_bytes", "identity"),
    [
        (1, 100_000, "DEFAULT"),
        (2, 2_000, "DEFAULT"),
        (3, 10_000_000, "DEFAULT"),
        (4, 9_000, "FULL"),
    ],
)
def test_every_row_has_what_it_saw(
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
    for transactions in (40, 60):
        writer.commit(transactions)
        check_all(database, config)


@pytest.mark.parametrize("seed", [0])
def test_crashes_and_copies_under_writes(
    database: ScratchDatabase, config: PipelineConfig, seed: int
) -> None:
    writer = Writer(database, seed)
    kill_at(config, "chunk_committed", 2)
    writer.commit(5)
    kill_at(config, "copy_staged", 2)
    writer.commit(5)
    settle(database, config)
    for step in ("table_applied", "before_commit", "window_committed"):
        writer.commit(15)
        kill_at(config, step, 2)  # type: ignore[arg-type]
        writer.commit(5)
        with at_step("window_committed", 1, lambda: writer.commit(3)):
            sync_all(config)
        check_all(database, config)
        for table in (CUSTOMERS, ORDERS):
            with at_step("chunk_committed", 1, lambda: writer.commit(5)):
                list(backfill(config, table))
            check_all(database, config)
        compared = [event for event in reconcile(config) if isinstance(event, TableCompared)]
        assert [table.not_compared for table in compared if not table.equal] == []


def test_a_copy_has_what_is_there_now(database: ScratchDatabase, config: PipelineConfig) -> None:
    database.execute("UPDATE customers SET email = 'now ' || id, body = 'short'")
    with at_step(
        "chunk_committed", 1, lambda: database.execute("DELETE FROM customers WHERE id=3")
    ):
        sync_all(config)
    joined = database.execute(
        "SELECT o.id, c.email, c.body FROM orders o LEFT JOIN customers c"
        " ON c.region = o.region AND c.id = o.customer ORDER BY o.id"
    )
    taken = "id, customer_email, customer_body"
    assert mirror_rows(config, "public.orders", taken) == list(map(tuple, joined))


def test_a_row_that_a_backfill_makes_right_has_what_is_there_now(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    settle(database, config)
    sync_all(config)
    database.execute("UPDATE customers SET email = 'later'")
    sync_all(config)
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("UPDATE public.orders SET n = 7 WHERE id = 2")
    list(backfill(config, ORDERS))
    rows = mirror_rows(config, "public.orders", "id, customer_email, n")
    assert [row for row in rows if row[1] == "later"] == [(2, "later", 1)]


def test_rows_of_changes_have_what_they_saw(
    database: ScratchDatabase, made: PipelineConfig
) -> None:
    config = enriched(made, keep=["mirror", "changes"])
    writer = Writer(database, 7)
    settle(database, config)
    for _ in range(3):
        writer.commit(30)
        check_all(database, config)
    names = ", ".join([*SAW, *TAKEN])
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        sql = f"SELECT {names} FROM public.orders__changes WHERE _cdc_source = 'stream'"
        rows = warehouse.execute(sql).fetchall()
    assert len(rows) > 200
    assert [row for row in rows if row[:3] != row[3:]] == []


def test_a_table_waits_for_its_partner(database: ScratchDatabase, config: PipelineConfig) -> None:
    settle(database, config)
    sync_all(config)
    database.execute("UPDATE customers SET email = 'a'; UPDATE orders SET n = n + 1")
    database.execute("ALTER TABLE customers ADD COLUMN extra int DEFAULT 1")
    database.execute("UPDATE customers SET email = 'b'; INSERT INTO plain VALUES (1)")
    errors = errors_of(sync_once(config))
    assert set(errors) == {"public.customers", "public.orders"}
    assert "takes columns of 'public.customers'" in errors["public.orders"].message
    assert mirror_rows(config, "public.plain", "id") == [(1,)]
    with pytest.raises(CdcError, match="which can't go on"):
        list(backfill(config, ORDERS))
    list(backfill(config, CUSTOMERS))
    errors = errors_of(sync_once(config))
    assert set(errors) == {"public.orders"}
    assert "backfill public.orders" in errors["public.orders"].hint
    list(backfill(config, ORDERS))
    settle(database, config)
    check_all(database, config)


def test_a_partner_goes_on_without_its_dependent(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    settle(database, config)
    sync_all(config)
    database.execute("ALTER TABLE orders ADD COLUMN extra int")
    database.execute("UPDATE orders SET n = 1; UPDATE customers SET email = 'b'")
    assert set(errors_of(sync_once(config))) == {"public.orders"}
    assert {row for (row,) in mirror_rows(config, "public.customers", "email")} == {"b"}
    list(backfill(config, ORDERS))
    settle(database, config)
    check_all(database, config)


def test_what_is_linked_is_synced_together(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    settle(database, config)
    sync_all(config)
    writer = Writer(database, 11)
    writer.commit(20)
    *_, finished = sync(config, tables=[CUSTOMERS])
    assert [str(table.table) for table in finished.tables] == ["public.customers"]  # type: ignore[union-attr]
    writer.commit(20)
    check_all(database, config)


def test_another_mask_at_the_partner_stops_both(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    settle(database, config)
    sync_all(config)
    shown = enriched(config, of={"mask": {"phone": "redact"}})
    assert set(errors_of(sync_once(shown))) == {"public.customers", "public.orders"}
    for table in (CUSTOMERS, ORDERS):
        list(backfill(shown, table))
    phones = {row for (row,) in mirror_rows(shown, "public.orders", "customer_phone")}
    assert phones == {"***", None}
    assert errors_of(sync_once(shown)) == {}


@pytest.mark.parametrize(
    ("enrich", "said"),
    [
        ({"from": "public.nobody"}, "not a table of this pipeline"),
        ({"from": "public.orders"}, "takes no columns of itself"),
        ({"keep": "now"}, "as_written"),
        ({"columns": {"email": "_cdc_email"}}, "_cdc_"),
        ({"columns": {"email": "a", "tel": "A"}}, "two columns get one name"),
    ],
)
def test_what_the_config_refuses(made: PipelineConfig, enrich: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        enriched(made, enrich=[{**ENRICH, **enrich}])


def test_circles_are_refused(made: PipelineConfig) -> None:
    back = {"from": "public.orders", "on": {"key": "id"}, "columns": {"n": "order_n"}}
    with pytest.raises(ConfigError, match="circle"):
        enriched(made, of={"enrich": [back]})


@pytest.mark.parametrize(
    ("enrich", "said"),
    [
        ({"on": {"customer": "key"}}, "whose key is (region, key)"),
        ({"on": {"area": "region", "custmer": "key"}}, "names a column 'custmer'"),
        ({"on": {"area": "region", "saw_email": "key"}}, "may not be equal here"),
        ({"columns": {"emial": "x"}}, "has no column 'emial'"),
        ({"columns": {"email": "N"}}, "and has one itself"),
    ],
)
def test_what_check_refuses(made: PipelineConfig, enrich: Any, said: str) -> None:
    config = enriched(made, enrich=[{**ENRICH, **enrich}])
    assert said in run_command(config, "check").err
    assert set(errors_of(sync_once(config))) == {"public.orders"}


def test_a_filter_takes_whole_old_rows(database: ScratchDatabase, made: PipelineConfig) -> None:
    config = enriched(made, where="n < 3")
    assert "ahead of the stream" in errors_of(sync_once(config))["public.orders"].message
    database.execute("ALTER TABLE orders REPLICA IDENTITY FULL")
    writer = Writer(database, 5)
    settle(database, config)
    for _ in range(3):
        writer.commit(30)
        sync_all(config)
        assert_as_written(config)


def test_deleted_rows_keep_what_they_saw(database: ScratchDatabase, made: PipelineConfig) -> None:
    """Where deleted customers are kept as well, whom no order sees any more."""
    config = enriched(made, of={"deletes": "soft"}, deletes="soft")
    settle(database, config)
    writer = Writer(database, 12)
    for _ in range(3):
        writer.commit(30)
        database.execute("DELETE FROM orders WHERE id % 13 = 3; DELETE FROM customers WHERE id = 7")
        sync_all(config)
        assert_as_written(config)
    database.execute("TRUNCATE customers; UPDATE orders SET n = n WHERE id % 2 = 0")
    with at_step("chunk_committed", 1, lambda: writer.commit(5)):
        list(backfill(config, ORDERS))
    sync_all(config)
    assert_as_written(config)
    deleted = "count(*) FILTER (_cdc_deleted) > 10, count(*) FILTER (NOT _cdc_deleted) > 50"
    assert mirror_rows(config, "public.orders", deleted) == [(True, True)]


@pytest.mark.parametrize("keep", ["as_written", "current"])
def test_values_of_every_type_are_taken(
    database: ScratchDatabase, pipeline: MakePipeline, keep: str
) -> None:
    """From the mirror and from changes that are pending alike, and by rows that are there."""
    values = {
        "a": ("uuid", "gen_random_uuid()"),
        "b": ("jsonb", """'{"x": [1, null]}'"""),
        "c": ("json", "'[1 , 2]'"),
        "d": ("timestamptz", "'2024-02-29 12:00:00.000001+02'"),
        "e": ("timestamp", "'infinity'"),
        "f": ("date", "'0044-03-15 BC'"),
        "g": ("time", "'23:59:59.999999'"),
        "h": ("numeric(12,3)", "-1.5"),
        "i": ("numeric", "'NaN'"),
        "j": ("int[]", "'{1,NULL,3}'"),
        "k": ("text[]", "'{a,NULL}'"),
        "l": ("bytea", r"'\x00ff'"),
        "m": ("float8", "'-0'"),
        "n": ("bool", "true"),
        "o": ("smallint", "-7"),
        "p": ("interval", "'1 mon'"),
        "q": ("timestamptz[]", "'{2024-02-29 12:00:00+02}'"),
        "r": ("real", "'NaN'"),
    }
    listed = ", ".join(f"{name} {kind}" for name, (kind, _) in values.items())
    row = ", ".join(value for _, value in values.values())
    database.execute(
        f"CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), nr int, {listed});"
        "CREATE TABLE refers (id int PRIMARY KEY, t uuid);"
        f"INSERT INTO t SELECT gen_random_uuid(), 1, {row};"
        "INSERT INTO refers SELECT 1, id FROM t"
    )
    config = pipeline("public.t", "public.refers", schema_changes="stop")
    taken = {name: f"taken_{name}" for name in values}
    enrich = [{"from": "public.t", "on": {"t": "id"}, "columns": taken, "keep": keep}]
    tables = [{"source": "public.t"}, {"source": "public.refers", "enrich": enrich}]
    config = load_config(rewrite(config, tables=tables))
    sync_all(config)
    database.execute(
        "INSERT INTO refers SELECT 2, id FROM t;"
        f"INSERT INTO t SELECT gen_random_uuid(), 2, {row}; UPDATE t SET o = 8;"
        "INSERT INTO refers SELECT nr + 2, id FROM t; INSERT INTO refers VALUES (9, NULL)"
    )
    sync_all(config)
    theirs = mirror_rows(config, "public.t", ", ".join(values))
    ours = mirror_rows(config, "public.refers", ", ".join(["id", *taken.values()]))
    by_uuid = {row[0]: row for row in map(_shown, theirs)}
    at = list(values).index("o")
    for number, *found in ours[:-1]:
        expected = list(by_uuid[found[0]])
        expected[at] = -7 if number <= 2 and keep == "as_written" else 8
        assert _shown(found) == tuple(expected)
    assert set(ours[-1][1:]) == {None}
    assert [number for number, *_ in ours] == [1, 2, 3, 4, 9]


def _shown(row: Any) -> tuple[Any, ...]:
    return tuple(repr(value) if isinstance(value, float) else value for value in row)
