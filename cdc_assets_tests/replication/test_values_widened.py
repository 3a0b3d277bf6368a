"""With `unfit_values: text` a column becomes text where a value does not fit it, and goes on."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, LiteralString, cast

import psycopg
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import ConfigError, TableError, ValueConversionError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.checking import find_problems
from cdc_assets.progress import BucketBackfilled, SchemaChanged
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.previewing import preview
from cdc_assets.replication.rebuilding import rebuild
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.replication.sync import sync
from cdc_assets.replication.versions import code_version
from cdc_assets.steps import Step
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.round_trips import PLAIN
from cdc_assets_tests.syncs import errors_of, query, sync_all, sync_once
from cdc_assets_tests.waiting import wait_until_unlocked

TABLE = TableName("public", "t")
MIRROR, ALL = ["mirror"], ["mirror", "changes", "history"]
TIMES = [
    "2024-02-29 23:59:59.1234",
    "0044-03-15 01:02:03.5 BC",
    "4714-11-24 00:00:00 BC",
    "infinity",
    "-infinity",
    "10000-01-01 00:00:00.000001",
]


@dataclass
class Case:
    """A type, the text of values that fit what it is kept as, and of one that does not."""

    kind: str
    good: list[str]
    bad: str


# by how a column becomes text
CASES = {
    "in place": [
        Case("numeric(10,2)", ["1.50", "-0.05", "0", "0.1", "-99999999.99"], "NaN"),
        Case("numeric(2,2)", ["0.50", "-0.05", "0"], "NaN"),
        Case("numeric(38,0)", ["9" * 38, "-1", "0"], "NaN"),
        Case("timestamp", [*TIMES, "294247-01-10 04:00:54.775806"], "294276-12-31 23:59:59.9"),
        Case("timestamptz", TIMES, "294247-01-10 04:00:54.775807+00"),
    ],
    "copied anew": [
        Case("interval", ["1 mon", "-00:00:01.5", "0"], "infinity"),
        Case("int[]", ["{1,NULL}", "{}"], "{{1,2},{3,4}}"),
        Case("text[]", ['{"a b",NULL,"NULL"}'], "[2:2]={c}"),
        Case("numeric(10,2)[]", ["{1,-0.05}"], "{1,NaN}"),
    ],
}
ways = pytest.mark.parametrize("how", CASES)
NAMES = {how: [f"c{at}" for at in range(len(cases))] for how, cases in CASES.items()}


def create(database: ScratchDatabase, how: str) -> None:
    """Make a table with a column of each type, and one beside it whose values fit."""
    listed = ", ".join(
        f"c{at} {case.kind}, f{at} {case.kind}" for at, case in enumerate(CASES[how])
    )
    database.execute(
        f"CREATE TABLE t (id int PRIMARY KEY, note text, {listed});"
        " ALTER TABLE t REPLICA IDENTITY FULL; CREATE TABLE o (id int PRIMARY KEY)"
    )
    rows = zip_longest(*(case.good for case in CASES[how]))
    for number, texts in enumerate(rows):
        insert(database, how, number, list(texts))


def insert(database: ScratchDatabase, how: str, number: int, texts: list[str | None]) -> None:
    names, marks = ", ".join(NAMES[how]), ", ".join(["%s"] * len(texts))
    database.execute(f"INSERT INTO t (id, note, {names}) VALUES ({number}, 'n', {marks})", texts)


def good(how: str) -> list[str | None]:
    return [case.good[0] for case in CASES[how]]


def bad(how: str) -> list[str | None]:
    return [case.bad for case in CASES[how]]


def widening(config: PipelineConfig, said: object = "text", **more: Any) -> PipelineConfig:
    tables = [{"source": "public.t", "unfit_values": said, "keep": MIRROR, **more}]
    others = [{"source": str(name)} for name in config.table_names if name != TABLE]
    return load_config(rewrite(config, tables=[*tables, *others]))


def kinds(config: PipelineConfig, name: str = "t") -> dict[str, str]:
    sql = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name"
    return dict(query(config, f"{sql} = '{name}'"))  # type: ignore[arg-type]


def changes_of(config: PipelineConfig) -> list[SchemaChanged]:
    """Sync without a failure, and give the alterations that it told."""
    found = [event for event in sync(config) if isinstance(event, SchemaChanged)]
    assert not errors_of(sync_once(config))
    return found


def expect_text(database: ScratchDatabase, config: PipelineConfig, names: list[str]) -> None:
    """Expect of every row what the source prints, in all that is kept."""
    listed = ", ".join(names)
    with closing(psycopg.connect(database.dsn, autocommit=True)) as connection:
        connection.execute(PLAIN)
        asked = f"SELECT id, {', '.join(f'{name}::text' for name in names)} FROM t ORDER BY id"
        wanted = connection.execute(cast("LiteralString", asked)).fetchall()
    assert {kinds(config)[name] for name in names} == {"VARCHAR"}
    mirror = f"SELECT id, {listed} FROM public.t ORDER BY id"
    assert query(config, mirror) == wanted
    if config.table(TABLE).keep == ALL:
        now = f"SELECT id, {listed} FROM public.t__history WHERE _cdc_valid_to IS NULL ORDER BY id"
        assert query(config, now) == wanted
        at = "SELECT lsn FROM _cdc.checkpoints WHERE source_table = 'public.t'"
        ((lsn,),) = query(config, at)
        as_of = f"SELECT id, {listed} FROM public.t__as_of_lsn({lsn}) ORDER BY id"
        assert query(config, as_of) == wanted
        list(rebuild(config, TABLE))
        assert query(config, mirror) == wanted


@ways
def test_in_the_stream_columns_are_text_from_there_on(
    database: ScratchDatabase, pipeline: MakePipeline, how: str
) -> None:
    create(database, how)
    config = widening(pipeline("public.t", "public.o"), keep=ALL)
    sync_all(config)
    own = kinds(config)
    insert(database, how, 20, good(how))
    database.execute("UPDATE t SET note = 'before'")
    with closing(database.connect()) as connection, connection.transaction():
        connection.execute("UPDATE t SET note = 'same' WHERE id IN (1, 20)")
        sets = ", ".join(f"{name} = %s" for name in NAMES[how])
        connection.execute(
            cast("LiteralString", f"UPDATE t SET {sets} WHERE id IN (0, 20)"), bad(how)
        )
        connection.execute("UPDATE t SET note = 'in it' WHERE id = 2")
    database.execute("INSERT INTO o VALUES (1)")
    database.execute("UPDATE t SET note = 'behind' WHERE id IN (1, 20); DELETE FROM t WHERE id = 0")
    changes = changes_of(config)
    assert [change.how for change in changes] == [how] * len(NAMES[how])
    assert changes[0].before["c0"] == own["c0"]
    assert {changes[-1].after[name] for name in NAMES[how]} == {"VARCHAR"}
    assert "'c0' is text, was " in changes[0].what
    noted = query(config, "SELECT what, how, lsn FROM _cdc.schema_changes ORDER BY noted_at, what")
    assert noted == [(change.what, how, int(change.lsn)) for change in changes]
    assert {name: kinds(config)[name] for name in own if name[0] == "f"} == {
        name: kind for name, kind in own.items() if name[0] == "f"
    }
    assert query(config, "SELECT id FROM public.o") == [(1,)]
    expect_text(database, config, NAMES[how])
    # they stay text, where all values fit again too
    database.execute("DELETE FROM t WHERE id = 20")
    insert(database, how, 22, good(how))
    assert not changes_of(config)
    expect_text(database, config, NAMES[how])
    assert all(one.equal for one in reconcile(config, tables=[TABLE]) if hasattr(one, "equal"))


@ways
def test_in_the_first_copy_and_in_a_backfill(
    database: ScratchDatabase, pipeline: MakePipeline, how: str
) -> None:
    create(database, how)
    insert(database, how, 20, bad(how))
    config = widening(pipeline("public.t", "public.o"))
    changes = changes_of(config)
    assert [change.how for change in changes] == ["copied anew"] * len(NAMES[how])
    assert {changes[-1].after[name] for name in NAMES[how]} == {"VARCHAR"}
    expect_text(database, config, NAMES[how])
    list(backfill(config, TABLE))
    assert not changes_of(config)
    expect_text(database, config, NAMES[how])
    # a person has them back as they were
    database.execute("DELETE FROM t WHERE id = 20")
    stopping = widening(config, "stop")
    assert code_version(stopping, TABLE) == code_version(config, TABLE)
    assert not changes_of(stopping)
    expect_text(database, stopping, NAMES[how])
    list(backfill(stopping, TABLE))
    found = kinds(stopping)
    assert [found[name] for name in NAMES[how]] == [
        found[name.replace("c", "f")] for name in NAMES[how]
    ]


@ways
@pytest.mark.parametrize("buckets", [None, ["3"]])
def test_a_backfill_that_meets_values(
    database: ScratchDatabase, pipeline: MakePipeline, how: str, buckets: list[str] | None
) -> None:
    """Of two columns: one while it reads, the other by the stream meanwhile."""
    create(database, how)
    config = widening(pipeline("public.t", "public.o"), keep=ALL)
    sync_all(config)
    first, second = CASES[how][:2]
    database.execute("UPDATE t SET c0 = %s", [first.bad])

    def write() -> None:
        database.execute("UPDATE t SET c1 = %s WHERE id = 1", [second.bad])

    with at_step("chunk_committed", 1, write):
        events = list(backfill(config, TABLE, buckets=buckets))
    changes = [event for event in events if isinstance(event, SchemaChanged)]
    assert [change.how for change in changes] == [how] * 2
    assert isinstance(events[-1], BucketBackfilled)
    assert not changes_of(config)
    expect_text(database, config, NAMES[how][:2])


@pytest.mark.parametrize(
    ("how", "step"),
    [
        ("in place", "schema_evolved"),
        ("in place", "window_committed"),
        ("copied anew", "chunk_committed"),
        ("copied anew", "copy_staged"),
    ],
)
def test_killed_at_any_step(
    database: ScratchDatabase, pipeline: MakePipeline, how: str, step: Step
) -> None:
    create(database, how)
    config = widening(pipeline("public.t", "public.o"), keep=ALL)
    sync_all(config)
    insert(database, how, 20, bad(how))
    database.execute("UPDATE t SET note = 'behind'")
    assert kill_at(config, step, 1)
    wait_until_unlocked(database)
    sync_all(config)
    expect_text(database, config, NAMES[how])


@ways
def test_a_table_without_a_mirror(
    database: ScratchDatabase, pipeline: MakePipeline, how: str
) -> None:
    create(database, how)
    config = widening(pipeline("public.t", "public.o"), keep=["changes"])
    sync_all(config)
    insert(database, how, 20, bad(how))
    insert(database, how, 21, good(how))
    assert [change.how for change in changes_of(config)] == [how] * len(NAMES[how])
    names = ", ".join(f"{name}::text" for name in NAMES[how])
    with closing(psycopg.connect(database.dsn, autocommit=True)) as connection:
        connection.execute(PLAIN)
        asked = cast("LiteralString", f"SELECT id, {names} FROM t ORDER BY id")
        wanted = connection.execute(asked).fetchall()
    names = ", ".join(NAMES[how])
    assert query(config, f"SELECT id, {names} FROM public.t__changes ORDER BY id") == wanted
    # in a copy, too
    list(backfill(config, TABLE))
    assert query(config, f"SELECT id, {names} FROM public.t__changes ORDER BY id") == wanted


def test_a_table_that_was_stopped_goes_on(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    create(database, "in place")
    stopping = widening(pipeline("public.t", "public.o"), {"f0": "text"})
    sync_all(stopping)
    insert(database, "in place", 20, bad("in place"))
    error = errors_of(sync_once(stopping))["public.t"]
    assert isinstance(error, ValueConversionError)
    assert "unfit_values: text" in error.hint
    names = NAMES["in place"]
    config = widening(stopping, dict.fromkeys(names, "text"))
    assert [change.how for change in changes_of(config)] == ["in place"] * len(names)
    expect_text(database, config, names)


def test_an_alteration_and_a_value_at_once(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v numeric(6,2), w int)")
    database.execute("INSERT INTO t VALUES (1, 1.5, 1)")
    config = widening(pipeline("public.t"), keep=ALL)
    sync_all(config)
    database.execute("INSERT INTO t VALUES (2, 'NaN', 2)")
    database.execute("ALTER TABLE t ALTER v TYPE numeric(9,2)")
    database.execute("INSERT INTO t VALUES (3, 12345.5, 3)")
    assert [change.how for change in changes_of(config)] == ["in place", "in place"]
    expect_text(database, config, ["v"])
    database.execute("ALTER TABLE t ADD c numeric(3,1) DEFAULT 7")
    database.execute("INSERT INTO t VALUES (6, 0, 3, 'NaN')")
    assert [change.how for change in changes_of(config)] == ["in place", "in place"]
    expect_text(database, config, ["v", "c"])
    database.execute("ALTER TABLE t RENAME v TO vv")
    database.execute("INSERT INTO t VALUES (4, 'NaN', 3, 4)")
    assert [change.how for change in changes_of(config)] == ["in place"]
    expect_text(database, config, ["vv"])
    database.execute("ALTER TABLE t ALTER w TYPE bigint; INSERT INTO t VALUES (5, 0.5, 3, 4)")
    assert [change.how for change in changes_of(config)] == ["copied anew"]
    expect_text(database, config, ["vv"])
    database.execute("ALTER TABLE t ADD d timestamp DEFAULT '294276-12-31'")
    assert [change.how for change in changes_of(config)] == ["copied anew"] * 2
    expect_text(database, config, ["vv", "d"])
    # another type of a person's choice
    database.execute("UPDATE t SET vv = 1 WHERE vv = 'NaN'")
    chosen = widening(config, columns={"types": {"vv": "decimal(20,4)"}})
    list(backfill(chosen, TABLE))
    assert [kinds(chosen)["vv"], kinds(chosen)["d"]] == ["DECIMAL(20,4)", "VARCHAR"]


def test_rows_that_are_deleted_stay_with_their_text(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v numeric(6,2), w int[])")
    database.execute("INSERT INTO t VALUES (1, 1.5, '{1}'), (2, 0.5, '{2}')")
    config = widening(pipeline("public.t"), deletes="soft")
    sync_all(config)
    database.execute("DELETE FROM t WHERE id = 1; UPDATE t SET v = 'NaN'")
    assert [change.how for change in changes_of(config)] == ["in place"]
    found = query(config, "SELECT id, v, _cdc_deleted FROM public.t ORDER BY id")
    assert found == [(1, "1.50", True), (2, "NaN", False)]
    # of such a row nobody could tell what the source wrote for a list
    database.execute("UPDATE t SET w = '{{1}}'")
    assert isinstance(errors_of(sync_once(config))["public.t"], ValueConversionError)


def test_masks_are_of_the_text(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v numeric(6,2), w text)")
    database.execute("INSERT INTO t VALUES (1, 0.5, '0.50')")
    config = widening(pipeline("public.t"), mask={"v": "sha256", "w": "sha256"})
    sync_all(config)
    database.execute("INSERT INTO t VALUES (2, 'NaN', 'NaN')")
    assert [change.how for change in changes_of(config)] == ["copied anew"]
    assert query(config, "SELECT count(*) FROM public.t WHERE v = w") == [(2,)]


@pytest.mark.parametrize(
    "more",
    [
        {"where": "v > 1 OR v IS NULL"},
        {"transform": "cdc_assets_tests.shaping.functions:as_it_is"},
        {"enrich": [{"from": "public.o", "on": {"v": "id"}, "columns": {"x": "x"}}]},
        {},
    ],
    ids=["condition", "function", "joined", "key"],
)
def test_who_needs_a_column_as_it_is_stops(
    database: ScratchDatabase, pipeline: MakePipeline, more: dict[str, Any]
) -> None:
    key = "PRIMARY KEY (id, v)" if not more else "PRIMARY KEY (id)"
    database.execute(f"CREATE TABLE t (id int, v numeric(6,2) NOT NULL, {key})")
    database.execute("CREATE TABLE o (id numeric(6,2) PRIMARY KEY, x int)")
    config = widening(pipeline("public.t", "public.o"), **more)
    sync_all(config)
    database.execute("INSERT INTO t VALUES (1, 2), (2, 'NaN')")
    error = errors_of(sync_once(config))["public.t"]
    assert isinstance(error, TableError)
    assert "'v' of table 'public.t' holds a value that does not fit numeric(6,2)" in error.message


def test_a_linked_table_goes_on_where_its_links_do_not_need_the_column(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE o (id int PRIMARY KEY, x int)")
    database.execute("CREATE TABLE t (id int PRIMARY KEY, o int, v numeric(6,2))")
    database.execute("INSERT INTO o VALUES (1, 7); INSERT INTO t VALUES (1, 1, 0.5)")
    enrich = [{"from": "public.o", "on": {"o": "id"}, "columns": {"x": "x"}}]
    config = widening(pipeline("public.t", "public.o"), enrich=enrich)
    sync_all(config)
    database.execute("INSERT INTO t VALUES (2, 1, 'NaN')")
    assert [change.how for change in changes_of(config)] == ["in place"]
    assert query(config, "SELECT id, v, x FROM public.t ORDER BY id") == [
        (1, "0.50", 7),
        (2, "NaN", 7),
    ]


def test_what_is_said_of_it(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v numeric(6,2))")
    config = widening(pipeline("public.t"), {"v": "text", "z": "text"})
    sync_all(config)
    database.execute("INSERT INTO t VALUES (1, 'NaN')")
    finished = sync_all(config)
    (shown,) = [one for one in finished.tables[0].columns if one.name == "v"]
    assert (shown.warehouse_type, shown.is_widened) == ("VARCHAR", True)
    notes: list[str] = []
    assert not find_problems(config, notes.append)
    (note,) = [note for note in notes if "is text since a value did not fit numeric(6,2)" in note]
    assert "'v'" in note
    assert "cdc-assets backfill public.t" in note
    assert any("names a column 'z'" in note for note in notes)


def test_a_preview_shows_it_as_text(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v numeric(6,2), w int[])")
    database.execute("INSERT INTO t VALUES (1, 0.5, '{1}'), (2, 'NaN', '{{1}}')")
    config = widening(pipeline("public.t"))
    found = preview(config, TABLE, rows=5)
    assert [row.shaped and row.shaped["v"] for row in found.rows] == ["0.50", "NaN"]
    assert found.rows[1].shaped == {"id": "2", "v": "NaN", "w": "{{1}}"}
    assert "column 'v' becomes text: a value does not fit numeric(6,2)" in found.notes
    with pytest.raises(ValueConversionError):
        preview(widening(config, {"v": "text"}), TABLE, rows=5)


@pytest.mark.parametrize("said", ["null", {"v": "nan"}, ["v"]])
def test_the_config_refuses_other_words(
    database: ScratchDatabase, pipeline: MakePipeline, said: object
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with pytest.raises(ConfigError, match="expected stop, text, or columns"):
        widening(pipeline("public.t"), said)
