"""Publications that are altered: only a table that lacks changes stops, and says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import SchemaChangeError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets.progress import SchemaChanged
from cdc_assets.replication.sync import sync
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_all, sync_once

ALL_KINDS = "SET (publish = 'insert, update, delete, truncate')"
HARMLESS = {
    "another owner": "OWNER TO {role}",
    "the same kinds": ALL_KINDS,
    "the same root": "SET (publish_via_partition_root = true)",
    "another name for a moment": "RENAME TO moment; ALTER PUBLICATION moment RENAME TO {name}",
    "fewer kinds for a moment": f"SET (publish = 'insert'); ALTER PUBLICATION {{name}} {ALL_KINDS}",
    "partitions for a moment": "SET (publish_via_partition_root = false);"
    " ALTER PUBLICATION {name} SET (publish_via_partition_root = true)",
    "another table": "ADD TABLE extra",
}
WRITES = (
    "INSERT INTO t VALUES (10, 'a'), (11, 'b'); UPDATE t SET v = v || '!' WHERE id < 12;"
    "UPDATE t SET id = 20 WHERE id = 10; DELETE FROM t WHERE id = 11;"
    "INSERT INTO \"odd, name: x\" VALUES (7); INSERT INTO p VALUES (1, 'eu'), (2, 'us');"
    "UPDATE p SET region = 'us' WHERE id = 1; TRUNCATE u; INSERT INTO u VALUES (5)"
)
ODD = 'public."odd, name: x"'


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    return prepared(database, pipeline)


def prepared(database: ScratchDatabase, make: Callable[..., PipelineConfig]) -> PipelineConfig:
    """Tables of each kind, copied already."""
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY);"
        'CREATE TABLE "odd, name: x" (id int PRIMARY KEY); CREATE TABLE extra (id int PRIMARY KEY);'
        "CREATE TABLE p (id int, region text, PRIMARY KEY (id, region))"
        " PARTITION BY LIST (region);"
        "CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu');"
        "CREATE TABLE p_us PARTITION OF p FOR VALUES IN ('us');"
        "INSERT INTO t SELECT n, 'row' FROM generate_series(1, 9) n; INSERT INTO u VALUES (1)"
    )
    config = make("public.t", "public.u", ODD, "public.p", schema_changes="stop")
    sync_all(config)
    return config


def alter(database: ScratchDatabase, config: PipelineConfig, what: str) -> None:
    name = config.source.publication
    role = f"owner_{database.name}"
    if "{role}" in what:
        database.execute(f"CREATE ROLE {role}; GRANT CREATE ON DATABASE {database.name} TO {role}")
    statements = f"ALTER PUBLICATION {name} {what.format(name=name, role=role)}"
    try:
        for statement in statements.split("; "):
            database.execute(statement)
    finally:
        if "{role}" in what:
            database.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER")
            database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


# What is done to the publication, and what it shows of `t` then: columns and rows
OTHERWISE = {
    "a row filter": (["SET TABLE t WHERE (id < 5), u"], "id, v", "id < 5"),
    "a column list": (["SET TABLE t (id), u"], "id", "true"),
    "out and in": (["DROP TABLE t", "ADD TABLE t"], "id, v", "true"),
}


@pytest.mark.parametrize("what", OTHERWISE)
def test_a_table_that_is_published_otherwise_is_copied_anew(
    database: ScratchDatabase, pipeline: MakePipeline, what: str
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY);"
        "INSERT INTO t SELECT n, 'row' FROM generate_series(1, 9) n"
    )
    config = pipeline("public.t", "public.u")
    sync_all(config)
    statements, columns, where = OTHERWISE[what]
    there = f"SELECT {columns} FROM t WHERE {where} ORDER BY 1"
    database.execute("UPDATE t SET v = 'before' WHERE id = 2")
    alter(database, config, statements[0])
    database.execute("INSERT INTO t VALUES (0, 'meanwhile')")
    for statement in statements[1:]:
        alter(database, config, statement)
    database.execute("DELETE FROM t WHERE id = 3; INSERT INTO u VALUES (1)")
    events = list(sync(config))
    assert [one.how for one in events if isinstance(one, SchemaChanged)] == ["copied anew"]
    assert mirror_rows(config, "public.t", columns) == database.execute(there)
    database.execute("UPDATE t SET v = 'behind' WHERE id = 4")
    sync_all(config)
    assert mirror_rows(config, "public.t", columns) == database.execute(there)


@pytest.mark.parametrize("what", HARMLESS)
def test_what_leaves_nothing_out_stops_nothing(
    database: ScratchDatabase, config: PipelineConfig, what: str
) -> None:
    database.execute(WRITES)
    alter(database, config, HARMLESS[what])
    database.execute("INSERT INTO t VALUES (99, 'behind')")
    converge(database, config)
    converge(database, config)
    ((slots,),) = database.execute(
        "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    )
    assert slots == 1


@pytest.mark.parametrize(
    ("leave", "write", "come_back"),
    [
        ("SET (publish = 'insert')", "UPDATE t SET v = 'lost'", ALL_KINDS),
        ("SET (publish = 'insert, update')", "DELETE FROM t WHERE id = 3", ALL_KINDS),
        ("SET (publish = 'insert, update, delete')", "TRUNCATE t", ALL_KINDS),
        ("RENAME TO gone", "INSERT INTO t VALUES (77, 'lost')", "RENAME TO {name}"),
    ],
    ids=["updates", "deletes", "truncations", "everything"],
)
def test_only_the_table_that_lacks_changes_stops(
    database: ScratchDatabase, config: PipelineConfig, leave: str, write: str, come_back: str
) -> None:
    database.execute(WRITES)
    before = mirror_rows(config, "public.t")
    name = config.source.publication
    database.execute(f"ALTER PUBLICATION {name} {leave}")
    database.execute(write)
    now = "gone" if leave.endswith("gone") else name
    database.execute(f"ALTER PUBLICATION {now} {come_back.format(name=name)}")
    database.execute("INSERT INTO u VALUES (9); INSERT INTO t VALUES (99, 'behind')")
    for number in range(2):
        finished = sync_once(config)
        errors = errors_of(finished)
        assert set(errors) == {"public.t"}
        assert isinstance(errors["public.t"], SchemaChangeError)
        assert "was altered since the last sync: changes of 'public.t' were left out" in str(
            errors["public.t"]
        )
        assert mirror_rows(config, "public.t") == before, "left behind at its checkpoint"
        assert len(mirror_rows(config, "public.u")) == 2 + number
        assert len(mirror_rows(config, "public.p")) == 2
        database.execute(f"INSERT INTO u VALUES ({100 + number})")
    forget_tables(config, [TableName.parse("public.t")])
    converge(database, config)


def test_partitions_that_came_by_themselves_for_a_while_stop_their_root_alone(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    name = config.source.publication
    database.execute(f"ALTER PUBLICATION {name} SET (publish_via_partition_root = false)")
    database.execute(WRITES)
    database.execute(f"ALTER PUBLICATION {name} SET (publish_via_partition_root = true)")
    errors = errors_of(sync_once(config))
    assert set(errors) == {"public.p"}
    assert "changes of 'public.p' were left out" in str(errors["public.p"])
    assert len(mirror_rows(config, "public.t")) == 10


def test_generated_columns_that_are_published_stop_the_tables_that_have_any(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE g (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);"
        "CREATE TABLE u (id int PRIMARY KEY)"
    )
    config = pipeline("public.g", "public.u", schema_changes="stop")
    sync_all(config)
    name = config.source.publication
    database.execute(f"ALTER PUBLICATION {name} SET (publish_generated_columns = stored)")
    database.execute("INSERT INTO g VALUES (1); INSERT INTO u VALUES (1)")
    errors = errors_of(sync_once(config))
    assert set(errors) == {"public.g"}
    assert "added 'twice'" in str(errors["public.g"])
    assert mirror_rows(config, "public.u", "id") == [(1,)]


REASONS = {
    "row filter": ("SET TABLE t WHERE (id > 0), u", "its row filter in the publication was"),
    "column list": ("SET TABLE t (id, v), u", "left the publication and came back, or its column"),
    "came back": ("DROP TABLE t; ALTER PUBLICATION {name} ADD TABLE t", "left the publication and"),
    "made anew": (
        "RENAME TO old; DROP PUBLICATION old; CREATE PUBLICATION {name} FOR TABLE t, u",
        "its publication was dropped and made anew",
    ),
}


@pytest.mark.parametrize("reason", REASONS)
def test_what_was_altered_is_named_and_nothing_is_applied(
    database: ScratchDatabase, pipeline: MakePipeline, reason: str
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int PRIMARY KEY)"
    )
    config = pipeline("public.t", "public.u", schema_changes="stop")
    sync_all(config)
    database.execute("INSERT INTO t VALUES (1, 'a'); INSERT INTO u VALUES (1)")
    alter(database, config, REASONS[reason][0])
    database.execute("INSERT INTO t VALUES (2, 'a'); INSERT INTO u VALUES (2)")
    errors = errors_of(sync_once(config))
    everything = {"public.t", "public.u"}
    assert set(errors) == (everything if reason == "made anew" else {"public.t"})
    assert REASONS[reason][1] in str(errors["public.t"])
    assert mirror_rows(config, "public.t") == []


def test_an_alteration_while_the_run_goes_on_is_found(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    """Between what a run sees first and its target: what it left out is missing up to there."""
    name = config.source.publication
    database.execute("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)")

    def leave_and_return() -> None:
        for statement in (
            f"ALTER PUBLICATION {name} DROP TABLE t",
            "UPDATE t SET v = 'lost'",
            f"ALTER PUBLICATION {name} ADD TABLE t",
        ):
            database.execute(statement)

    forget_tables(config, [TableName.parse("public.u")])
    with at_step("chunk_committed", 1, leave_and_return):
        assert set(errors_of(sync_once(config))) == {"public.t"}


def test_without_the_means_to_know_every_table_stops(
    middle_database: ScratchDatabase, tmp_path: Path
) -> None:
    """The server of that version has no test_decoding."""

    def make(*tables: str, schema_changes: str) -> PipelineConfig:
        return make_pipeline(middle_database, tmp_path, *tables, schema_changes=schema_changes)

    config = prepared(middle_database, make)
    middle_database.execute(f"ALTER PUBLICATION {config.source.publication} {ALL_KINDS}")
    errors = errors_of(sync_once(config))
    assert len(errors) == 4
    assert "can't be known without 'test_decoding'" in str(errors["public.t"])


def test_an_older_server_knows_as_well(older_database: ScratchDatabase, tmp_path: Path) -> None:
    def make(*tables: str, schema_changes: str) -> PipelineConfig:
        return make_pipeline(older_database, tmp_path, *tables, schema_changes=schema_changes)

    config = prepared(older_database, make)
    older_database.execute(WRITES)
    name = config.source.publication
    older_database.execute(f"ALTER PUBLICATION {name} {ALL_KINDS}")
    converge(older_database, config)
    older_database.execute(f"ALTER PUBLICATION {name} SET (publish = 'insert')")
    older_database.execute("DELETE FROM t")
    older_database.execute(f"ALTER PUBLICATION {name} {ALL_KINDS}")
    assert set(errors_of(sync_once(config))) == {"public.t"}


def test_a_row_filter_that_kept_rows_out_leaves_no_proof(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    forget_tables(config, [TableName.parse("public.t")])
    name = config.source.publication
    database.execute(f"ALTER PUBLICATION {name} DROP TABLE t")
    database.execute(f"ALTER PUBLICATION {name} ADD TABLE t WHERE (id < 50)")
    sync_all(config)
    database.execute("INSERT INTO t VALUES (30, 'shown'), (31, 'shown')")
    database.execute(f"ALTER PUBLICATION {name} {ALL_KINDS}")
    assert len(mirror_rows(config, "public.t")) + 2 == sync_all_rows(config)
    database.execute("INSERT INTO t VALUES (32, 'shown'), (60, 'hidden')")
    database.execute(f"ALTER PUBLICATION {name} {ALL_KINDS}")
    errors = errors_of(sync_once(config))
    assert set(errors) == {"public.t"}
    assert "can't be told from what the row filter does" in str(errors["public.t"])


def sync_all_rows(config: PipelineConfig) -> int:
    sync_all(config)
    return len(mirror_rows(config, "public.t"))


def test_a_checkpoint_that_knows_nothing_of_the_publication_takes_it_over(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    """As those that were written before its parts were kept one by one."""
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        for table, text in warehouse.execute(
            "SELECT source_table, shape FROM _cdc.checkpoints"
        ).fetchall():
            shape = {**json.loads(text), "publication": "16400.750.16410"}
            warehouse.execute(
                "UPDATE _cdc.checkpoints SET shape = ? WHERE source_table = ?",
                [json.dumps(shape), table],
            )
    converge(database, config)
    name = config.source.publication
    database.execute(f"ALTER PUBLICATION {name} DROP TABLE t")
    database.execute(f"ALTER PUBLICATION {name} ADD TABLE t")
    assert set(errors_of(sync_once(config))) == {"public.t"}


@pytest.mark.parametrize("server", ["database", "older_database"])
def test_a_large_transaction_that_was_rolled_back_does_not_crash_the_server(
    request: pytest.FixtureRequest, server: str, tmp_path: Path
) -> None:
    """From version 18 on it is reported as one that was streamed: test_decoding falls over it."""
    source: ScratchDatabase = request.getfixturevalue(server)
    source.execute(f"ALTER DATABASE {source.name} SET logical_decoding_work_mem = '64kB'")
    config = prepared(source, partial(make_pipeline, source, tmp_path))
    with closing(source.connect()) as writer:
        writer.execute(
            "BEGIN; SAVEPOINT s; INSERT INTO t VALUES (-1, 'a'); RELEASE s;"
            "INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series(100, 3000) n; ROLLBACK"
        )
        source.execute(f"ALTER PUBLICATION {config.source.publication} {ALL_KINDS}")
        source.execute(WRITES)
        errors = errors_of(sync_once(config))
        assert writer.execute("SELECT 1").fetchone() == (1,)
    if server == "older_database":
        assert not errors
    else:
        assert len(errors) == 4
        assert "can't be known by a server that 'test_decoding' crashes" in str(errors["public.t"])
        forget_tables(config, config.table_names)
    converge(source, config)
