"""Every hint leads out: it is followed to the letter, again and again, until all is healthy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError
from cdc_assets.operations.checking import find_problems
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.hints import follow, ways_of
from cdc_assets_tests.syncs import converge, errors_of, sync_all, sync_once

ROUNDS = 6  # hints that one situation may need, one after the other
BASE = (
    "CREATE TABLE t (id int PRIMARY KEY, a int); INSERT INTO t VALUES (1, 1), (2, 2);"
    "CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u VALUES (1)"
)
PARTITIONED = (
    "CREATE TABLE t (id int PRIMARY KEY, a int) PARTITION BY RANGE (id);"
    "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (9);"
    "CREATE TABLE u (id int PRIMARY KEY); INSERT INTO t VALUES (1, 1), (2, 2)"
)
CHANGE = "UPDATE t SET a = a + 1 WHERE id = 1"


@dataclass(frozen=True)
class Situation:
    """What went wrong; `{pub}` and `{slot}` stand for their names.

    Attributes:
        says: What check says of it first.
        before: Made before there is a pipeline.
        then: Done to it after its first sync; empty where it never came to one.
        tables: The config's.
        made: Whether publication and slot are made for the pipeline beforehand.
        ways: How many ways out the first hint has.
        ends: Done to `t` once all is healthy; empty when it is not replicated then.
        whole: Whether the mirrors have every column in the end.
    """

    says: str
    before: str = BASE
    then: str = ""
    tables: tuple[str, ...] = ("public.t", "public.u")
    made: bool = True
    ways: int = 1
    ends: str = CHANGE
    whole: bool = True


SITUATIONS = {
    "nothing is made yet": Situation("publication", made=False),
    "no slot": Situation("slot", then="SELECT pg_drop_replication_slot('{slot}')"),
    "a publication that leaves out kinds": Situation(
        "leaves out delete, truncate", then="ALTER PUBLICATION {pub} SET (publish='insert,update')"
    ),
    "a table that left the publication": Situation(
        "is not in publication", then="ALTER PUBLICATION {pub} DROP TABLE t; " + CHANGE
    ),
    "a publication that was dropped": Situation(
        "does not exist", then="DROP PUBLICATION {pub}; " + CHANGE
    ),
    "a publication that was made anew": Situation(
        "its publication was dropped and made anew",
        then="DROP PUBLICATION {pub}; " + CHANGE + "; CREATE PUBLICATION {pub} FOR TABLE t, u",
    ),
    "a root without publish_via_partition_root": Situation(
        "publishes its partitions by themselves",
        before=PARTITIONED + "; CREATE PUBLICATION {pub} FOR TABLE t, u",
        made=False,
    ),
    "a root whose partitions are published": Situation(
        "publishes its partitions by themselves",
        before=PARTITIONED + "; CREATE PUBLICATION {pub} FOR TABLE t1, u",
        made=False,
    ),
    "a root and all tables": Situation(
        "publishes its partitions by themselves",
        before=PARTITIONED + "; CREATE PUBLICATION {pub} FOR ALL TABLES",
        made=False,
    ),
    "a partition of a published root": Situation(
        "is a partition, and its changes are published as those of 'public.t'",
        before=PARTITIONED
        + "; CREATE PUBLICATION {pub} FOR ALL TABLES WITH (publish_via_partition_root)",
        tables=("public.t1", "public.u"),
        made=False,
    ),
    "a root and its partition": Situation(
        "is a partition of 'public.t', which is in the config, too",
        before=PARTITIONED,
        tables=("public.t", "public.t1", "public.u"),
        made=False,
    ),
    "a mistyped name": Situation(
        "does not exist on the source", tables=("public.T", "public.u"), made=False
    ),
    "a view": Situation(
        "is a view on the source",
        before=BASE + "; CREATE VIEW v AS SELECT * FROM t",
        tables=("public.t", "public.v"),
        made=False,
    ),
    "a materialized view": Situation(
        "is a materialized view on the source",
        before=BASE + "; CREATE MATERIALIZED VIEW v AS SELECT * FROM t",
        tables=("public.t", "public.v"),
        made=False,
    ),
    "a sequence": Situation(
        "is a sequence on the source",
        before=BASE + "; CREATE SEQUENCE v",
        tables=("public.t", "public.v"),
        made=False,
    ),
    "a foreign table": Situation(
        "is a foreign table on the source",
        before=BASE + "; CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
        "CREATE FOREIGN TABLE v (id int) SERVER s",
        tables=("public.t", "public.v"),
        made=False,
    ),
    "an unlogged table": Situation(
        "is unlogged", before=BASE + "; ALTER TABLE t SET UNLOGGED", made=False, ways=2, ends=""
    ),
    "a table that was dropped": Situation(
        "was dropped on the source", then="DROP TABLE t", ends=""
    ),
    "a table that was renamed": Situation(
        "is called 'public.other' on the source now",
        then=CHANGE + "; ALTER TABLE t RENAME TO other",
        ways=2,
        ends="",
    ),
    "a table that was moved": Situation(
        "is called 'archive.t' on the source now",
        then=CHANGE + "; CREATE SCHEMA archive; ALTER TABLE t SET SCHEMA archive",
        ways=2,
        ends="",
    ),
    "a table that was moved and renamed": Situation(
        "is called 'archive.other' on the source now",
        then="CREATE SCHEMA archive; ALTER TABLE t RENAME TO other;"
        "ALTER TABLE other SET SCHEMA archive",
        ways=2,
        ends="",
    ),
    "another table of the name": Situation(
        "is not in publication", then="DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, a int)"
    ),
    "a column that was added": Situation("added 'more'", then="ALTER TABLE t ADD more int"),
    "a column that was dropped": Situation(
        "dropped 'a'", then="ALTER TABLE t DROP a", ends="DELETE FROM t WHERE id = 1"
    ),
    "a column of another type": Situation(
        "another type of 'a'", then="ALTER TABLE t ALTER a TYPE bigint"
    ),
    "a column that was made anew": Situation(
        "dropped and added 'a'", then="ALTER TABLE t DROP a; ALTER TABLE t ADD a int"
    ),
    "another key": Situation(
        "its key is (id, a), was (id)",
        then="ALTER TABLE t DROP CONSTRAINT t_pkey; ALTER TABLE t ADD PRIMARY KEY (id, a)",
    ),
    "a key that was dropped": Situation(
        "has no replica identity", then="ALTER TABLE t DROP CONSTRAINT t_pkey"
    ),
    "identity nothing": Situation(
        "has REPLICA IDENTITY NOTHING", then="ALTER TABLE t REPLICA IDENTITY NOTHING"
    ),
    "identity full without a key": Situation(
        "has REPLICA IDENTITY FULL but no key",
        before="CREATE TABLE t (id int, a int); INSERT INTO t VALUES (1, 1);"
        "ALTER TABLE t REPLICA IDENTITY FULL; CREATE TABLE u (id int PRIMARY KEY)",
    ),
    "a reserved column": Situation(
        "has a reserved name",
        before=BASE + "; ALTER TABLE t ADD _cdc_lsn int",
        made=False,
        whole=False,
    ),
    "a reserved column that is published": Situation(
        "has a reserved name", before=BASE + "; ALTER TABLE t ADD _cdc_lsn int", whole=False
    ),
    "a reserved column in the key": Situation(
        "has a reserved name",
        before="CREATE TABLE t (_cdc_id int PRIMARY KEY, id int, a int);"
        "INSERT INTO t VALUES (1, 1, 1); CREATE TABLE u (id int PRIMARY KEY)",
    ),
    "columns that differ by case": Situation(
        "are one name in the warehouse", before=BASE + '; ALTER TABLE t ADD "A" int', whole=False
    ),
    "a slot that was moved by hand": Situation(
        "past the checkpoint",
        then=CHANGE + ";;SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())",
    ),
}
CASES = [(name, way) for name, one in SITUATIONS.items() for way in range(one.ways)]


@pytest.mark.parametrize(("name", "way"), CASES)
def test_a_hint_leads_out(
    database: ScratchDatabase, pipeline: MakePipeline, name: str, way: int
) -> None:
    situation = SITUATIONS[name]
    config = pipeline(*situation.tables, schema_changes="stop", create=False)
    expect_way_out(database, config, situation, way)


@pytest.mark.parametrize("name", ["a publication that was made anew", "a root and all tables"])
def test_a_hint_leads_out_on_an_older_server(
    older_database: ScratchDatabase, tmp_path: Path, name: str
) -> None:
    situation = SITUATIONS[name]
    config = make_pipeline(
        older_database, tmp_path, *situation.tables, schema_changes="stop", create=False
    )
    expect_way_out(older_database, config, situation, 0)


def expect_way_out(
    database: ScratchDatabase, config: PipelineConfig, situation: Situation, way: int
) -> None:
    names = {"pub": config.source.publication, "slot": config.source.slot}
    database.execute(situation.before.format(**names))
    if situation.made:
        database.execute(
            f"CREATE PUBLICATION {names['pub']} FOR TABLE {', '.join(config_sql(config))}"
            " WITH (publish_via_partition_root = true)"
        )
        database.execute(f"SELECT pg_create_logical_replication_slot('{names['slot']}','pgoutput')")
    if situation.then:
        sync_all(config)
        for transaction in situation.then.format(**names).split(";;"):
            database.execute(transaction)
    config = heal(database, config, situation.says, way)
    assert config.table_names
    if situation.whole:
        converge(database, config)
    if situation.ends:
        database.execute(situation.ends)
    if situation.whole:
        converge(database, config)
    sync_all(config)
    assert find_problems(config) == []


def config_sql(config: PipelineConfig) -> list[str]:
    return [f"ONLY {table.sql}" for table in config.table_names]


def heal(database: ScratchDatabase, config: PipelineConfig, says: str, way: int) -> PipelineConfig:
    """Follow the hint of what is wrong first, until nothing is."""
    said: list[str] = []
    for _ in range(ROUNDS):
        problems = problems_of(config)
        if not problems:
            break
        if not said:
            assert any(says in one.message for one in problems), problems
        problem = problems[0]
        said.append(problem.message)
        ways = ways_of(problem.hint)
        table = getattr(problem, "table", "")
        config = follow(ways[way % len(ways)], database, config, table=table)
    else:
        pytest.fail(f"hints led in a circle: {said}")
    return config


def problems_of(config: PipelineConfig) -> list[CdcError]:
    found = find_problems(config)
    if found:
        return found
    try:
        return list(errors_of(sync_once(config)).values())
    except CdcError as error:
        return [error]
