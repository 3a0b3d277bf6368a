from __future__ import annotations

import random

import psycopg
import pytest

from cdc_assets.demo.actions import ACTIONS
from cdc_assets.demo.alterations import alter
from cdc_assets.demo.shop import TABLES, create_database, load
from cdc_assets.demo.workload import Workload
from cdc_assets_tests.database import ScratchDatabase

TOASTED = (
    "SELECT count(*) FROM public.{table} WHERE octet_length({column}) > 2000"
    " AND pg_column_toast_chunk_id({column}) IS NOT NULL"
)


def digest(database: ScratchDatabase) -> list[str]:
    query = "SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM public.{} t"
    return [database.execute(query.format(table))[0][0] for table in TABLES]


@pytest.fixture
def shop(database: ScratchDatabase) -> ScratchDatabase:
    assert load(database.dsn)
    return database


def test_the_shop_is_loaded_once_and_has_long_texts(shop: ScratchDatabase):
    before = digest(shop)
    assert not load(shop.dsn)
    assert digest(shop) == before
    rows = [shop.execute(f"SELECT count(*) FROM public.{table}")[0][0] for table in TABLES]
    assert 95_000 < sum(rows) < 110_000
    for table, column in (
        ("customers", "biography"),
        ("products", "description"),
        ("orders", "note"),
    ):
        assert shop.execute(TOASTED.format(table=table, column=column))[0][0] > 1000


def test_every_action_changes_something(shop: ScratchDatabase):
    rng = random.Random(1)
    written = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_xact_user_tables"
    with psycopg.connect(shop.dsn) as session:
        for action in ACTIONS:
            action(session, rng)
            assert session.execute(written).fetchone()[0] > 0, action.__name__
            session.rollback()


def test_workers_change_the_shop_until_they_are_stopped(shop: ScratchDatabase):
    workload = Workload(shop.dsn, seed=3, workers=3)
    with workload:
        workload.wait_for(300)
    counts = workload.counts
    assert counts.rolled_back
    assert counts.refused < counts.committed / 4
    after = digest(shop)
    assert digest(shop) == after


def test_a_table_is_altered_again_and_again(shop: ScratchDatabase):
    rng, seen = random.Random(1), []
    columns = (
        "SELECT array_agg(attname || ' ' || format_type(atttypid, atttypmod) ORDER BY attnum)"
        " FROM pg_attribute WHERE attrelid = 'public.products'::regclass"
        " AND attnum > 10 AND NOT attisdropped"
    )
    with psycopg.connect(shop.dsn, autocommit=True) as session:
        for _ in range(12):
            alter(session, rng)
            ((found,),) = shop.execute(columns)
            seen.append(found)
    assert seen[:6] == [
        ["rating numeric(4,2)"],
        ["score numeric(4,2)"],
        ["score numeric(8,2)"],
        ["score numeric(8,2)", "supplier character varying(20)"],
        ["score numeric(8,2)", "supplier character varying(60)"],
        None,
    ]
    assert seen[6:] == seen[:6]


def test_the_first_worker_alters_a_table_now_and_then(shop: ScratchDatabase):
    workload = Workload(shop.dsn, seed=3, workers=2, transactions_per_alteration=40)
    with workload:
        workload.wait_for(400)
    assert workload.counts.altered >= 2


def test_a_worker_that_loses_its_session_fails_the_stop(shop: ScratchDatabase):
    workload = Workload(shop.dsn, workers=1).start()
    while not shop.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shop'"
        " AND datname = current_database()"
    ):
        pass
    with pytest.raises(psycopg.OperationalError):
        workload.stop()


def test_a_database_is_created_once(shop: ScratchDatabase):
    create_database(shop.dsn, shop.name)
