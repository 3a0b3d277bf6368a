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
from cdc_assets.replication.rebuilding import rebuild
from cdc_assets.replication.resync import resync
from cdc_assets.source.setup import setup
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, errors_of, kept, query, sync_once
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
    now = "(SELECT upto_time FROM _cdc.reached WHERE source_table = 'public.lines')"
    assert query(ledger, f"SELECT DISTINCT amount FROM public.lines__as_of({now})") == [(6,)]


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

    now = "(SELECT since_time FROM _cdc.histories WHERE source_table = 'public.lines')"
    assert len(query(ledger, f"FROM public.lines__as_of({now})")) == len(
        query(ledger, "FROM public.lines")
    )


@pytest.mark.parametrize("keep", [["mirror", "changes"], ["mirror", "changes", "history"]])
def test_a_row_that_somebody_took_out_of_the_mirror_is_gone_when_the_source_deletes_it(
    database: ScratchDatabase, pipeline: MakePipeline, keep: list[str]
) -> None:
    """Copy and mirror are alike in it then, and neither says what the stream could not."""
    database.execute("CREATE TABLE t (id int, part int, v text, PRIMARY KEY (id, part))")
    database.execute("INSERT INTO t SELECT i, i % 2, 'v' || i FROM generate_series(1, 9) i")
    config = kept(pipeline("public.t"), keep)
    converge(database, config)
    database.execute("UPDATE t SET id = 30 WHERE id = 3; UPDATE t SET v = 'w' WHERE id = 4")
    converge(database, config)
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("DELETE FROM public.t WHERE id IN (5, 6, 30)")
    database.execute("UPDATE t SET v = 'x' WHERE id = 6; DELETE FROM t WHERE id IN (5, 30)")
    assert set(errors_of(sync_once(config))) == {"public.t"}

    list(backfill(config, TableName.parse("public.t")))
    converge(database, config)

    gone = (
        "SELECT _cdc_before.id, _cdc_before.part FROM public.t__changes"
        " WHERE _cdc_op = 'delete' AND _cdc_source = 'backfill' ORDER BY ALL"
    )
    assert query(config, gone) == [(5, 1), (30, 1)]
    list(rebuild(config, TableName.parse("public.t")))
    assert_equal_to_source(database, config)
