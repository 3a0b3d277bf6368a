"""No value is lost or changed: by copy and by stream, whatever the database's settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import LiteralString, cast

import psycopg
import pytest

from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.round_trips import WAYS, RoundTrip, round_trips
from cdc_assets_tests.values import CODE_POINTS, KINDS, OLDER_KINDS, TYPES_SQL, Kind

RoundTrips = dict[str, RoundTrip]
Folders = pytest.TempPathFactory

BUILT_IN = [kind for kind in KINDS if not kind.is_made]
ODD_SETTINGS = {
    "DateStyle": "'SQL, DMY'",
    "IntervalStyle": "'sql_standard'",
    "TimeZone": "'Asia/Kathmandu'",
    "bytea_output": "'escape'",
    "extra_float_digits": "-15",
    "xmloption": "'document'",
    "search_path": "'elsewhere'",
    "standard_conforming_strings": "off",
    "default_transaction_isolation": "'serializable'",
    "client_encoding": "'LATIN1'",
    "statement_timeout": "'1min'",
}


@contextmanager
def scratch(server: EmbeddedPostgres, name: str) -> Iterator[ScratchDatabase]:
    database = ScratchDatabase(server, name)
    try:
        yield database
    finally:
        database.drop()


@pytest.fixture(scope="module")
def plain(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RoundTrips]:
    with scratch(postgres, "values_plain") as database:
        database.create()
        database.execute(TYPES_SQL)
        yield round_trips(database, tmp_path_factory.mktemp("plain"), KINDS)


@pytest.fixture(scope="module")
def odd(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RoundTrips]:
    """A database whose own settings would change nearly every text."""
    with scratch(postgres, "values_odd") as database:
        database.create()
        database.execute(TYPES_SQL)
        database.execute("CREATE SCHEMA elsewhere")
        for name, value in ODD_SETTINGS.items():
            database.execute(f"ALTER DATABASE {database.name} SET {name} = {value}")
        yield round_trips(database, tmp_path_factory.mktemp("odd"), BUILT_IN)


@pytest.fixture(scope="module")
def older(older_postgres: EmbeddedPostgres, tmp_path_factory: Folders) -> Iterator[RoundTrips]:
    with scratch(older_postgres, "values_older") as database:
        database.create()
        yield round_trips(database, tmp_path_factory.mktemp("older"), OLDER_KINDS)


@pytest.fixture(scope="module")
def latin1(
    postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RoundTrips]:
    letters = "".join(map(chr, [*range(1, 128), *range(160, 256)]))
    kinds = [
        Kind("text", "VARCHAR", ("", "\u00e9\u00df", letters)),
        Kind("varchar(10)", "VARCHAR", ("\u00fc" * 10,)),
        Kind("char(3)", "VARCHAR", ("\u00fc",)),
        Kind("text[]", "VARCHAR[]", ('{"\u00e9 \u00e8",NULL}',)),
        Kind("json", "JSON", ('{"\u00e9": "\u00ff"}',)),
        Kind("bytea", "BLOB", ("\\xe9ff",)),
    ]
    with scratch(postgres, "values_latin1") as database:
        with closing(psycopg.connect(postgres.dsn(), autocommit=True)) as admin:
            sql = f"CREATE DATABASE {database.name} ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'"
            admin.execute(cast("LiteralString", sql))
        yield round_trips(database, tmp_path_factory.mktemp("latin1"), kinds)


def expect_same(found: RoundTrip) -> None:
    assert found.error is None
    for way, first in WAYS.items():
        expected, got = found.expected_from(first), found.got_from(first)
        assert len(expected) == len(found.kind.texts) + 1
        assert got == expected, way


@pytest.mark.parametrize("kind", [kind.type for kind in KINDS])
def test_every_value_survives(plain: RoundTrips, kind: str) -> None:
    expect_same(plain[kind])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
def test_the_mirror_has_the_documented_type(plain: RoundTrips, kind: Kind) -> None:
    assert plain[kind.type].column_type == kind.warehouse


@pytest.mark.parametrize("kind", [kind.type for kind in BUILT_IN])
def test_the_databases_settings_change_nothing(odd: RoundTrips, kind: str) -> None:
    expect_same(odd[kind])


@pytest.mark.parametrize("kind", ["text", "varchar(10)", "char(3)", "text[]", "json", "bytea"])
def test_a_latin1_database_reads_as_unicode(latin1: RoundTrips, kind: str) -> None:
    expect_same(latin1[kind])


@pytest.mark.parametrize("kind", [kind.type for kind in OLDER_KINDS])
def test_every_value_of_an_older_server_survives(older: RoundTrips, kind: str) -> None:
    expect_same(older[kind])


def test_the_texts_cover_all_planes_ends() -> None:
    assert {"\x01", "\ud7ff", "\ue000", "\uffff", "\U0010ffff"} <= set(CODE_POINTS)
