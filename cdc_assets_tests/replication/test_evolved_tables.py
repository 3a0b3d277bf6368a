"""What is kept of a table follows it when it is altered, at the right place in the stream."""

from __future__ import annotations

from typing import Any

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError
from cdc_assets.identifiers import TableName
from cdc_assets.progress import BucketBackfilled, SchemaChanged
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.sync import sync
from cdc_assets.steps import Step
from cdc_assets_tests.command_line import run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.interrupting import kill_at
from cdc_assets_tests.syncs import (
    converge,
    errors_of,
    kept,
    mirror_rows,
    query,
    sync_all,
    sync_once,
)
from cdc_assets_tests.waiting import wait_until_unlocked

ROWS = (
    "CREATE TABLE t (id int PRIMARY KEY, a varchar(20), b int); INSERT INTO t SELECT i, 'a' || i, i"
)
# DDL that the warehouse can follow in place, a row that fits the table afterwards, and an update
IN_PLACE = {
    "a column": ("ADD c int", "9, 'n', 1, 8", "c = 5"),
    "a column with a constant": ("ADD c text DEFAULT 'x y, \"z'", "9, 'n', 1, 'w'", "c = 'v'"),
    "a list": ("ADD c int[] DEFAULT '{1,NULL,3}'", "9, 'n', 1, '{4}'", "c = NULL"),
    "a number": ("ADD c numeric(12,3) NOT NULL DEFAULT 1.5", "9, 'n', 1, 2.25", "c = 7"),
    "a time": ("ADD c timestamptz DEFAULT '2020-02-02 02:02:02.5Z'", "9, 'n', 1, now()", "b = 3"),
    "bytes": (r"ADD c bytea DEFAULT '\x00ff5c22'", r"9, 'n', 1, '\x01'", "b = 3"),
    "a document": ('ADD c jsonb DEFAULT \'{"k": [1, "{"]}\'', "9, 'n', 1, '2'", "b = 3"),
    "several": ("ADD c int, ADD d bool DEFAULT true", "9, 'n', 1, 8, false", "c = 5, d = NULL"),
    "another name": ("RENAME b TO bb", "9, 'n', 1", "bb = 5"),
    "a longer text": ("ALTER a TYPE varchar(90)", "9, 'n', 1", "a = 'longer'"),
    "another name and a column": (
        "RENAME b TO bb; ALTER TABLE t ADD c int DEFAULT 7; ALTER TABLE t ALTER a TYPE varchar(90)",
        "9, 'n', 1, 8",
        "bb = 5, c = 4",
    ),
    "a name that is another's then": (
        "ADD c int; ALTER TABLE t RENAME b TO x; ALTER TABLE t RENAME c TO b",
        "9, 'n', 1, 2",
        "b = 5, x = 6",
    ),
}


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """A mirror of five rows."""
    database.execute(f"{ROWS} FROM generate_series(1, 5) i")
    made = pipeline("public.t")
    converge(database, made)
    return made


def events(config: PipelineConfig) -> list[SchemaChanged]:
    """Sync, and give the alterations that it told."""
    return [event for event in sync(config) if isinstance(event, SchemaChanged)]


@pytest.mark.parametrize("case", IN_PLACE)
def test_a_mirror_follows_in_the_middle_of_the_stream(
    database: ScratchDatabase, config: PipelineConfig, case: str
) -> None:
    ddl, row, update = IN_PLACE[case]
    database.execute("INSERT INTO t VALUES (6, 'old', 1); UPDATE t SET a = 'o' WHERE id = 2")
    database.execute(f"ALTER TABLE t {ddl}")
    database.execute(f"INSERT INTO t VALUES ({row}); UPDATE t SET {update} WHERE id IN (3, 6)")
    database.execute("DELETE FROM t WHERE id = 4")
    (change,) = events(config)
    assert change.how == "in place"
    assert change.after != change.before or case == "a longer text"
    assert_equal_to_source(database, config)
    assert not events(config)
    ((what, how, lsn),) = query(config, "SELECT what, how, lsn FROM _cdc.schema_changes")
    assert (what, how, lsn) == (change.what, "in place", int(change.lsn))


