"""A reconcile finds every difference with its bucket, and under any load none that is not there."""

from __future__ import annotations

from collections.abc import Collection

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.progress import TableCompared
from cdc_assets.replication import beside_syncs
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.copying import Copying
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.replication.session import Session
from cdc_assets.source.snapshot import SnapshotReader
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.interrupting import make_small
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

T = TableName("public", "t")


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text, n int)")
    database.execute("INSERT INTO t SELECT i, 'a' || i, i % 7 FROM generate_series(1, 400) i")
    config = pipeline("public.t", schema_changes="stop")
    converge(database, config)
    return config


def compared(
    config: PipelineConfig,
    tables: Collection[TableName] | None = None,
    *,
    sample: float = 1.0,
    repair: bool = False,
) -> list[TableCompared]:
    events = reconcile(config, tables=tables, sample=sample, repair=repair)
    return [event for event in events if isinstance(event, TableCompared)]


def write(config: PipelineConfig, sql: str) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(f"SET search_path = 'public'; {sql}")


def test_equal_tables_are_equal_bucket_by_bucket(config: PipelineConfig) -> None:
    (table,) = compared(config)
    assert table.equal
    assert [bucket.bucket for bucket in table.buckets] == [f"{at:02}" for at in range(8)]
    assert sum(bucket.source_rows for bucket in table.buckets) == 400
    assert sum(bucket.warehouse_rows for bucket in table.buckets) == 400
    assert len({bucket.at_lsn for bucket in table.buckets}) == 1
    assert (table.columns, table.keys, table.not_compared) == ((), (), "")


@pytest.mark.parametrize(
    ("sql", "found", "columns"),
    [
        ("UPDATE t SET a = 'wrong', n = NULL WHERE id = 399", (0, 0, 1), ("a", "n")),
        ("DELETE FROM t WHERE id = 399", (1, 0, 0), ()),
        ("INSERT INTO t SELECT 500, a, n, _cdc_lsn, NULL FROM t LIMIT 1", (0, 1, 0), ()),
        ("INSERT INTO t SELECT * FROM t WHERE id = 399", (0, 1, 0), ()),
    ],
    ids=["changed", "removed", "added", "doubled"],
)
def test_one_row_that_differs_is_found_in_its_bucket(
    database: ScratchDatabase,
    config: PipelineConfig,
    sql: str,
    found: tuple[int, int, int],
    columns: tuple[str, ...],
) -> None:
    write(config, sql)
    for repair in (False, True):
        (table,) = compared(config, repair=repair)
        assert not table.equal
        assert table.repaired is repair
        (bucket,) = [bucket for bucket in table.buckets if not bucket.equal]
        assert bucket.bucket == "07"
        assert (bucket.missing, bucket.extra, bucket.different) == found
        assert table.columns == columns
        assert table.keys in ((("399",),), (("500",),))
    assert_equal_to_source(database, config)
    assert compared(config)[0].equal


@pytest.mark.parametrize("kind", ["real", "double precision", "double precision[]"])
def test_a_zero_without_its_sign_is_found_and_a_nan_is_not(
    database: ScratchDatabase, pipeline: MakePipeline, kind: str
) -> None:
    listed = "{%s}" if kind.endswith("[]") else "%s"
    in_mirror = "[{}]" if kind.endswith("[]") else "{}"
    database.execute(f"CREATE TABLE f (id int PRIMARY KEY, v {kind})")
    values = ["-0", "NaN", "0", "-1"]
    for at, value in enumerate(values):
        database.execute(f"INSERT INTO f VALUES ({at}, '{listed % value}')")
    database.execute("INSERT INTO f VALUES (9, NULL)")
    config = pipeline("public.f", schema_changes="stop")
    converge(database, config)
    assert compared(config)[0].equal

    zero, negative_nan = in_mirror.format("0"), in_mirror.format("-('NaN'::DOUBLE)")
    for at, value in enumerate(
        [zero, negative_nan]
    ):  # an UPDATE may leave equal values as they are
        row = f"SELECT id, {value}, _cdc_lsn, _cdc_commit_ts FROM f WHERE id = {at}"
        write(
            config,
            f"CREATE TEMP TABLE one AS {row}; DELETE FROM f WHERE id = {at};"
            " INSERT INTO f SELECT * FROM one",
        )
    for repair in (False, True):
        (table,) = compared(config, repair=repair)
        assert (table.keys, table.columns) == ((("0",),), ("v",))
    assert compared(config)[0].equal


