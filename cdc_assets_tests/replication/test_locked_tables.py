"""Tables that somebody keeps locked: they wait a little, the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from cdc_assets import waits
from cdc_assets.source import snapshot
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_all, sync_once


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "LOCK_TIMEOUT_SECONDS", 0.5)


@pytest.fixture
def tables(database: ScratchDatabase) -> ScratchDatabase:
    database.execute(
        "CREATE TABLE plain (id int PRIMARY KEY); INSERT INTO plain VALUES (1);"
        "CREATE TABLE healthy (id int PRIMARY KEY); INSERT INTO healthy VALUES (1);"
        "CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);"
        "CREATE TABLE part PARTITION OF parted DEFAULT; INSERT INTO parted VALUES (1)"
    )
    return database


@contextmanager
def locked(database: ScratchDatabase, table: str) -> Iterator[psycopg.Connection]:
    """Hold a table locked in an open transaction inside the block."""
    with database.connect() as holder, holder.transaction(force_rollback=True):
        holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")  # type: ignore[call-overload]
        yield holder


@pytest.mark.parametrize(("table", "what"), [("plain", "plain"), ("parted", "part")])
def test_a_locked_table_that_waits_for_its_copy_is_left_behind_with_who_holds_it(
    tables: ScratchDatabase, pipeline: MakePipeline, table: str, what: str
) -> None:
    config = pipeline(f"public.{table}", "public.healthy")
    said: list[str] = []
    with locked(tables, what) as holder, waits.listening(said.append):
        pid = holder.info.backend_pid
        errors = errors_of(sync_once(config))

    assert said == [
        f"waiting for pid {pid} on the source to let go of table 'public.{table}', up to 0 s"
    ]
    assert f"pid {pid} on the source keeps it locked" in errors[f"public.{table}"].message
    assert mirror_rows(config, "public.healthy", "id") == [(1,)]
    converge(tables, config)


def test_a_table_that_is_let_go_of_in_time_is_copied(
    tables: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "LOCK_TIMEOUT_SECONDS", 30.0)
    config = pipeline("public.plain")
    with tables.connect() as holder:
        holder.autocommit = False
        holder.execute("LOCK TABLE plain")

        with waits.listening(lambda _: holder.rollback()):
            converge(tables, config)


@pytest.mark.parametrize("table", ["plain", "part", "parted"])
def test_a_lock_on_a_table_that_streams_holds_up_nothing(
    tables: ScratchDatabase, pipeline: MakePipeline, table: str
) -> None:
    config = pipeline("public.plain", "public.parted", "public.healthy")
    converge(tables, config)
    tables.execute("INSERT INTO plain VALUES (2); INSERT INTO parted VALUES (2)")
    with locked(tables, table):
        assert sync_all(config).counts.inserted == 2
    assert_equal_to_source(tables, config)


def test_a_locked_table_with_a_row_filter_holds_up_nothing(
    tables: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = pipeline("public.plain", "public.healthy")
    tables.execute(
        f"ALTER PUBLICATION {config.source.publication} SET TABLE plain WHERE (id > 0), healthy"
    )
    tables.execute("INSERT INTO plain VALUES (-1)")
    with locked(tables, "plain") as holder:
        pid = holder.info.backend_pid
        errors = errors_of(sync_once(config))
    assert f"pid {pid} on the source" in errors["public.plain"].message
    assert mirror_rows(config, "public.healthy", "id") == [(1,)]

    sync_all(config)
    assert mirror_rows(config, "public.plain", "id") == [(1,)]
    tables.execute("INSERT INTO plain VALUES (-2), (2)")
    with locked(tables, "plain"):
        assert sync_all(config).counts.inserted == 1
    assert mirror_rows(config, "public.plain", "id") == [(1,), (2,)]


def test_a_publication_that_is_being_altered_holds_up_nothing(
    tables: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = pipeline("public.plain")
    converge(tables, config)
    tables.execute("INSERT INTO plain VALUES (2)")
    with tables.connect() as other, other.transaction(force_rollback=True):
        name = config.source.publication
        other.execute(f"ALTER PUBLICATION {name} ADD TABLE healthy")  # type: ignore[call-overload]
        assert sync_all(config).counts.inserted == 1


_VIEW = "SELECT schemaname, tablename, attnames, rowfilter FROM pg_publication_tables"
_KINDS = (
    "FOR TABLE plain, parted",
    "FOR TABLE plain, part",
    "FOR TABLE part, parted",
    "FOR TABLE plain (id) WHERE (id > 0), other.b",
    "FOR TABLES IN SCHEMA other",
    "FOR TABLES IN SCHEMA other, public",
    "FOR TABLE parted, TABLES IN SCHEMA other",
    "FOR TABLE plain WHERE (id > 0), TABLES IN SCHEMA public",
    "FOR TABLE parent",
    "FOR TABLE ONLY parent",
    "FOR ALL TABLES",
)


@pytest.mark.parametrize("version", ["newest", "older"])
@pytest.mark.parametrize("via_root", [True, False])
def test_what_is_published_is_what_the_server_says(
    request: pytest.FixtureRequest, version: str, via_root: bool
) -> None:
    from cdc_assets.identifiers import TableName
    from cdc_assets.source.catalog import read_catalog
    from cdc_assets.source.connection import connect

    source = request.getfixturevalue("database" if version == "newest" else "older_database")
    source.execute(
        "CREATE SCHEMA other; CREATE TABLE plain (id int PRIMARY KEY, a int);"
        "CREATE TABLE parted (id int, k int, PRIMARY KEY (id, k)) PARTITION BY RANGE (id);"
        "CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (9) PARTITION BY RANGE (k);"
        "CREATE TABLE other.leaf PARTITION OF part DEFAULT;"
        "CREATE TABLE second PARTITION OF parted DEFAULT;"
        "CREATE TABLE other.b (id int PRIMARY KEY); CREATE UNLOGGED TABLE u (id int PRIMARY KEY);"
        "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child () INHERITS (parent)"
    )
    names = [
        TableName(schema, name)
        for schema, name in source.execute(
            "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE relkind IN ('r', 'p') AND nspname IN ('public', 'other')"
        )
    ]
    for kind in _KINDS:
        source.execute("DROP PUBLICATION IF EXISTS p")
        source.execute(
            f"CREATE PUBLICATION p {kind} WITH (publish_via_partition_root = {via_root})"
        )
        with connect(source.dsn) as connection:
            tables = read_catalog(connection, "p", names).tables
        found = {
            (table.name.schema, table.name.name): (set(table.shape.names), table.row_filter or None)
            for table in tables.values()
            if table.published
        }
        expected = {
            (schema, name): (set(columns), row_filter)
            for schema, name, columns, row_filter in source.execute(_VIEW)
        }
        assert found == expected, kind
