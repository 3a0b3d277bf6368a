"""The history of a table that takes columns of another has every version, with what it saw.

What rows saw is told by triggers on the source, in columns that the warehouse does not have: what
another value of the partner makes another version is told by the columns that are taken alone.
"""

from __future__ import annotations

import hashlib

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.replication import applying
from cdc_assets.replication.backfill import backfill
from cdc_assets.steps import Step
from cdc_assets_tests.audit import Row, create_audit
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import kill_at
from cdc_assets_tests.shop import CUSTOMERS, ORDERS, SAW, SHOP_SQL, Writer, enriched
from cdc_assets_tests.syncs import errors_of, query, sync_all, sync_once
from cdc_assets_tests.versions import assert_versions_as_audited, histories
from cdc_assets_tests.waiting import wait_until_unlocked

pytestmark = pytest.mark.usefixtures("small")

KEYS = {str(CUSTOMERS): ("region", "key"), str(ORDERS): ("id",)}
ALL = ["mirror", "changes", "history"]


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(SHOP_SQL)
    made = pipeline("public.customers", "public.orders", "public.plain", schema_changes="stop")
    columns = {"rename": {"region": "area"}, "exclude": list(SAW)}
    config = enriched(made, of={"keep": ALL}, keep=ALL, columns=columns, mask={})
    sync_all(config)
    create_audit(database, KEYS)
    return config


def shaped(table: str, row: Row) -> Row:
    def hashed(text: str | None) -> str | None:
        return None if text is None else hashlib.sha256(text.encode()).hexdigest()

    if table == str(CUSTOMERS):
        kept = {name: row[name] for name in ("region", "email", "body")}
        return {**kept, "key": row["id"], "tel": hashed(row["phone"])}
    return {
        **{name: row[name] for name in ("id", "customer", "n")},
        "area": row["region"],
        "customer_email": row["saw_email"],
        "customer_phone": hashed(row["saw_phone"]),
        "customer_body": row["saw_body"],
    }


def check_all(database: ScratchDatabase, config: PipelineConfig) -> int:
    sync_all(config)
    for table in KEYS:
        assert_current_as_mirror(config, table)
    return assert_versions_as_audited(database, config, KEYS, shaped)


def assert_current_as_mirror(config: PipelineConfig, table: str) -> None:
    own = "_cdc_valid_from, _cdc_valid_to, _cdc_valid_from_lsn, _cdc_valid_to_lsn, _cdc_source"
    current = f"SELECT * EXCLUDE ({own}) FROM {table}__history WHERE _cdc_valid_to_lsn IS NULL"
    mirror = f"SELECT * EXCLUDE (_cdc_lsn, _cdc_commit_ts) FROM {table}"
    assert query(config, f"{current} EXCEPT ALL {mirror}") == []
    assert query(config, f"{mirror} EXCEPT ALL {current}") == []


@pytest.mark.parametrize(
    ("seed", "apply_bytes", "identity"), [(31, 100_000, "DEFAULT"), (32, 3_000, "FULL")]
)
def test_every_version_has_what_it_saw(
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
    writer = Writer(database, seed)
    for _ in range(2):
        writer.commit(30)
        check_all(database, config)
    database.execute("BEGIN; TRUNCATE orders; INSERT INTO orders VALUES (1, 'eu', 2, 1); COMMIT")
    writer.commit(20)
    assert check_all(database, config) > 300


@pytest.mark.parametrize("step", ["versions_written", "window_committed"])
def test_a_kill_neither_loses_nor_doubles_a_version(
    database: ScratchDatabase, config: PipelineConfig, step: Step
) -> None:
    writer = Writer(database, seed=35)
    writer.commit(30)
    assert kill_at(config, step, 2)
    wait_until_unlocked(database)
    writer.commit(5)
    check_all(database, config)


def test_another_value_of_the_partner_opens_a_version_when_the_row_is_written(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("UPDATE customers SET email = 'a' WHERE id = 2")
    database.execute("UPDATE orders SET n = n WHERE id = 2")  # another email
    database.execute("UPDATE customers SET email = 'b' WHERE id = 2")  # writes no order
    database.execute("UPDATE customers SET email = 'a' WHERE id = 2")
    database.execute("UPDATE orders SET n = n WHERE id = 2")  # the same row
    database.execute(
        "BEGIN; UPDATE customers SET email = 'c' WHERE id = 2; UPDATE orders SET n = n WHERE id=2;"
        "UPDATE customers SET email = 'd' WHERE id = 2; UPDATE orders SET n = n WHERE id = 2;"
        "UPDATE customers SET email = 'e' WHERE id = 2; COMMIT"
    )
    check_all(database, config)
    versions = histories(config, str(ORDERS), ("id",))[2,]
    assert [version.row["customer_email"] for version in versions] == ["mail2", "a", "d"]


def test_what_a_backfill_makes_right_is_a_version(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(
            "UPDATE public.orders SET n = 9 WHERE id = 2; DELETE FROM public.orders WHERE id = 3"
        )
        warehouse.execute("UPDATE public.orders__history SET n = 9 WHERE id = 2")
    database.execute("UPDATE customers SET email = 'now' WHERE id = 2")
    before = histories(config, str(ORDERS), ("id",))
    list(backfill(config, ORDERS))
    after = histories(config, str(ORDERS), ("id",))
    assert {key for key in after if after[key] != before[key]} == {(2,)}
    wrong, right = after[2,]
    assert (wrong.row["n"], wrong.row["customer_email"]) == (9, "mail2")
    assert (right.row["n"], right.row["customer_email"], right.source) == (0, "now", "backfill")
    for table in KEYS:
        assert_current_as_mirror(config, table)


def test_a_table_that_is_copied_anew_has_versions_of_what_is_there_now(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    writer = Writer(database, seed=34)
    writer.commit(20)
    sync_all(config)
    database.execute("ALTER TABLE orders ADD COLUMN extra int; UPDATE customers SET email = 'x'")
    assert set(errors_of(sync_once(config))) == {str(ORDERS)}
    list(backfill(config, ORDERS))
    assert_current_as_mirror(config, str(ORDERS))
    emails = {row for (row,) in query(config, "SELECT customer_email FROM public.orders__history")}
    assert emails <= {"x", None}
