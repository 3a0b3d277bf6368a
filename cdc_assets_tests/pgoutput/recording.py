"""Recorded streams: a slot's messages as a server of each version wrote them.

`python -m cdc_assets_tests.pgoutput.recording` records all of them again, with servers of its own.
A file has a message per line, as a Python bytes literal.
"""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import LiteralString, cast

import psycopg

from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets_tests.conftest import PROGRAMS, SERVER_SETTINGS, serve
from cdc_assets_tests.values import KINDS, Kind

VERSIONS = tuple(sorted(PROGRAMS))

_FOLDER = Path(__file__).parent / "recorded"
_LONGEST = 100  # characters of a value
_SLOT = "recorded"
# Without streaming a server of version 18 says what was aborted, once it was larger than this
_SETTINGS = {**SERVER_SETTINGS, "logical_decoding_work_mem": "64kB"}

_KINDS = [kind for kind in KINDS if not kind.is_made]
_TYPED = ", ".join(f"c{at} {kind.type}" for at, kind in enumerate(_KINDS))

TABLES = f"""
CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"');
CREATE DOMAIN short AS varchar(5);
CREATE TABLE typed (id int PRIMARY KEY, m mood, ms mood[], s short, {_TYPED});
CREATE TABLE keyed (id int PRIMARY KEY, note text, n numeric);
ALTER TABLE keyed ALTER note SET STORAGE EXTERNAL;
CREATE TABLE whole (a int, note text);
ALTER TABLE whole ALTER note SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
CREATE TABLE indexed (a text, b int NOT NULL, c timestamptz NOT NULL);
CREATE UNIQUE INDEX by_c_and_b ON indexed (c, b);
ALTER TABLE indexed REPLICA IDENTITY USING INDEX by_c_and_b;
CREATE TABLE keyless (note text);
CREATE TABLE "Größe 日本" ("Id" int PRIMARY KEY, "имя" text, "a.b" int);
CREATE TABLE parted (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100);
CREATE TABLE parted_high (v text, gone int, id int NOT NULL);
ALTER TABLE parted_high DROP gone;
ALTER TABLE parted ATTACH PARTITION parted_high FOR VALUES FROM (100) TO (200);
CREATE TABLE filtered (id int PRIMARY KEY, v text, hidden text);
CREATE PUBLICATION p FOR TABLE typed, keyed, whole, indexed, keyless, "Größe 日本", parted,
    filtered (id, v) WHERE (id > 10) WITH (publish_via_partition_root = true);
SELECT pg_replication_origin_create('elsewhere');
"""

CHANGES = (
    "INSERT INTO keyed VALUES (1, repeat('x', 2100), 1.50), (2, '', NULL), (3, NULL, 'NaN')",
    "UPDATE keyed SET n = n + 1",
    "UPDATE keyed SET id = id + 10 WHERE id < 3; DELETE FROM keyed WHERE id = 3",
    "INSERT INTO whole VALUES (1, 'é'), (1, 'é'), (NULL, NULL), (2, repeat('y', 2100))",
    "UPDATE whole SET a = 5 WHERE a = 2; UPDATE whole SET note = NULL; DELETE FROM whole",
    "INSERT INTO indexed VALUES ('one', 1, '2024-02-29 12:00+00'), ('two', 2, '-infinity')",
    "UPDATE indexed SET a = NULL; UPDATE indexed SET b = b + 1; DELETE FROM indexed WHERE b = 3",
    "INSERT INTO keyless SELECT 'line ' || n FROM generate_series(1, 20) n",
    """INSERT INTO "Größe 日本" VALUES (1, 'да', 2); UPDATE "Größe 日本" SET "Id" = 2""",
    "INSERT INTO parted VALUES (1, 'low'), (101, 'high'); UPDATE parted SET id = id + 1",
    "UPDATE parted SET id = 150 WHERE id = 2; DELETE FROM parted WHERE id = 102",
    "INSERT INTO filtered VALUES (1, 'out', 'h'), (11, 'in', 'h')",
    "UPDATE filtered SET id = id + 15; UPDATE filtered SET id = id - 15; DELETE FROM filtered",
    "BEGIN; INSERT INTO keyed VALUES (20); SAVEPOINT s; INSERT INTO keyed VALUES (21);"
    " ROLLBACK TO s; INSERT INTO keyed VALUES (22); COMMIT",
    "BEGIN; INSERT INTO keyed VALUES (30); SAVEPOINT s; INSERT INTO keyed VALUES (31);"
    " RELEASE s; INSERT INTO keyed SELECT n, repeat('z', 200) FROM generate_series(100, 999) n;"
    " ROLLBACK",
    "SELECT pg_logical_emit_message(true, 'prefix', 'content'); INSERT INTO keyed VALUES (40)",
    "ALTER TABLE keyed ADD COLUMN later date DEFAULT '2024-02-29'; INSERT INTO keyed VALUES (50)",
    "ALTER TABLE keyed DROP COLUMN n; UPDATE keyed SET note = 'shorter' WHERE id = 11",
    "SELECT pg_replication_origin_session_setup('elsewhere')",
    "INSERT INTO keyed VALUES (60)",
    "SELECT pg_replication_origin_session_reset()",
    "TRUNCATE keyed, whole RESTART IDENTITY; INSERT INTO keyed VALUES (70)",
)


@cache
def recorded(version: int) -> tuple[bytes, ...]:
    """Read the messages that were recorded of a server's version."""
    lines = _path(version).read_text().splitlines()
    return tuple(ast.literal_eval(line) for line in lines)


def record(server: EmbeddedPostgres) -> list[bytes]:
    """Make the tables and changes on a fresh server, and give what its slot says of them."""
    with closing(psycopg.connect(server.dsn(), autocommit=True)) as session:
        _run(session, TABLES)
        session.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [_SLOT])
        for change in (*CHANGES, *_typed_rows()):
            _run(session, change)
        rows = session.execute(
            "SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'p', 'messages', 'true')",
            [_SLOT],
        ).fetchall()
        session.execute("SELECT pg_drop_replication_slot(%s)", [_SLOT])
    return [data for (data,) in rows]


def _typed_rows() -> Iterator[str]:
    for row in range(3):
        texts = [[text for text in kind.texts if _is_recorded(kind, text)] for kind in _KINDS]
        values = (_literal(of_kind[row % len(of_kind)]) if of_kind else "NULL" for of_kind in texts)
        made = """'sad', ARRAY['it''s "ok"', NULL]::mood[], 'short'"""
        yield f"INSERT INTO typed VALUES ({row}, {made}, {', '.join(values)})"
    yield "INSERT INTO typed (id) VALUES (9); UPDATE typed SET id = id + 10; DELETE FROM typed"


def _is_recorded(kind: Kind, text: str) -> bool:
    # an interval is infinite since version 17
    is_new = kind.type.startswith("interval") and "infinity" in text
    return len(text) < _LONGEST and not is_new


def _literal(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def _run(session: psycopg.Connection, sql: str) -> None:
    session.execute(cast("LiteralString", sql))


def _path(version: int) -> Path:
    return _FOLDER / f"postgres-{version}.txt"


def main() -> None:
    """Record a stream of each version."""
    for version in VERSIONS:
        with tempfile.TemporaryDirectory() as directory:
            server = EmbeddedPostgres(
                Path(directory), settings=_SETTINGS, bin_dir=PROGRAMS[version]()
            )
            for started in serve(server):
                lines = [f"{message!r}\n" for message in record(started)]
        _path(version).write_text("".join(lines))


if __name__ == "__main__":
    main()