def test_a_rate_holds_for_reconciles(
    config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = list[int | None]()

    class Observed(Copying):
        def __init__(
            self,
            session: Session,
            reader: SnapshotReader,
            table: TableName,
            *,
            part: str = "",
            rows_per_second: int | None = None,
        ) -> None:
            super().__init__(session, reader, table, part=part, rows_per_second=rows_per_second)
            rates.append(rows_per_second)

    monkeypatch.setattr(beside_syncs, "Copying", Observed)
    (table,) = config.tables
    limited = table.backfill.model_copy(update={"max_rows_per_second": 4000})
    slow = config.model_copy(update={"tables": [table.model_copy(update={"backfill": limited})]})
    assert compared(slow)[0].equal
    assert set(rates) == {4000}


def test_a_sample_is_of_buckets(config: PipelineConfig) -> None:
    (table,) = compared(config, sample=0.25)
    assert len(table.buckets) == 2
    assert table.equal


def test_a_key_that_is_text_is_not_shown(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute("CREATE TABLE s (id text PRIMARY KEY); INSERT INTO s VALUES ('canary')")
    config = pipeline("public.s", schema_changes="stop")
    converge(database, config)
    write(config, "DELETE FROM s")
    (table,) = compared(config)
    assert (table.equal, table.keys) == (False, ())


def test_a_table_that_stands_still_is_not_called_different(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("ALTER TABLE t ADD COLUMN more int; INSERT INTO t VALUES (900)")
    sync_once(config)
    (table,) = compared(config)
    assert "can't be compared" in table.not_compared
    assert not table.buckets
    for _ in backfill(config, T):
        pass
    assert compared(config)[0].equal


@pytest.mark.parametrize("ddl", ["ADD COLUMN more int", "ALTER a TYPE text USING upper(a)"])
def test_a_table_that_the_next_sync_follows_is_said_to_be_one(
    database: ScratchDatabase, pipeline: MakePipeline, ddl: str
) -> None:
    database.execute("CREATE TABLE s (id int PRIMARY KEY, a text); INSERT INTO s VALUES (1, 'x')")
    config = pipeline("public.s")
    converge(database, config)
    database.execute(f"ALTER TABLE s {ddl}")
    (table,) = compared(config)
    assert "was altered on the source" in table.not_compared
    assert table.hint == "run 'cdc-assets sync', which follows"
    converge(database, config)
    (table,) = compared(config)
    assert table.equal


@pytest.mark.parametrize(
    "silent",
    [
        "ALTER TABLE elsewhere.named RENAME TO called",
        "CREATE TABLE p2 PARTITION OF p DEFAULT; INSERT INTO p VALUES (90); DROP TABLE p2",
        "ALTER TABLE t SET SCHEMA elsewhere; DELETE FROM elsewhere.t WHERE id = 3;"
        "ALTER TABLE elsewhere.t SET SCHEMA public",
    ],
)
def test_what_leaves_no_trace_on_the_slot_is_found(
    database: ScratchDatabase, pipeline: MakePipeline, silent: str
) -> None:
    database.execute("CREATE SCHEMA elsewhere CREATE TABLE named (id int)")
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text, r regclass)")
    database.execute("INSERT INTO t SELECT i, 'a', 'elsewhere.named' FROM generate_series(1, 9) i")
    database.execute("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    for at in (0, 1):
        database.execute(
            f"CREATE TABLE p{at} PARTITION OF p FOR VALUES FROM ({at * 10}) TO ({at * 10 + 10})"
        )
    database.execute("INSERT INTO p SELECT generate_series(0, 19)")
    config = pipeline("public.t", "public.p", schema_changes="stop")
    name = config.source.publication
    database.execute(f"ALTER PUBLICATION {name} SET TABLES IN SCHEMA public")
    database.execute(f"ALTER PUBLICATION {name} SET (publish_via_partition_root = true)")
    converge(database, config)
    for statement in silent.split(";"):
        database.execute(statement)
    sync_once(config)
    found = compared(config)
    assert not all(table.equal for table in found)
    for table in found:
        if not table.equal:
            for _ in backfill(config, table.table):
                pass
    converge(database, config)
    assert all(table.equal for table in compared(config))


def test_what_a_table_missed_while_it_was_unlogged_is_found(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    name = config.source.publication
    database.execute(f"DROP PUBLICATION {name}; CREATE PUBLICATION {name} FOR ALL TABLES")
    list(backfill(config, T))
    converge(database, config)
    database.execute("ALTER TABLE t SET UNLOGGED")
    database.execute("DELETE FROM t WHERE id = 3; UPDATE t SET n = 99 WHERE id = 399")
    database.execute("ALTER TABLE t SET LOGGED")
    sync_once(config)
    (table,) = compared(config)
    assert not table.equal
    assert [bucket.bucket for bucket in table.buckets if not bucket.equal] == ["00", "07"]
    list(backfill(config, T))
    converge(database, config)


@pytest.mark.parametrize("sample", [1.0, 0.3])
@pytest.mark.parametrize("repair", [False, True])
def test_a_mirror_that_does_not_fit_the_stream_is_not_compared(
    database: ScratchDatabase, config: PipelineConfig, sample: float, repair: bool
) -> None:
    """A look leaves it as it is; a repair copies it anew."""
    write(config, "DELETE FROM t")
    database.execute("UPDATE t SET a = 'later'")
    (table,) = compared(config, sample=sample, repair=repair)
    assert (table.equal, table.repaired) == (False, repair)
    assert "update or delete rows that it lacks" in table.not_compared
    if repair:
        assert_equal_to_source(database, config)
        assert compared(config)[0].equal
    else:
        assert mirror_rows(config, "public.t") == []
        assert "differs from the source" in str(errors_of(sync_once(config))["public.t"])


def test_a_table_that_is_being_copied_is_not_called_different(
    database: ScratchDatabase, config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch.setattr)
    database.execute("ALTER TABLE t ADD COLUMN more int")
    events = backfill(config, T)
    next(events)
    events.close()
    (table,) = compared(config)
    assert table.not_compared == "table 'public.t' can't be compared: it is being copied"
    assert not table.equal
    list(backfill(config, T))
    converge(database, config)
    assert compared(config)[0].equal


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_under_load_nothing_is_called_different_that_is_not(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    make_small(monkeypatch.setattr)
    if seed % 2:
        monkeypatch.setattr(beside_syncs, "TURN_SECONDS", 0)
    create_ledger(database)
    config = pipeline(*TABLES, schema_changes="stop")
    sync_once(config)
    with database.connect() as long, Writer(database, seed).running():
        long.autocommit = False
        long.execute("SAVEPOINT s; UPDATE accounts SET owner = 'long' WHERE id = 1")
        for round_ in range(2):
            assert [table.equal for table in compared(config)] == [True] * 3
            sync_once(config)
            if round_ == 0:
                long.execute("ROLLBACK TO s; UPDATE lines SET amount = 1 WHERE account < 3")
                long.commit()
    converge(database, config)
    write(
        config,
        'UPDATE "Notes" SET "Body" = NULL WHERE "Key" = (SELECT min("Key") FROM "Notes"'
        ' WHERE "Body" IS NOT NULL)',
    )
    (notes,) = [one for one in compared(config) if not one.equal]
    assert (str(notes.table), notes.columns) == ("public.Notes", ("Body",))