@pytest.mark.parametrize("case", IN_PLACE)
def test_a_quiet_table_follows_as_well(
    database: ScratchDatabase, config: PipelineConfig, case: str
) -> None:
    ddl, row, update = IN_PLACE[case]
    database.execute(f"ALTER TABLE t {ddl}")
    (change,) = events(config)
    assert change.how == "in place"
    assert_equal_to_source(database, config)
    database.execute(f"INSERT INTO t VALUES ({row}); UPDATE t SET {update} WHERE id IN (3, 6)")
    assert not events(config)
    assert_equal_to_source(database, config)


def test_a_decimal_with_more_digits_follows(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric(6,2)); INSERT INTO t VALUES (1, 1234.56)"
    )
    config = kept(pipeline("public.t"), ["mirror", "changes", "history"])
    converge(database, config)
    database.execute("INSERT INTO t VALUES (2, 0.01); ALTER TABLE t ALTER n TYPE numeric(20,2)")
    database.execute("INSERT INTO t VALUES (3, 123456789012345678.9); UPDATE t SET n = 7.5")
    assert [event.how for event in events(config)] == ["in place"]
    assert_equal_to_source(database, config)
    database.execute("ALTER TABLE t ALTER n TYPE numeric(38,2)")
    assert [event.how for event in events(config)] == ["in place"]
    assert_equal_to_source(database, config)


