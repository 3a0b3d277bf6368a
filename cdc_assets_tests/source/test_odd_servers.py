"""Databases of other encodings and collations, roles with settings, and very wide tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import LiteralString, cast

import psycopg
import pytest

from cdc_assets.config import load_config
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.errors import PreflightError
from cdc_assets.operations.checking import find_problems
from cdc_assets.source.setup import setup
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, mirror_rows, sync_once
from cdc_assets_tests.values import KINDS

ROLE_SETTINGS = {
    "DateStyle": "'German'",
    "IntervalStyle": "'iso_8601'",
    "TimeZone": "'America/St_Johns'",
    "bytea_output": "'escape'",
    "extra_float_digits": "-15",
    "lc_monetary": "'C.UTF-8'",
    "xmlbinary": "'hex'",
    "statement_timeout": "'500ms'",
    "lock_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'20ms'",
    "idle_session_timeout": "'1s'",
    "search_path": "'elsewhere'",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "'serializable'",
    "row_security": "on",
    "quote_all_identifiers": "on",
}
VALUES = "* EXCLUDE (_cdc_lsn, _cdc_commit_ts)"


@contextmanager
def database_of(server: EmbeddedPostgres, name: str, options: str) -> Iterator[ScratchDatabase]:
    database = ScratchDatabase(server, name)
    with closing(psycopg.connect(server.dsn(), autocommit=True)) as admin:
        sql = f"CREATE DATABASE {name} TEMPLATE template0 {options}"
        admin.execute(cast("LiteralString", sql))
    try:
        yield database
    finally:
        database.drop()


@pytest.fixture
def limited(database: ScratchDatabase) -> Iterator[str]:
    """A role with settings of its own, which may publish tables and read them."""
    role = f"limited_{database.name}"
    database.execute(
        f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x';"
        f"GRANT CREATE ON DATABASE {database.name} TO {role};"
        f"GRANT ALL ON SCHEMA public TO {role}; CREATE SCHEMA elsewhere AUTHORIZATION {role}"
    )
    for name, value in ROLE_SETTINGS.items():
        database.execute(f"ALTER ROLE {role} SET {name} = {value}")
    try:
        yield role
    finally:
        database.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_settings_of_the_role_change_no_value_and_break_no_run(
    database: ScratchDatabase, pipeline: MakePipeline, limited: str
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, d date, ts timestamptz, i interval, b bytea,"
        " f float8, m money, r regclass, a timestamptz[]);"
        f"ALTER TABLE t OWNER TO {limited}"
    )
    row = (
        "(1, '2024-02-29', '2024-02-29 12:34:56.7+00', '1 year -2 days 3.5 s', '\\x00ff',"
        " 0.30000000000000004, 1234.5, 'pg_class', '{2024-02-29 12:00+05}')"
    )
    database.execute(f"INSERT INTO t VALUES {row}")
    made = pipeline("public.t", create=False)
    dsn = f"postgresql://{limited}:x@127.0.0.1:{database.server.port}/{database.name}"
    config = load_config(rewrite(made, source__dsn=dsn))
    setup(config)
    assert find_problems(config) == []
    converge(database, config)
    copied = mirror_rows(config, "public.t", VALUES)
    database.execute(f"DELETE FROM t; INSERT INTO t VALUES {row}")
    converge(database, config)
    assert mirror_rows(config, "public.t", VALUES) == copied


TEXTS = {
    "latin1": ("ENCODING 'LATIN1' LOCALE 'C'", "é", "ü£"),
    "euc": ("ENCODING 'EUC_JP' LOCALE 'C'", "表", "日本語ソ"),
    "icu": ("ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'de-u-kn'", "ß", "Äa10"),
    "libc": ("ENCODING 'UTF8' LOCALE 'C.UTF-8'", "Ж", "ж\u0301"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_names_keys_and_texts_of_any_database_are_unicode(
    older_postgres: EmbeddedPostgres, tmp_path: Path, kind: str
) -> None:
    options, name, text = TEXTS[kind]
    # Debian's, as wheels have no ICU
    with database_of(older_postgres, f"odd_{kind}", options) as database:
        database.execute(
            f'CREATE TABLE "t{name}" ("{name}" text PRIMARY KEY, v text, old text);'
            f'ALTER TABLE "t{name}" REPLICA IDENTITY FULL'
        )
        keys = ["", "a", "B", "b", "10", "9", "Z", text, text * 2, text.upper(), f"a{text}", "-a"]
        keys = list(dict.fromkeys(keys))
        for key in keys[::2]:
            database.execute(f"""INSERT INTO "t{name}" VALUES ('{key}', '{text}')""")
        config = make_pipeline(database, tmp_path, f"public.t{name}")
        converge(database, config)
        for key in keys[1::2]:
            database.execute(f"""INSERT INTO "t{name}" VALUES ('{key}', '{text}')""")
        database.execute(f"""UPDATE "t{name}" SET v = '{name}' WHERE "{name}" >= 'a'""")
        database.execute(f"""DELETE FROM "t{name}" WHERE "{name}" < '9'""")
        converge(database, config)
        assert mirror_rows(config, f"public.t{name}", "count(*)") != [(0,)]


def test_a_database_whose_bytes_mean_nothing_is_refused_before_anything_is_made(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    with database_of(postgres, "odd_ascii", "ENCODING 'SQL_ASCII' LOCALE 'C'") as database:
        database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        database.execute(r"INSERT INTO t VALUES (1, E'\xff\xfe')")
        config = make_pipeline(database, tmp_path, "public.t", create=False)
        assert "SQL_ASCII" in str(find_problems(config)[0])
        with pytest.raises(PreflightError, match="SQL_ASCII"):
            setup(config)
        with pytest.raises(PreflightError, match="SQL_ASCII"):
            sync_once(config)
        assert not config.warehouse_path.exists()
        assert database.execute("SELECT 1 FROM pg_publication") == []


def test_a_table_of_as_many_columns_as_postgres_has(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    columns = [f"c{at}" for at in range(1599)]
    database.execute(
        f"CREATE TABLE t (id int PRIMARY KEY, {', '.join(f'{c} int' for c in columns)})"
    )
    database.execute("INSERT INTO t (id, c0, c1598) SELECT n, n, -n FROM generate_series(1, 50) n")
    config = pipeline("public.t")
    converge(database, config)
    database.execute("UPDATE t SET c0 = c0 + 1, c800 = 8 WHERE id < 20; DELETE FROM t WHERE id = 1")
    database.execute("UPDATE t SET id = id + 100 WHERE id > 40; INSERT INTO t (id) VALUES (1000)")
    converge(database, config)


def test_a_table_of_many_types(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    kinds = [kind for kind in KINDS if not kind.is_made and len(max(kind.texts, key=len)) < 3000]
    chosen = [kinds[at % len(kinds)] for at in range(500)]
    assert len({kind.type for kind in chosen}) >= 70
    columns = ", ".join(f"c{at} {kind.type}" for at, kind in enumerate(chosen))
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    database.execute("INSERT INTO t (id) VALUES (0)")
    config = pipeline("public.t")

    def insert(key: int) -> None:
        texts = [kind.texts[(key + at) % len(kind.texts)] for at, kind in enumerate(chosen)]
        marks = ", ".join(f"%s::{kind.type.replace('%', '%%')}" for kind in chosen)
        database.execute(f"INSERT INTO t VALUES ({key}, {marks})", texts)

    insert(1)
    converge(database, config)
    insert(2)
    database.execute("UPDATE t SET id = id + 10")
    converge(database, config)


def test_a_server_of_version_17(late_database: ScratchDatabase, tmp_path: Path) -> None:
    late_database.execute(
        "CREATE TABLE t (id int, part int, v text, PRIMARY KEY (id, part))"
        " PARTITION BY LIST (part);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);"
        "CREATE TABLE t2 PARTITION OF t FOR VALUES IN (2);"
        "CREATE TABLE u (id int PRIMARY KEY, i interval);"
        "INSERT INTO t SELECT n, 1, repeat('x', n * 40) FROM generate_series(1, 100) n;"
        "INSERT INTO u VALUES (1, '1 mon')"
    )
    config = make_pipeline(late_database, tmp_path, "public.t", "public.u")
    assert find_problems(config) == []
    converge(late_database, config)
    late_database.execute("UPDATE t SET part = 2 WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0")
    late_database.execute("UPDATE u SET id = 2, i = '-3 days'; INSERT INTO t VALUES (0, 2, NULL)")
    converge(late_database, config)
