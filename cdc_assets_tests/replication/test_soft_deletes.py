"""Rows that are deleted stay in the mirror, marked with what deleted them."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest
from dagster import AssetKey

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import TableName
from cdc_assets.orchestration.metadata import table_metadata
from cdc_assets.progress import BucketBackfilled, TableCompared
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.replication.resync import resync
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.ledger import TABLES, Overlapping, Writer, create_ledger
from cdc_assets_tests.shaping import functions
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, query, sync_all, sync_once

pytestmark = pytest.mark.usefixtures("small")

T = TableName("public", "t")
# Of every key that a change table has: its last row, if it is gone, and what has ended it
_GONE = """
WITH events AS (
    SELECT *, {key} AS _key, true AS _there FROM {changes}
    WHERE _cdc_op NOT IN ('delete', 'truncate')
    UNION ALL
    SELECT *, {old_key}, false FROM {changes}
    WHERE _cdc_before IS NOT NULL AND ({old_key} IS DISTINCT FROM {key} OR _cdc_op = 'delete')
    UNION ALL
    SELECT truncation.*, keys._key, false FROM {changes} AS truncation,
        (SELECT DISTINCT {key} AS _key FROM {changes}
            WHERE _cdc_op NOT IN ('delete', 'truncate')) AS keys
    WHERE truncation._cdc_op = 'truncate'
), ordered AS (
    SELECT *, lag(_there) OVER (
        PARTITION BY _key ORDER BY _cdc_lsn, _cdc_seq, _there
    ) AS _before, row_number() OVER (
        PARTITION BY _key ORDER BY _cdc_lsn DESC, _cdc_seq DESC, _there DESC
    ) AS _from_end FROM events
), last_ended AS (
    SELECT _key, max((_cdc_lsn, _cdc_seq, _cdc_commit_ts)) FILTER (NOT _there AND _before) AS ended,
        arg_max({row}, (_cdc_lsn, _cdc_seq)) FILTER (_there) AS last FROM ordered GROUP BY _key
)
SELECT _key, ended[1], ended[3], last FROM last_ended
WHERE _key IN (SELECT _key FROM ordered WHERE _from_end = 1 AND NOT _there) ORDER BY ALL
"""
KEYS = {
    "public.accounts": ("id",),
    "public.Notes": ('"Key"',),
    "public.lines": ("account", "line"),
}
_ROWS = {
    "public.accounts": "row(id, owner, balance, body)",
    "public.Notes": 'row("Key", "Body", "At")',
    "public.lines": "row(account, line, amount)",
}


@pytest.fixture
def made(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int, body text);"
        " ALTER TABLE t ALTER body SET STORAGE EXTERNAL;"
        " INSERT INTO t SELECT i, i, repeat(md5(i::text), 90) FROM generate_series(1, 150) i;"
        " CREATE TABLE plain (id int PRIMARY KEY)"
    )
    return pipeline("public.t", "public.plain", schema_changes="stop")


@pytest.fixture
def config(made: PipelineConfig) -> PipelineConfig:
    return soft(made)


def soft(config: PipelineConfig, **more: Any) -> PipelineConfig:
    """Have tables keep deleted rows."""
    names = [str(one) for one in config.table_names if one.name != "plain"]
    tables = [{"source": name, "deletes": "soft", **more} for name in names]
    if len(names) < len(config.table_names):
        tables.append({"source": "public.plain"})
    return load_config(rewrite(config, tables=tables))


def gone(config: PipelineConfig, columns: str = "id") -> list[tuple[Any, ...]]:
    """Read what is marked deleted, sorted."""
    return query(config, f"SELECT {columns} FROM public.t WHERE _cdc_deleted ORDER BY ALL")


def compare(config: PipelineConfig) -> TableCompared:
    """Compare the table with its source."""
    (found,) = [
        event for event in reconcile(config, tables=[T]) if isinstance(event, TableCompared)
    ]
    return found


def written(config: PipelineConfig, sql: str) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(sql)


def test_a_deleted_row_stays_and_comes_back(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    assert gone(config) == []
    database.execute("DELETE FROM t WHERE id IN (1, 2)")
    finished = converge(database, config)
    assert [(one.row_count, one.deleted_rows) for one in finished.tables] == [(148, 2), (0, None)]
    shown = table_metadata(finished.tables[0], {T: AssetKey("t")})
    schema = shown["dagster/column_schema"].value
    assert schema.columns[-1].name == "_cdc_deleted"
    ((lsn, at),) = set(gone(config, "_cdc_lsn, _cdc_commit_ts"))
    assert finished.start_lsn < lsn <= finished.confirmed_lsn
    assert at is not None
    assert gone(config, "id, length(body)") == [(1, 2880), (2, 2880)]
    database.execute("INSERT INTO t VALUES (1, 5, 'back')")
    converge(database, config)
    assert gone(config, "id, _cdc_lsn") == [(2, lsn)]
    assert query(config, "SELECT n, body FROM public.t WHERE id = 1") == [(5, "back")]


def test_what_a_row_was_last_is_kept(database: ScratchDatabase, config: PipelineConfig) -> None:
    """Whether its last changes come in one window or in several."""
    converge(database, config)
    with database.connect() as connection:
        connection.autocommit = True
        for sql in (
            "UPDATE t SET n = 1000 WHERE id = 1",
            "DELETE FROM t WHERE id = 1",
            "INSERT INTO t VALUES (900, 1, 'short')",
            "DELETE FROM t WHERE id = 900",
            "UPDATE t SET id = 901, n = 7 WHERE id = 3",
            "UPDATE t SET id = 902 WHERE id = 901",
            "INSERT INTO t VALUES (3, 8, 'again')",
            "DELETE FROM t WHERE id = 3",
        ):
            connection.execute(sql)
    converge(database, config)
    assert gone(config, "id, n, left(body, 6)") == [
        (1, 1000, "c4ca42"),
        (3, 8, "again"),
        (900, 1, "short"),
        (901, 7, "eccbc8"),
    ]


def test_truncations_mark_all_rows(database: ScratchDatabase, config: PipelineConfig) -> None:
    converge(database, config)
    database.execute("DELETE FROM t WHERE id = 1")
    converge(database, config)
    (before,) = gone(config, "_cdc_lsn")
    database.execute(
        "INSERT INTO t VALUES (900, 1, 'a'); TRUNCATE t; INSERT INTO t VALUES (901, 1, 'b'),"
        " (2, 2, 'c'); TRUNCATE t; TRUNCATE t; INSERT INTO t VALUES (5, 5, 'd')"
    )
    finished = converge(database, config)
    assert finished.tables[0].row_count == 1
    assert gone(config) == [(id_,) for id_ in [*range(1, 5), *range(6, 151), 900, 901]]
    assert (2, 2, "c") in gone(config, "id, n, body")
    lsns = dict(gone(config, "id, _cdc_lsn"))
    assert (lsns.pop(1),) == before
    assert len(set(lsns.values())) == 1
    assert (None,) not in gone(config, "_cdc_commit_ts")


def test_backfills_and_comparisons_see_live_rows_alone(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("DELETE FROM t WHERE id % 3 = 0; UPDATE t SET id = id + 500 WHERE id % 7 = 0")
    converge(database, config)
    dead = gone(config, "*")
    with at_step("chunk_committed", 1, lambda: database.execute("DELETE FROM t WHERE id = 1")):
        found = [one for one in backfill(config, T) if isinstance(one, BucketBackfilled)]
    assert sum(one.rows_inserted + one.rows_changed + one.rows_removed for one in found) == 0
    assert len(gone(config)) == len(dead) + 1
    compared = compare(config)
    assert compared.equal
    assert sum(bucket.warehouse_rows for bucket in compared.buckets) == 99
    written(
        config,
        "UPDATE public.t SET n = -1 WHERE id = 2; DELETE FROM public.t WHERE id = 4;"
        " UPDATE public.t SET _cdc_deleted = false WHERE id = 3;"
        " UPDATE public.t SET _cdc_deleted = true WHERE id = 5;"
        " INSERT INTO public.t SELECT * REPLACE (id + 3000 AS id) FROM public.t WHERE id = 2;"
        " INSERT INTO public.t SELECT * FROM public.t WHERE id IN (8, 3002)",
    )
    assert {key for (key,) in compare(config).keys} == {"2", "3", "3002", "4", "5", "8"}
    list(backfill(config, T))
    assert_equal_to_source(database, config)
    assert gone(config, "id, _cdc_commit_ts IS NULL") == sorted(
        [(id_, id_ == 3) for (id_, *_) in dead] + [(1, False), (3002, True)]
    )


def test_rows_that_cease_to_match_are_marked(
    database: ScratchDatabase, made: PipelineConfig
) -> None:
    config = soft(made, where="n <> 0")
    database.execute("UPDATE t SET n = 0 WHERE id = 2")
    converge(database, config)
    database.execute(
        "UPDATE t SET n = 0 WHERE id < 4; UPDATE t SET n = 9 WHERE id = 1; "
        "UPDATE t SET n = 3 WHERE id = 2"
    )
    converge(database, config)
    assert gone(config, "id, n, left(body, 6)") == [(3, 3, "eccbc8")]
    (before,) = gone(config, "_cdc_lsn")
    database.execute("UPDATE t SET n = 2 * n WHERE id = 3")
    database.execute("DELETE FROM t WHERE id = 3")
    converge(database, config)
    assert gone(config, "_cdc_lsn") == [before]
    for id_, first in ((7, "n = n + 100"), (8, "n = 0")):  # live in the batch, or in the mirror
        database.execute(f"UPDATE t SET {first} WHERE id = {id_}")
        database.execute(f"UPDATE t SET n = 0 WHERE id = {id_}")
        ((left,),) = database.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        database.execute(f"UPDATE t SET body = 'later' WHERE id = {id_}")
        database.execute(f"DELETE FROM t WHERE id = {id_}")
        sync_all(config)
        ((n, lsn),) = query(config, f"SELECT n, _cdc_lsn FROM public.t WHERE id = {id_}")
        assert n == (107 if id_ == 7 else 8)
        assert lsn <= left
    converge(database, config)


def test_rows_that_a_transform_drops_are_marked(
    database: ScratchDatabase, made: PipelineConfig
) -> None:
    database.execute(
        "ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE t ADD status text, ADD total bigint,"
        " ADD cost bigint; UPDATE t SET status = 'new', total = n, cost = 1"
    )
    config = soft(made, transform=f"{functions.MODULE}:shape_orders")
    sync_all(config)
    database.execute("UPDATE t SET cost = 9 WHERE id = 5; DELETE FROM t WHERE id = 4")
    sync_all(config)
    assert gone(config, "id, status, margin") == [(4, "NEW", 3), (5, "NEW", 4)]
    database.execute("UPDATE t SET cost = 2 WHERE id = 5")
    sync_all(config)
    assert compare(config).equal
    list(backfill(config, T))
    assert gone(config, "id, margin") == [(4, 3)]
    assert query(config, "SELECT margin FROM public.t WHERE id = 5") == [(3,)]


def test_a_mirror_that_somebody_wrote_is_still_found(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("DELETE FROM t WHERE id = 1")
    converge(database, config)
    for sql, change in (
        ("DELETE FROM public.t WHERE id = 2", "DELETE FROM t WHERE id = 2"),
        ("UPDATE public.t SET _cdc_deleted = true WHERE id = 3", "UPDATE t SET n = 0 WHERE id = 3"),
        ("UPDATE public.t SET _cdc_deleted = true WHERE id = 3", "DELETE FROM t WHERE id = 3"),
        (
            "INSERT INTO public.t SELECT * FROM public.t WHERE id = 5",
            "DELETE FROM t WHERE id = 5",
        ),
        (  # a row that is gone is there still, although the table was copied anew meanwhile
            "UPDATE public.t SET _cdc_deleted = false WHERE id = 1",
            "INSERT INTO t VALUES (1, 1, 'x')",
        ),
    ):
        written(config, sql)
        database.execute(change)
        assert "differs from the source" in errors_of(sync_once(config))["public.t"].message
        list(backfill(config, T))
        converge(database, config)


def test_deleted_rows_are_not_kept_without_a_mirror(made: PipelineConfig) -> None:
    with pytest.raises(ConfigError, match="marks rows of a mirror"):
        soft(made, keep=["changes"])


def test_switching_stops_the_table(database: ScratchDatabase, made: PipelineConfig) -> None:
    converge(database, made)
    config = soft(made)
    message = errors_of(sync_once(config))["public.t"].message
    assert message.endswith(
        "is shaped otherwise by the config now than when it was copied: deletes"
    )
    list(backfill(config, T))
    database.execute("DELETE FROM t WHERE id = 1")
    converge(database, config)
    assert gone(config) == [(1,)]
    hard = load_config(rewrite(config, tables=[{"source": "public.t"}, {"source": "public.plain"}]))
    assert "shaped otherwise" in errors_of(sync_once(hard))["public.t"].message
    list(backfill(hard, T))
    converge(database, hard)
    assert len(mirror_rows(hard, "public.t")) == 149


def test_deleted_rows_outlive_a_copy_of_the_whole(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    """One that replaces the mirror, and one that is compared with it; a killed one changes none."""
    converge(database, config)
    database.execute("DELETE FROM t WHERE id = 1")
    converge(database, config)
    before = gone(config, "id, n, left(body, 6), _cdc_lsn, _cdc_commit_ts")
    database.execute("ALTER TABLE t ADD more text; UPDATE t SET more = 'x' WHERE id = 3")
    assert set(errors_of(sync_once(config))) == {"public.t"}
    database.execute("DELETE FROM t WHERE id IN (2, 3)")
    assert kill_at(config, "copy_staged", 1, work="backfill t")
    assert gone(config, "id, n, left(body, 6), _cdc_lsn, _cdc_commit_ts") == before
    list(backfill(config, T))
    converge(database, config)
    columns = "id, n, left(body, 6), _cdc_lsn, _cdc_commit_ts"
    assert gone(config, columns)[:1] == before
    assert gone(config, "id, more, _cdc_commit_ts IS NULL") == [
        (1, None, False),
        (2, None, True),
        (3, None, True),
    ]
    before = gone(config, "*")
    written(config, "DELETE FROM public.t WHERE id = 5")
    database.execute("DELETE FROM t WHERE id = 5; DELETE FROM t WHERE id = 6")
    assert set(errors_of(sync_once(config))) == {"public.t"}
    list(backfill(config, T))
    converge(database, config)
    assert gone(config, "*")[:3] == before
    assert gone(config, "id, _cdc_commit_ts IS NULL")[3:] == [(6, True)]


def test_deleted_rows_outlive_the_slot(database: ScratchDatabase, config: PipelineConfig) -> None:
    converge(database, config)
    database.execute("DELETE FROM t WHERE id = 1")
    converge(database, config)
    before = gone(config, "*")
    database.execute("SELECT pg_drop_replication_slot(%s)", [config.source.slot])
    database.execute("DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (900, 1, 'a')")
    list(resync(config))
    converge(database, config)
    assert gone(config, "*")[:1] == before
    assert gone(config, "id, _cdc_commit_ts IS NULL") == [(1, False), (2, True)]


def test_what_is_masked_later_is_not_kept(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("DELETE FROM t WHERE id = 1")
    converge(database, config)
    masked = soft(config, mask={"body": "sha256"})
    assert set(errors_of(sync_once(masked))) == {"public.t"}
    database.execute("DELETE FROM t WHERE id = 2")
    list(backfill(masked, T))
    database.execute("DELETE FROM t WHERE id = 3")
    converge(database, masked)
    assert gone(masked, "id, length(body)") == [(3, 64)]


def assert_gone_as_recorded(config: PipelineConfig, *, whole: bool = False) -> int:
    """Fail unless deleted rows are those that the change tables say, with what ended them.

    Args:
        config: The pipeline, which keeps changes of the ledger's tables.
        whole: Whether every change carries all values, so that it tells the rows as well.
    """
    count = 0
    for table, key in KEYS.items():
        name = TableName.parse(table)
        changes = TableName(name.schema, f"{name.name}__changes")
        old_key = ", ".join(f"_cdc_before.{column}" for column in key)
        row = f"row({', '.join(key)})"
        values = _ROWS[table] if whole else "row(0)"
        told = query(
            config,
            _GONE.format(changes=changes.sql, key=row, old_key=f"row({old_key})", row=values),
        )
        kept = query(
            config,
            f"SELECT {row}, _cdc_lsn, _cdc_commit_ts, {values} FROM {name.sql} WHERE _cdc_deleted"
            " ORDER BY ALL",
        )
        assert kept == told, table
        count += len(kept)
    return count


@pytest.mark.parametrize("seed", range(3))
def test_random_transactions(database: ScratchDatabase, pipeline: MakePipeline, seed: int) -> None:
    """Live rows are the source's; deleted ones are all that ever were, with the last deletion."""
    create_ledger(database)
    config = soft(pipeline(*TABLES, schema_changes="stop"), keep=["mirror", "changes"])
    converge(database, config)
    writer = Writer(database, seed)
    for number in range(4):
        writer.commit(40)
        if number == seed:
            database.execute(
                "INSERT INTO lines VALUES (9000, 1, 1); TRUNCATE lines, accounts;"
                " INSERT INTO accounts SELECT n, 'anew', n, repeat(md5(n::text), 90)"
                " FROM generate_series(1, 200) n; INSERT INTO lines VALUES (9000, 1, 2)"
            )
            writer.commit(40)
        converge(database, config)
        assert assert_gone_as_recorded(config) > 20


