"""What is kept beside a mirror says what it does not know: of pauses, and past its end."""

from __future__ import annotations

import json
from datetime import timedelta

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName, quote
from cdc_assets.lsn import LSN
from cdc_assets.operations.removal import teardown
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.resync import resync
from cdc_assets.source.setup import setup
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, kept, query
from cdc_assets_tests.versions import assert_current_as_mirrors


@pytest.fixture
def ledger(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    create_ledger(database)
    return kept(pipeline(*TABLES), ["mirror", "changes", "history"])


def test_how_a_table_was_while_it_was_not_followed_is_not_known(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    database.execute("UPDATE lines SET amount = 5")
    converge(database, ledger)
    ((stopped, at),) = query(
        ledger,
        "SELECT max(_cdc_valid_from_lsn), max(_cdc_valid_from) FROM public.lines__history",
    )
    database.execute("UPDATE lines SET amount = 6")
    lose_changes(database, ledger)
    database.execute("DELETE FROM lines WHERE account = 1")
    for table in TABLES:
        list(backfill(ledger, TableName.parse(table)))
    converge(database, ledger)

    ((goes_on, later),) = query(
        ledger, "SELECT max(_cdc_valid_from_lsn), max(_cdc_valid_from) FROM public.lines__history"
    )
    ((least,),) = query(
        ledger, "SELECT from_lsn FROM _cdc.record_gaps WHERE name = 'public.lines__history'"
    )
    assert stopped <= least < goes_on
    amounts = "SELECT DISTINCT amount FROM public.lines__as_of"
    assert query(ledger, f"{amounts}_lsn({least})") == [(5,)]
    assert query(ledger, f"{amounts}_lsn({goes_on})") == [(6,)]
    for unknown in (f"_lsn({least + 1})", f"_lsn({goes_on - 1})"):
        with pytest.raises(duckdb.Error, match="was not followed then"):
            query(ledger, amounts + unknown)
    assert query(ledger, f"{amounts}(TIMESTAMPTZ '{later.isoformat()}')") == [(6,)]
    before = at - timedelta(microseconds=1)
    assert query(ledger, f"{amounts}(TIMESTAMPTZ '{before.isoformat()}')") != [(5,)]
    with pytest.raises(duckdb.Error, match="was not followed then"):
        query(ledger, f"{amounts}(TIMESTAMPTZ '{at.isoformat()}' + INTERVAL 1 microsecond)")
    gaps = "SELECT count(*) FROM _cdc.record_gaps WHERE name LIKE '%changes' AND to_lsn > from_lsn"
    assert query(ledger, gaps) == [(len(TABLES),)]


def test_a_history_that_has_ended_knows_nothing_past_its_end(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    database.execute("UPDATE lines SET amount = 5")
    converge(database, ledger)
    ((until, at),) = query(
        ledger, "SELECT max(_cdc_valid_from_lsn), max(_cdc_valid_from) FROM public.lines__history"
    )
    ledger = kept(ledger, ["mirror"])
    database.execute("UPDATE lines SET amount = 6")
    converge(database, ledger)

    amounts = "SELECT DISTINCT amount FROM public.lines__as_of"
    assert query(ledger, f"{amounts}_lsn({until})") == [(5,)]
    before = at - timedelta(microseconds=1)
    assert query(ledger, f"{amounts}(TIMESTAMPTZ '{before.isoformat()}')") != [(5,)]
    ((lsn,),) = query(ledger, "SELECT max(lsn) FROM _cdc.checkpoints")
    for later in (f"_lsn({lsn})", "(now())"):
        with pytest.raises(duckdb.Error, match="was not followed then"):
            query(ledger, amounts + later)


def test_a_history_that_is_set_aside_ends_where_its_table_stopped(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    ((stopped,),) = query(
        ledger, "SELECT lsn FROM _cdc.checkpoints WHERE source_table = 'public.lines'"
    )
    database.execute("UPDATE lines SET amount = 6")
    lose_changes(database, ledger)
    with duckdb.connect(str(ledger.warehouse_path)) as warehouse:
        warehouse.execute("ALTER TABLE public.lines__history ADD mine int")
    for table in TABLES:
        list(backfill(ledger, TableName.parse(table)))
    converge(database, ledger)

    ((name, until),) = query(
        ledger,
        "SELECT name, until_lsn FROM _cdc.histories WHERE source_table = 'public.lines'"
        " AND until_lsn IS NOT NULL",
    )
    assert (name, until) == (
        f"public.lines__history__until_{LSN(stopped)}".replace("/", "_"),
        stopped,
    )
    assert_current_as_mirrors(ledger)
    assert query(ledger, "SELECT DISTINCT amount FROM public.lines__as_of(now())") == [(6,)]


@pytest.mark.parametrize("what", ["another server", "an older state"])
def test_records_of_another_source_are_set_aside(
    database: ScratchDatabase, ledger: PipelineConfig, what: str
) -> None:
    converge(database, ledger)
    Writer(database, seed=25).commit(20)
    converge(database, ledger)
    with duckdb.connect(str(ledger.warehouse_path)) as warehouse:
        ((text,),) = warehouse.execute(
            "SELECT any_value(identity) FROM _cdc.checkpoints"
        ).fetchall()
        identity = json.loads(text)
        if what == "another server":
            identity["system_identifier"] = "1"
        else:
            identity["timeline"] += 1
            warehouse.execute("UPDATE _cdc.checkpoints SET lsn = lsn + 1_000_000_000")
        warehouse.execute("UPDATE _cdc.checkpoints SET identity = ?", [json.dumps(identity)])
    list(resync(ledger))
    converge(database, ledger)

    for noted in ("change_tables", "histories"):
        ended = query(ledger, f"SELECT until_lsn IS NULL, count(*) FROM _cdc.{noted} GROUP BY 1")
        assert sorted(ended) == [(False, len(TABLES)), (True, len(TABLES))]
    assert_current_as_mirrors(ledger)


def lose_changes(database: ScratchDatabase, config: PipelineConfig) -> None:
    """Let the slot pass what was not applied."""
    database.execute(
        "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [config.source.slot]
    )


def test_a_teardown_leaves_no_macros(database: ScratchDatabase, ledger: PipelineConfig) -> None:
    converge(database, ledger)
    teardown(ledger, drop_tables=True)

    assert query(ledger, "SELECT function_name FROM duckdb_functions() WHERE NOT internal") == []


def test_a_history_that_begins_again_does_not_know_of_gaps_of_another(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    teardown(ledger)
    with duckdb.connect(str(ledger.warehouse_path)) as warehouse:
        with pytest.raises(duckdb.Error, match="was not followed then"):
            warehouse.execute("FROM public.lines__as_of(now())")
        for table in TABLES:
            name = TableName.parse(table)
            for kept_as in ("", "__changes", "__history"):
                warehouse.execute(f"DROP TABLE {quote(name.schema)}.{quote(name.name + kept_as)}")
    setup(ledger)
    converge(database, ledger)

    assert len(query(ledger, "FROM public.lines__as_of(now())")) == len(
        query(ledger, "FROM public.lines")
    )