def test_an_alteration_within_a_transaction(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(f"{ROWS} FROM generate_series(1, 5) i")
    config = kept(pipeline("public.t"), ["mirror", "changes", "history"])
    converge(database, config)
    database.execute(
        "BEGIN; UPDATE t SET a = 'before' WHERE id = 1; ALTER TABLE t ADD c int DEFAULT 7;"
        " UPDATE t SET c = 8 WHERE id IN (1, 2); INSERT INTO t VALUES (6, 'n', 0, 9); COMMIT"
    )
    assert [event.how for event in events(config)] == ["in place"]
    assert_equal_to_source(database, config)
    now = "SELECT id, c FROM public.t__history WHERE _cdc_valid_to IS NULL ORDER BY id"
    assert query(config, now) == [(1, 8), (2, 8), (3, 7), (4, 7), (5, 7), (6, 9)]


def test_what_is_rolled_back_alters_nothing(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("BEGIN; ALTER TABLE t ADD c int; INSERT INTO t VALUES (6, '', 1, 2); ROLLBACK")
    database.execute("INSERT INTO t VALUES (6, 'kept', 1)")
    assert not events(config)
    assert_equal_to_source(database, config)


def test_a_dropped_column_keeps_its_last_values(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(f"{ROWS} FROM generate_series(1, 3) i")
    config = kept(pipeline("public.t"), ["mirror", "changes", "history"])
    converge(database, config)
    database.execute("ALTER TABLE t DROP a; UPDATE t SET b = 9 WHERE id = 2")
    assert [event.how for event in events(config)] == ["in place"]
    assert mirror_rows(config, "public.t", "id, a, b") == [(1, "a1", 1), (2, None, 9), (3, "a3", 3)]
    database.execute("INSERT INTO t VALUES (4, 4); DELETE FROM t WHERE id = 1")
    sync_all(config)
    assert mirror_rows(config, "public.t", "id, a, b") == [(2, None, 9), (3, "a3", 3), (4, None, 4)]
    assert query(
        config, "SELECT id, a, b FROM public.t__changes WHERE _cdc_op = 'snapshot' ORDER BY ALL"
    ) == [(1, "a1", 1), (2, "a2", 2), (3, "a3", 3)]


def test_a_dropped_column_goes_where_the_config_says_so(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(f"{ROWS} FROM generate_series(1, 3) i")
    config = kept(
        pipeline("public.t"), ["mirror", "changes"], schema_changes={"dropped_columns": "drop"}
    )
    converge(database, config)
    database.execute("ALTER TABLE t DROP a; UPDATE t SET b = 9 WHERE id = 2")
    assert [event.how for event in events(config)] == ["in place"]
    assert_equal_to_source(database, config)
    names = query(config, "SELECT * FROM public.t__changes LIMIT 0")
    assert names == []
    assert ("a",) not in query(config, "SELECT column_name FROM (DESCRIBE public.t__changes)")


# DDL of which nobody can prove what rows have then, a row that fits, and rows without a word
ANEW: dict[str, tuple[str, str]] = {
    "a volatile default": ("ALTER TABLE t ADD c float DEFAULT random()", "9, 'n', 1, 8"),
    "a serial": ("ALTER TABLE t ADD c serial", "9, 'n', 1, 8"),
    "a wider number": ("ALTER TABLE t ALTER b TYPE bigint", "9, 'n', 1"),
    "another number": ("ALTER TABLE t ALTER b TYPE int USING b * 10", "9, 'n', 1"),
    "there and back": (
        "ALTER TABLE t ALTER b TYPE bigint USING b * 3; ALTER TABLE t ALTER b TYPE int",
        "9, 'n', 1",
    ),
    "a column made anew": ("ALTER TABLE t DROP b; ALTER TABLE t ADD b int", "9, 'n', 1"),
    "a column that had the name of one that is gone": (
        "ALTER TABLE t DROP b; ALTER TABLE t ADD b int; UPDATE t SET b = 77 WHERE id = 5;"
        " ALTER TABLE t RENAME b TO x",
        "9, 'n', 1",
    ),
    "a column that is gone had the name of one that was added": (
        "ALTER TABLE t RENAME b TO x; UPDATE t SET x = 77 WHERE id = 5; ALTER TABLE t DROP x;"
        " ALTER TABLE t ADD x int",
        "9, 'n', 1",
    ),
    "what came and went": ("ALTER TABLE t ADD c int; ALTER TABLE t DROP c, ADD d int", "9,'n',1,2"),
    "another key": ("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, b)", "9, 'n', 1"),
    "a key made anew": ("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id)", "9, 'n', 1"),
    "a default that was rewritten": (
        "ALTER TABLE t ADD c int DEFAULT 3; VACUUM FULL t",
        "9,'',1,2",
    ),
}


@pytest.mark.parametrize("with_rows", [True, False], ids=["with rows behind", "quiet"])
@pytest.mark.parametrize("case", ANEW)
def test_what_can_not_be_proven_is_copied_anew(
    database: ScratchDatabase, pipeline: MakePipeline, case: str, with_rows: bool
) -> None:
    ddl, row = ANEW[case]
    database.execute(
        f"{ROWS} FROM generate_series(1, 5) i; CREATE TABLE other (id int PRIMARY KEY)"
    )
    config = pipeline("public.t", "public.other")
    converge(database, config)
    database.execute("INSERT INTO t VALUES (6, 'old', 1); UPDATE t SET a = 'o' WHERE id = 2")
    for statement in ddl.split("; "):
        database.execute(statement)
    database.execute("INSERT INTO other VALUES (1)")
    if with_rows:
        database.execute(f"INSERT INTO t VALUES ({row}); DELETE FROM t WHERE id = 4")
    assert [event.how for event in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)
    assert not events(config)


@pytest.mark.parametrize(
    "ddl",
    ["RENAME a TO aa; ALTER TABLE t DROP b", "DROP a; ALTER TABLE t ADD c int DEFAULT 7"],
)
def test_a_column_is_dropped_with_something_else(
    database: ScratchDatabase, pipeline: MakePipeline, ddl: str
) -> None:
    database.execute(f"{ROWS} FROM generate_series(1, 5) i")
    keep = ["mirror", "changes", "history"]
    config = kept(pipeline("public.t"), keep, schema_changes={"dropped_columns": "drop"})
    converge(database, config)
    database.execute("INSERT INTO t VALUES (6, 'old', 1)")
    database.execute(f"ALTER TABLE t {ddl}")
    database.execute("DELETE FROM t WHERE id = 4; UPDATE t SET id = id + 10 WHERE id = 5")
    assert [event.how for event in events(config)] == ["in place"]
    assert_equal_to_source(database, config)


def test_a_column_made_anew_is_another_one_whatever_comes_behind_it(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(f"{ROWS} FROM generate_series(1, 5) i")
    made = pipeline("public.t")
    config = kept(made, ["mirror"], schema_changes={"dropped_columns": "drop"})
    converge(database, config)
    database.execute("ALTER TABLE t DROP b; ALTER TABLE t ADD b int")
    database.execute("UPDATE t SET b = 77 WHERE id = 5; ALTER TABLE t ADD c int")
    database.execute("UPDATE t SET c = 1 WHERE id = 4")
    assert [event.how for event in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)


def test_a_vacuum_or_a_comment_is_no_alteration(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    for harmless in (
        "VACUUM FULL t",
        "CLUSTER t USING t_pkey",
        "ALTER TABLE t ALTER b SET STATISTICS 50",
        "COMMENT ON COLUMN t.b IS 'x'",
        "ALTER TABLE t ALTER b SET DEFAULT 4",
        "ALTER TABLE t ADD CHECK (b < 1000)",
    ):
        database.execute(harmless)
        assert not events(config), harmless
        assert_equal_to_source(database, config)


def test_records_are_readable_through_other_names(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
    database.execute(
        "ALTER TABLE t REPLICA IDENTITY FULL; ALTER TABLE t ALTER b SET STORAGE EXTERNAL"
    )
    database.execute("INSERT INTO t VALUES (1, 'x', repeat('y', 9000))")
    config = kept(pipeline("public.t"), ["mirror", "changes", "history"])
    converge(database, config)
    database.execute("UPDATE t SET a = 'z'; ALTER TABLE t REPLICA IDENTITY DEFAULT")
    database.execute("UPDATE t SET a = 'w'")
    sync_all(config)
    database.execute("ALTER TABLE t RENAME b TO long; UPDATE t SET a = 'v'")
    assert [event.how for event in events(config)] == ["in place"]
    assert_equal_to_source(database, config)
    found: list[tuple[Any, ...]] = query(
        config,
        "SELECT a, _cdc_unchanged, _cdc_before.a, length(_cdc_before.long) FROM public.t__changes"
        " WHERE _cdc_op = 'update' ORDER BY _cdc_lsn",
    )
    assert found[0] == ("z", [], "x", 9000)
    assert [row[1] for row in found[1:]] == [["long"], ["long"]]


def test_a_part_that_is_copied_begins_again_where_its_table_is_altered(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    kill_at(config, "chunk_committed", 1, work="backfill t")
    wait_until_unlocked(database)
    database.execute("ALTER TABLE t ADD c int DEFAULT 3; UPDATE t SET c = 4 WHERE id = 2")
    assert [event.how for event in events(config)] == ["in place"]
    list(backfill(config, TableName.parse("public.t")))
    converge(database, config)
    assert query(config, "SELECT count(*) FROM _cdc.copies") == [(0,)]


@pytest.mark.parametrize("number", [1, 2])
def test_a_kill_while_quiet_tables_are_altered(
    database: ScratchDatabase, pipeline: MakePipeline, number: int
) -> None:
    database.execute(f"{ROWS} FROM generate_series(1, 5) i; CREATE TABLE u (id int PRIMARY KEY)")
    config = kept(pipeline("public.t", "public.u"), ["mirror", "changes", "history"])
    converge(database, config)
    database.execute("ALTER TABLE t ADD c int DEFAULT 3; ALTER TABLE u ADD c int")
    assert kill_at(config, "schema_evolved", number)
    wait_until_unlocked(database)
    converge(database, config)
    assert query(config, "SELECT count(*) FROM _cdc.schema_changes") == [(2,)]


@pytest.mark.parametrize(
    "step", ["schema_evolved", "before_commit", "window_committed", "chunk_committed"]
)
@pytest.mark.parametrize("ddl", ["ADD c int DEFAULT 3", "ADD c float DEFAULT random()"])
def test_a_kill_around_an_alteration_leaves_it_before_or_behind(
    database: ScratchDatabase, pipeline: MakePipeline, step: Step, ddl: str
) -> None:
    database.execute(f"{ROWS} FROM generate_series(1, 5) i")
    config = kept(pipeline("public.t"), ["mirror", "changes", "history"])
    converge(database, config)
    database.execute("UPDATE t SET a = 'before' WHERE id = 1")
    database.execute(f"ALTER TABLE t {ddl}")
    database.execute("UPDATE t SET c = 8 WHERE id IN (1, 2); INSERT INTO t VALUES (6, 'n', 0, 9)")
    kill_at(config, step, 1)
    wait_until_unlocked(database)
    converge(database, config)
    now = "SELECT id, a, b, c FROM public.t__history WHERE _cdc_valid_to IS NULL ORDER BY id"
    assert query(config, now) == mirror_rows(config, "public.t", "id, a, b, c")
    ended = "SELECT count(*) FROM public.t__changes WHERE _cdc_op = 'update' AND a = 'before'"
    assert query(config, ended) == [(2 if "random" not in ddl else 0,)]
    database.execute("ALTER TABLE t DROP a; DELETE FROM t WHERE id = 3")
    sync_all(config)


def test_stop_leaves_a_table_behind_that_was_rewritten(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(f"{ROWS} FROM generate_series(1, 5) i")
    config = pipeline("public.t", schema_changes="stop")
    converge(database, config)
    database.execute("ALTER TABLE t ALTER b TYPE int USING b * 10")
    assert "rewritten" in str(errors_of(sync_once(config))["public.t"])


def test_a_masked_column_that_gets_another_name_is_never_kept_without_its_mask(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, email text, b int)")
    database.execute("INSERT INTO t VALUES (1, 'canary-1', 1)")
    config = kept(pipeline("public.t"), ["mirror", "changes"], mask={"email": "sha256"})
    sync_all(config)
    database.execute("ALTER TABLE t RENAME email TO mail; INSERT INTO t VALUES (2, 'canary-2', 2)")
    with pytest.raises(CdcError, match="email"):
        sync_once(config)
    assert b"canary" not in config.warehouse_path.read_bytes()


@pytest.mark.parametrize(
    "shaped",
    [{"mask": {"email": "sha256"}}, {"columns": {"exclude": ["email"]}}],
    ids=["masked", "left out"],
)
@pytest.mark.parametrize("rewritten", ["", "; ALTER TABLE t ALTER b TYPE int USING b + 1"])
def test_another_column_under_a_hidden_ones_name_does_not_bare_it(
    database: ScratchDatabase, pipeline: MakePipeline, shaped: dict[str, Any], rewritten: str
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, email text, b int)")
    database.execute("INSERT INTO t VALUES (1, 'canary-1', 1)")
    config = kept(pipeline("public.t"), ["mirror", "changes"], **shaped)
    sync_all(config)
    database.execute(
        "ALTER TABLE t RENAME email TO mail; ALTER TABLE t ADD email text;"
        f"INSERT INTO t VALUES (2, 'canary-2', 2, ''){rewritten}"
    )
    assert "mail" in str(errors_of(sync_once(config))["public.t"])
    assert b"canary" not in config.warehouse_path.read_bytes()
    key, said = next(iter(shaped.items()))
    hidden = {**said, "mail": "sha256"} if key == "mask" else {"exclude": ["email", "mail"]}
    right = kept(config, ["mirror", "changes"], **{key: hidden})
    list(backfill(right, TableName.parse("public.t")))
    sync_all(right)
    assert b"canary" not in config.warehouse_path.read_bytes()


def test_a_table_made_again_is_copied_where_the_config_says_so(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        f"{ROWS} FROM generate_series(1, 5) i; CREATE TABLE other (id int PRIMARY KEY)"
    )
    made = pipeline("public.t", "public.other")
    config = kept(made, ["mirror"], schema_changes={"recreated_tables": "backfill"})
    converge(database, config)
    database.execute("UPDATE t SET b = 0; DROP TABLE t")
    database.execute(f"{ROWS} FROM generate_series(3, 9) i")
    database.execute(f"ALTER PUBLICATION {config.source.publication} ADD TABLE t")
    database.execute("DELETE FROM t WHERE id = 4; INSERT INTO other VALUES (1)")
    assert [event.how for event in events(config)] == ["copied anew"]
    assert_equal_to_source(database, config)


SHAPED: dict[str, dict[str, Any]] = {
    "masked and renamed": {"mask": {"a": "sha256"}, "columns": {"rename": {"b": "bb"}}},
    "filtered": {"where": "b < 6"},
    "deleted rows kept": {"deletes": "soft"},
    "included": {"columns": {"include": ["a", "b"]}},
}


@pytest.mark.parametrize("shaping", SHAPED)
def test_what_is_shaped_follows_as_well(
    database: ScratchDatabase, pipeline: MakePipeline, shaping: str
) -> None:
    database.execute(f"{ROWS} FROM generate_series(1, 8) i; ALTER TABLE t ADD d int DEFAULT 1")
    config = kept(pipeline("public.t"), ["mirror"], **SHAPED[shaping])
    sync_all(config)
    database.execute("DELETE FROM t WHERE id = 3; UPDATE t SET b = 5 WHERE id = 8")
    database.execute("ALTER TABLE t ADD c int DEFAULT 7; DELETE FROM t WHERE id = 1")
    database.execute("INSERT INTO t VALUES (9, 'n', 2, 1, 8); UPDATE t SET c = 9 WHERE id = 2")
    has_c = shaping != "included"
    assert [event.how for event in events(config)] == ["in place"] * has_c
    _assert_shaped(database, config, shaping, ["c"] * has_c)
    database.execute("ALTER TABLE t DROP d; UPDATE t SET b = 1 WHERE id = 4")
    database.execute("DELETE FROM t WHERE id = 2")
    assert [event.how for event in events(config)] == ["in place"] * has_c
    _assert_shaped(database, config, shaping, ["c"] * has_c)
    assert not events(config)
    for event in backfill(config, TableName.parse("public.t")):
        if isinstance(event, BucketBackfilled):
            assert (event.rows_inserted, event.rows_changed, event.rows_removed) == (0, 0, 0)
    _assert_shaped(database, config, shaping, ["c"] * has_c)


def _assert_shaped(
    database: ScratchDatabase, config: PipelineConfig, shaping: str, more: list[str]
) -> None:
    """Compare the columns of now with what the config makes of the source's."""
    masked = shaping == "masked and renamed"
    a = "encode(sha256(a::bytea), 'hex')" if masked else "a"
    where = "b < 6" if shaping == "filtered" else "true"
    wanted = database.execute(f"SELECT {', '.join(['id', a, 'b', *more])} FROM t WHERE {where}")
    live = "WHERE NOT _cdc_deleted" if shaping == "deleted rows kept" else ""
    columns = ", ".join(["id", "a", "bb" if masked else "b", *more])
    found = query(config, f"SELECT {columns} FROM public.t {live}")
    assert sorted(found) == sorted(wanted)


def test_who_looks_is_told_what_the_next_sync_does(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(f"{ROWS} FROM generate_series(1, 3) i")
    config = pipeline("public.t")
    converge(database, config)
    for ddl, told in (
        ("ADD c int", "alters what is kept of it in place"),
        ("ALTER b TYPE bigint", "copies it anew"),
    ):
        database.execute(f"ALTER TABLE t {ddl}")
        looked = run_command(config, "check")
        assert looked.code == 0, looked.err
        assert f"the next sync {told}" in looked.out + looked.err
        assert run_command(config, "status").code == 0
        converge(database, config)
    saids = query(config, "SELECT what FROM _cdc.schema_changes ORDER BY noted_at")
    assert saids == [("added 'c'",), ("another type of 'b'",)]


def test_deleted_rows_that_are_kept_outlive_an_alteration_and_a_copy(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(f"{ROWS} FROM generate_series(1, 5) i")
    config = kept(pipeline("public.t"), ["mirror"], deletes="soft")
    sync_all(config)
    database.execute("DELETE FROM t WHERE id IN (1, 2)")
    sync_all(config)
    for ddl, how in (
        ("ADD c int DEFAULT 7", "in place"),
        ("RENAME a TO aa", "in place"),
        ("ALTER b TYPE bigint", "copied anew"),
    ):
        database.execute(f"ALTER TABLE t {ddl}")
        assert [event.how for event in events(config)] == [how]
    deleted = "SELECT id, aa, c FROM public.t WHERE _cdc_deleted ORDER BY id"
    assert query(config, deleted) == [(1, "a1", 7), (2, "a2", 7)]
