"""A backfill makes a table right beside a sync that goes on, and writes only what differs."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.config.tables import BackfillConfig
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets.progress import BucketBackfilled
from cdc_assets.replication import beside_syncs
from cdc_assets.replication.backfill import backfill
from cdc_assets.steps import Step, observers
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.interrupting import at_step, make_small
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

T = TableName("public", "t")
BUCKETS = tuple(f"{at:02}" for at in range(8))


@pytest.fixture(params=["at the end", "between chunks"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch.setattr)
    if request.param == "between chunks":
        monkeypatch.setattr(beside_syncs, "TURN_SECONDS", 0)


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text, n int)")
    database.execute("INSERT INTO t SELECT i, 'a' || i, i % 7 FROM generate_series(1, 500) i")
    database.execute("CREATE TABLE u (id int PRIMARY KEY)")
    config = pipeline("public.t", "public.u", schema_changes="stop")
    converge(database, config)
    return config


def backfilled(
    config: PipelineConfig,
    table: TableName = T,
    buckets: Collection[str] | None = None,
    where: str = "",
) -> list[BucketBackfilled]:
    events = backfill(config, table, buckets=buckets, where=where)
    return [event for event in events if isinstance(event, BucketBackfilled)]


def written(config: PipelineConfig, sql: str) -> None:
    """Write a mirror behind the product's back."""
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(f"SET search_path = 'public'; {sql}")


def counts(done: list[BucketBackfilled]) -> tuple[int, int, int]:
    return (
        sum(one.rows_inserted for one in done),
        sum(one.rows_changed for one in done),
        sum(one.rows_removed for one in done),
    )


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("buckets", [None, BUCKETS], ids=["whole", "buckets"])
def test_a_healthy_table_is_left_as_it_is(
    config: PipelineConfig, buckets: Collection[str] | None
) -> None:
    before = mirror_rows(config, "public.t")
    done = backfilled(config, buckets=buckets)
    assert [one.bucket for one in done] == list(buckets or [""])
    assert sum(one.rows_read for one in done) == 500
    assert counts(done) == (0, 0, 0)
    assert mirror_rows(config, "public.t") == before  # the LSN of every row, too


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("buckets", [None, BUCKETS], ids=["whole", "buckets"])
def test_what_somebody_did_to_a_mirror_is_undone(
    database: ScratchDatabase, config: PipelineConfig, buckets: Collection[str] | None
) -> None:
    untouched = mirror_rows(config, "public.t")[30:]
    written(config, "DELETE FROM t WHERE id IN (1, 2)")
    written(config, "UPDATE t SET a = 'wrong' WHERE id IN (3, 4, 5)")
    written(config, "UPDATE t SET a = NULL WHERE id = 6")
    written(config, "INSERT INTO t SELECT * FROM t WHERE id = 7")
    written(config, "INSERT INTO t SELECT 1000 + id, a, n, _cdc_lsn, _cdc_commit_ts FROM t LIMIT 2")
    done = backfilled(config, buckets=buckets)
    assert counts(done) == (2, 4, 3)
    assert_equal_to_source(database, config)
    assert mirror_rows(config, "public.t")[30:] == untouched
    converge(database, config)


def test_one_bucket_alone_is_made_right(database: ScratchDatabase, config: PipelineConfig) -> None:
    written(config, "UPDATE t SET a = 'wrong'; DELETE FROM t WHERE id % 2 = 0")
    (done,) = backfilled(config, buckets=["03"])
    assert done.low is not None
    assert done.high is not None
    low, high = int(done.low[0]), int(done.high[0])
    wrong = [row[0] for row in mirror_rows(config, "public.t", "id, a") if row[1] == "wrong"]
    assert [one for one in wrong if low < one <= high] == []
    assert done.rows_read == high - low == done.rows_inserted + done.rows_changed
    backfilled(config, buckets=BUCKETS)
    assert_equal_to_source(database, config)