@pytest.mark.parametrize("wheres", [("true",) * 3, ("balance > 10", 'length("Body") > 10', "true")])
def test_random_transactions_with_whole_old_rows(
    database: ScratchDatabase, pipeline: MakePipeline, wheres: tuple[str, ...]
) -> None:
    """What a row was last is kept, or what it was when it last matched."""
    create_ledger(database)
    for table in TABLES:
        database.execute(f"ALTER TABLE {TableName.parse(table).sql} REPLICA IDENTITY FULL")
    tables = [
        {"source": table, "deletes": "soft", "where": where, "keep": ["mirror", "changes"]}
        for table, where in zip(TABLES, wheres, strict=True)
    ]
    config = load_config(rewrite(pipeline(*TABLES, schema_changes="stop"), tables=tables))
    converge(database, config)
    writer = Writer(database, 5)
    for _ in range(3):
        writer.commit(40)
        converge(database, config)
        assert assert_gone_as_recorded(config, whole=True) > 20


@pytest.mark.parametrize("seed", range(2))
def test_random_rows_that_cease_to_match(
    database: ScratchDatabase, pipeline: MakePipeline, seed: int
) -> None:
    """Live rows are those that match, although rows have to be read anew."""
    create_ledger(database)
    wheres = ("balance > 10", 'length("Body") > 10', "line % 2 = 0")
    tables = [
        {"source": table, "deletes": "soft", "where": where}
        for table, where in zip(TABLES, wheres, strict=True)
    ]
    config = load_config(rewrite(pipeline(*TABLES, schema_changes="stop"), tables=tables))
    writer = Writer(database, seed)
    for step in ("before_commit", "window_committed"):
        writer.commit(15)
        kill_at(config, step, 2)  # type: ignore[arg-type]
        writer.commit(15)
        with at_step("window_committed", 1, lambda: writer.commit(3)):
            sync_all(config)
        database.execute("TRUNCATE lines; UPDATE accounts SET balance = -balance WHERE id % 9 = 0")
        for table in config.table_names:
            with at_step("chunk_committed", 1, lambda: writer.commit(3)):
                list(backfill(config, table))
    converge(database, config)
    for table, key in KEYS.items():
        one_each = f"SELECT count(*) - count(DISTINCT row({', '.join(key)})) FROM "
        assert query(config, one_each + TableName.parse(table).sql) == [(0,)]


@pytest.mark.parametrize("seed", range(2))
def test_random_transactions_beside_copies_and_kills(
    database: ScratchDatabase, pipeline: MakePipeline, seed: int
) -> None:
    create_ledger(database)
    config = soft(pipeline(*TABLES, schema_changes="stop"), keep=["mirror", "changes"])
    sync_all(config)
    writer = Writer(database, seed)
    for step in ("table_applied", "before_commit", "window_committed"):
        writer.commit(15)
        kill_at(config, step, 2)  # type: ignore[arg-type]
        with Overlapping(database, seed, sessions=3) as sessions:
            sessions.go_on(100)
        with at_step("window_committed", 1, lambda: writer.commit(3)):
            sync_all(config)
        for table in config.table_names:
            with at_step("chunk_committed", 1, lambda: writer.commit(3)):
                list(backfill(config, table))
        kill_at(config, "copy_staged", 1, work="backfill lines")
        list(backfill(config, TableName("public", "lines")))
    converge(database, config)
    assert assert_gone_as_recorded(config) > 20