@pytest.mark.parametrize(
    ("buckets", "where"), [(["03"], ""), (BUCKETS, ""), (None, "id > 490")], ids=str
)
def test_a_part_of_a_mirror_that_lacks_rows_which_are_written_meanwhile_ends_with_a_right_table(
    database: ScratchDatabase,
    config: PipelineConfig,
    buckets: Collection[str] | None,
    where: str,
) -> None:
    written(config, "DELETE FROM t WHERE id % 2 = 0")

    def touch() -> None:
        database.execute("UPDATE t SET a = 'new' WHERE id < 300; DELETE FROM t WHERE id = 2")

    with at_step("chunk_read", 1, touch):
        (done,) = backfilled(config, buckets=buckets, where=where)
    assert (done.bucket, done.rows_read) == ("", 499)
    assert_equal_to_source(database, config)
    converge(database, config)


def test_a_predicate_chooses_rows_of_the_source(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    written(config, "UPDATE t SET a = 'wrong' WHERE id < 20; DELETE FROM t WHERE id = 8")
    written(config, "INSERT INTO t SELECT 1000, a, 1, _cdc_lsn, _cdc_commit_ts FROM t LIMIT 1")
    (done,) = backfilled(config, where="n = 1 AND id <= 8")
    assert (done.bucket, done.rows_read) == ("", 2)
    assert counts([done]) == (1, 1, 0)
    left = [row[0] for row in mirror_rows(config, "public.t", "id, a") if row[1] == "wrong"]
    assert left == [*range(2, 8), *range(9, 20), 1000]
    assert mirror_rows(config, "public.t", "id")[-1] == (1000,)
    backfilled(config)
    assert_equal_to_source(database, config)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "where", ["n = 1 AND a LIKE '%1' -- a comment", "n > 6 OR n = 1 AND id < 90"]
)
def test_a_predicate_is_meant_as_it_stands_behind_where(
    database: ScratchDatabase, config: PipelineConfig, where: str
) -> None:
    ((expected,),) = database.execute(f"SELECT count(*) FROM t WHERE {where}\n")
    (done,) = backfilled(config, where=where)
    assert done.rows_read == expected


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("nothing = 1", "nothing"),
        ("n = ", "syntax error"),
        ("true); DROP TABLE t; --", ""),
        ("false) OR (n = 1", "syntax error"),
    ],
)
def test_a_predicate_that_is_none(
    database: ScratchDatabase, config: PipelineConfig, where: str, said: str
) -> None:
    with pytest.raises(ConfigError, match="is none that Postgres takes") as error:
        backfilled(config, where=where)
    assert said in error.value.message
    converge(database, config)


def test_a_bucket_that_is_none(config: PipelineConfig) -> None:
    with pytest.raises(ConfigError, match="has no bucket '9'"):
        backfilled(config, buckets=["9"])


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE t ADD COLUMN more int DEFAULT 5",
        "ALTER TABLE t DROP COLUMN a",
        "ALTER TABLE t ALTER n TYPE bigint",
        "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id, n)",
        "ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id)",
    ],
)
def test_a_table_that_was_altered_is_made_anew_while_readers_find_the_old_one(
    database: ScratchDatabase, config: PipelineConfig, ddl: str
) -> None:
    database.execute(f"{ddl}; INSERT INTO t (id, n) VALUES (600, 3); INSERT INTO u VALUES (1)")
    assert set(errors_of(sync_once(config))) == {"public.t"}
    seen = []
    with at_step("chunk_committed", 1, lambda: None):
        for _ in backfill(config, T):
            database.execute("INSERT INTO t (id, n) SELECT max(id) + 1, 1 FROM t")
            seen.append(True)
    assert seen
    converge(database, config)


def test_a_mirror_that_is_gone_is_made_anew(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    written(config, "DROP TABLE t")
    assert set(errors_of(sync_once(config))) == {"public.t"}
    (done,) = backfilled(config)
    assert counts([done]) == (500, 0, 0)
    converge(database, config)


def test_a_mirror_that_differs_is_repaired_in_place(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    written(config, "DELETE FROM t WHERE id = 3")
    database.execute("UPDATE t SET a = 'new' WHERE id = 3")
    assert set(errors_of(sync_once(config))) == {"public.t"}
    (done,) = backfilled(config)
    assert counts([done]) == (1, 0, 0)
    converge(database, config)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("buckets", [None, BUCKETS], ids=["whole", "buckets"])
def test_a_healthy_table_under_load_is_left_as_it_is(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    seed: int,
    buckets: Collection[str] | None,
) -> None:
    create_ledger(database)
    config = pipeline(*TABLES, schema_changes="stop")
    sync_once(config)
    with Writer(database, seed).running(), Writer(database, seed + 10).running():
        for table in config.table_names:
            done = backfilled(config, table, buckets=buckets)
            assert counts(done) == (0, 0, 0)
        sync_once(config)
    converge(database, config)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", [3, 4])
def test_a_wrong_mirror_under_load_is_made_right(
    database: ScratchDatabase, pipeline: MakePipeline, seed: int
) -> None:
    create_ledger(database)
    config = pipeline(*TABLES, schema_changes="stop")
    converge(database, config)
    written(config, "UPDATE accounts SET owner = 'wrong', body = 'wrong' WHERE id % 3 = 0")
    written(config, 'DELETE FROM "Notes" WHERE "Key" LIKE \'%5\'')
    written(config, "INSERT INTO lines SELECT 9999, 1, 1, _cdc_lsn, NULL FROM lines LIMIT 1")
    with Writer(database, seed).running():
        for table in config.table_names:
            backfilled(config, table)
            sync_once(config)
    converge(database, config)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("count", [2, 3, 12])
def test_another_number_of_buckets_goes_on_beside_what_was_begun(
    database: ScratchDatabase, config: PipelineConfig, count: int
) -> None:
    with closing(backfill(config, T, buckets=["01", "05"])) as events:
        next(events)
    written(config, "UPDATE t SET a = 'wrong' WHERE id % 50 = 0")
    (table, *others) = config.tables
    cut = table.model_copy(update={"backfill": BackfillConfig(buckets=count)})
    changed = config.model_copy(update={"tables": [cut, *others]})
    with pytest.raises(ConfigError, match=f"has no bucket '{count}'"):
        backfilled(changed, buckets=[str(count)])
    done = backfilled(changed, buckets=cut.backfill.bucket_names)
    assert [one.bucket for one in done] == list(cut.backfill.bucket_names)
    assert sum(one.rows_read for one in done) == 500
    assert counts(done) == (0, 10, 0)
    converge(database, changed)


def test_a_bucket_settles_whatever_is_written_elsewhere(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    """A change without its value, of a row that another bucket has, is not the bucket's matter."""
    database.execute(
        "CREATE TABLE b (id int PRIMARY KEY, n int, body text);"
        " ALTER TABLE b ALTER body SET STORAGE EXTERNAL;"
        " INSERT INTO b SELECT i, 0, repeat('x', 5000) FROM generate_series(1, 80) i"
    )
    config = pipeline("public.b", schema_changes="stop")
    converge(database, config)

    def write(_step: Step) -> None:
        database.execute("UPDATE b SET n = n + 1 WHERE id > 70")

    observers.append(write)
    try:
        (done,) = backfilled(config, TableName("public", "b"), buckets=["00"])
    finally:
        observers.remove(write)
    assert counts([done]) == (0, 0, 0)
    converge(database, config)


def test_a_bucket_of_a_table_that_was_never_copied_copies_it_whole(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    """Whether it waits for a backfill or for the next sync."""
    (table, *others) = config.tables
    waits = table.model_copy(update={"backfill": BackfillConfig(first="wait")})
    changed = config.model_copy(update={"tables": [waits, *others]})
    forget_tables(changed, [T])
    assert [one.phase for one in sync_once(changed).tables if one.table == T] == ["waiting"]
    done = backfilled(changed, buckets=["03", "05"])
    assert [(one.bucket, one.rows_inserted) for one in done] == [("", 500)]
    converge(database, changed)
