"""A chunk that is read while the source goes on, and the stream, give every row once and whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets.replication import copying, sync
from cdc_assets.source.snapshot import SnapshotReader
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, make_small
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

NOTES = """
CREATE TABLE notes (id int PRIMARY KEY, body text, seen int NOT NULL DEFAULT 0);
ALTER TABLE notes ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO notes SELECT n * 10, repeat(md5(n::text), 90) FROM generate_series(1, 9) AS n
"""


@pytest.fixture(params=["at the end", "between chunks"])
def chunks_of_three(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small chunks; the stream is applied when all are read, or behind each."""
    monkeypatch.setattr(copying, "CHUNK_ROWS", 3)
    if request.param == "between chunks":
        monkeypatch.setattr(sync, "TURN_SECONDS", 0)
    return str(request.param)


@pytest.fixture
def read_anew(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The keys that a run reads by themselves; the reading is the real one."""
    keys: list[tuple[str, ...]] = []
    read_keys = SnapshotReader.read_keys

    @contextmanager
    def noting(self: SnapshotReader, *args: Any, **more: Any) -> Iterator[Any]:
        keys.extend(args[-1])
        with read_keys(self, *args, **more) as chunk:
            yield chunk

    monkeypatch.setattr(SnapshotReader, "read_keys", noting)
    return keys


@pytest.mark.usefixtures("chunks_of_three")
@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ("id int PRIMARY KEY", "SELECT n FROM generate_series(-7, 120, 9) AS n"),
        (
            'a bigint, "B" text, c date, PRIMARY KEY (c, "B", a)',
            "SELECT n, chr(60 + n * 3), date '0001-01-01 BC' + n % 4 FROM generate_series(1, 17) n",
        ),
        (
            "b bool, f float8, PRIMARY KEY (f, b)",
            "VALUES (true, 9), (false, 9), (true, 10),"
            " (true, '-Infinity'), (false, '1e-300'), (false, 'NaN'), (true, 'NaN')",
        ),
        ("k numeric PRIMARY KEY", "SELECT n * 1.50 FROM generate_series(-3, 12) AS n"),
        ("k bytea PRIMARY KEY", "SELECT decode(to_hex(n), 'hex') FROM generate_series(16, 99) n"),
        ("k char(4) PRIMARY KEY", "SELECT n::text FROM generate_series(1, 14) AS n"),
    ],
    ids=["int", "composite", "float and bool", "numeric", "bytea", "char"],
)
def test_every_row_is_in_one_chunk_whatever_the_key(
    database: ScratchDatabase, pipeline: MakePipeline, columns: str, rows: str
) -> None:
    database.execute(f"CREATE TABLE t ({columns}); INSERT INTO t {rows}")

    finished = converge(database, pipeline("public.t"))

    (count,) = database.execute("SELECT count(*) FROM t")[0]
    assert finished.counts.copied == count


@pytest.mark.usefixtures("chunks_of_three")
@pytest.mark.parametrize("collation", ["en-x-icu", "sv-x-icu", "und-x-icu", "C"])
def test_a_text_key_of_any_collation_is_copied_beside_changes(
    older_database: ScratchDatabase, tmp_path: Path, collation: str
) -> None:
    words = ["a", "A", "b", "B", "z", "Z", "ä", "Ä", "å", "é", "e", "f", "_x", " x", "-x", "x-y"]
    older_database.execute(
        f'CREATE TABLE t (word text COLLATE "{collation}", n int, body text,'
        " PRIMARY KEY (word, n));"
        "ALTER TABLE t ALTER COLUMN body SET STORAGE EXTERNAL"
    )
    older_database.execute(
        "INSERT INTO t SELECT word, 1, repeat(md5(word), 90) FROM unnest(%s::text[]) AS word",
        [words],
    )
    config = make_pipeline(older_database, tmp_path, "public.t")

    def move() -> None:
        older_database.execute("UPDATE t SET word = 'zz' || word WHERE word IN ('a', '_x')")
        older_database.execute("UPDATE t SET word = ' ' || word WHERE word IN ('z', 'Z', 'å')")
        older_database.execute("UPDATE t SET n = n + 1 WHERE word IN ('b', 'B', 'ä', 'é')")

    with ExitStack() as stack:
        for number in (1, 3, 5):
            stack.enter_context(at_step("chunk_committed", number, move))
        converge(older_database, config)


@pytest.mark.usefixtures("chunks_of_three")
def test_a_key_of_an_extensions_type_is_copied_beside_changes(
    older_database: ScratchDatabase, tmp_path: Path
) -> None:
    older_database.execute("CREATE EXTENSION citext; CREATE TABLE t (k citext PRIMARY KEY)")
    older_database.execute("INSERT INTO t SELECT unnest(ARRAY['a','B','c','D','e','F','g','H'])")
    config = make_pipeline(older_database, tmp_path, "public.t")

    def move() -> None:
        older_database.execute("UPDATE t SET k = upper(k) WHERE k IN ('a', 'g')")
        older_database.execute("INSERT INTO t VALUES ('Aa'), ('aB'), ('z')")

    with at_step("chunk_committed", 2, move):
        converge(older_database, config)


def test_a_row_that_moves_before_it_is_read_keeps_its_stored_apart_text(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    read_anew: list[tuple[str, ...]],
    chunks_of_three: str,
) -> None:
    database.execute(NOTES)
    config = pipeline("public.notes")

    def move() -> None:
        database.execute("UPDATE notes SET id = 15 WHERE id = 80")

    with at_step("chunk_committed", 1, move):
        converge(database, config)

    # the stream has written it before its chunk was read, and could not bring the text
    assert read_anew == ([("15",)] if chunks_of_three == "between chunks" else [])
    database.execute("UPDATE notes SET seen = seen + 1")
    converge(database, config)


@pytest.mark.usefixtures("chunks_of_three")
def test_a_row_that_was_read_and_moves_is_there_once(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(NOTES)

    def move() -> None:
        database.execute("UPDATE notes SET id = 85 WHERE id = 20")

    with at_step("chunk_committed", 1, move):
        converge(database, pipeline("public.notes"))


@pytest.mark.parametrize("last_step", [1, 2, 3])
def test_rows_that_move_again_and_again_over_chunks_keep_their_text(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    read_anew: list[tuple[str, ...]],
    chunks_of_three: str,
    last_step: int,
) -> None:
    """A chain of moves over all chunks, a swap in one transaction, a move that is taken back."""
    database.execute(NOTES)
    moves = {
        1: "UPDATE notes SET id = 5 WHERE id = 70;"
        "UPDATE notes SET id = -1 WHERE id = 20; UPDATE notes SET id = 20 WHERE id = 80;"
        "UPDATE notes SET id = 80 WHERE id = -1; UPDATE notes SET id = 31 WHERE id = 90",
        2: "UPDATE notes SET id = 6 WHERE id = 5; UPDATE notes SET seen = 1 WHERE id = 31;"
        "UPDATE notes SET id = 90 WHERE id = 31; UPDATE notes SET seen = 2 WHERE id = 20;"
        "DELETE FROM notes WHERE id = 30; UPDATE notes SET id = 30 WHERE id = 60",
        3: "UPDATE notes SET id = 75 WHERE id = 6; DELETE FROM notes WHERE id = 30;"
        "INSERT INTO notes VALUES (30, 'anew'); UPDATE notes SET id = 7 WHERE id = 80",
    }

    with ExitStack() as stack:
        for step in range(1, last_step + 1):
            stack.enter_context(
                at_step("chunk_committed", step, lambda sql=moves[step]: database.execute(sql))
            )
        converge(database, pipeline("public.notes"))

    assert bool(read_anew) == (chunks_of_three == "between chunks")


@pytest.mark.usefixtures("chunks_of_three")
def test_a_window_that_is_undone_takes_back_what_it_wrote_into_a_copy(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    """Another table fails in the window: rows and gaps are gone, and must come again."""
    database.execute(NOTES)
    database.execute("CREATE TABLE other (id int PRIMARY KEY)")
    config = pipeline("public.notes", "public.other", schema_changes="stop")

    def move() -> None:
        database.execute("UPDATE notes SET id = 15 WHERE id = 80")

    def alter() -> None:
        database.execute("ALTER TABLE other ADD COLUMN more int; INSERT INTO other VALUES (1, 2)")

    sync_once(config)
    forget_tables(config, [TableName.parse("public.notes")])
    with at_step("chunk_committed", 1, move), at_step("chunk_committed", 2, alter):
        finished = sync_once(config)

    assert list(errors_of(finished)) == ["public.other"]
    assert mirror_rows(config, "public.notes", "id, body") == database.execute(
        "SELECT id, body FROM notes ORDER BY id"
    )


@pytest.mark.usefixtures("chunks_of_three")
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    "sql",
    [
        "TRUNCATE notes",
        "TRUNCATE notes; INSERT INTO notes VALUES (25, 'b'), (65, 'c'), (95, 'd')",
        "INSERT INTO notes VALUES (25, 'b'); TRUNCATE notes; INSERT INTO notes VALUES (10, 'e')",
    ],
    ids=["alone", "before inserts", "between inserts"],
)
def test_a_truncation_between_chunks_empties_what_was_copied_before_it(
    database: ScratchDatabase, pipeline: MakePipeline, number: int, sql: str
) -> None:
    database.execute(NOTES)

    with at_step("chunk_committed", number, lambda: database.execute(sql)):
        converge(database, pipeline("public.notes"))


@pytest.mark.usefixtures("chunks_of_three")
@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_transaction_that_is_open_over_several_chunks_counts_once(
    database: ScratchDatabase, pipeline: MakePipeline, end: str, number: int
) -> None:
    database.execute(NOTES)
    config = pipeline("public.notes")
    with database.connect() as long:
        long.autocommit = False
        long.execute("UPDATE notes SET id = 15 WHERE id = 80; DELETE FROM notes WHERE id = 90")
        long.execute("SAVEPOINT s; UPDATE notes SET seen = 7 WHERE id = 20")

        def close() -> None:
            long.execute("INSERT INTO notes VALUES (1, 'late'), (100, 'late')")
            getattr(long, end)()

        with at_step("chunk_committed", number, close):
            converge(database, config)


@pytest.mark.usefixtures("chunks_of_three")
def test_a_transaction_that_is_open_over_the_whole_first_sync_comes_with_the_next(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(NOTES)
    config = pipeline("public.notes")
    with database.connect() as long:
        long.autocommit = False
        long.execute("UPDATE notes SET id = id - 75 WHERE id IN (80, 90)")
        converge(database, config)
        database.execute("UPDATE notes SET seen = 1 WHERE id = 10")
        long.commit()

    converge(database, config)


@pytest.mark.parametrize("seed", [10, 20])
def test_a_copy_beside_several_writers_ends_equal(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    make_small(monkeypatch.setattr)
    monkeypatch.setattr(copying, "CHUNK_ROWS", 20)
    create_ledger(database)
    config = pipeline(*TABLES)

    with ExitStack() as writers:
        for more in range(3):
            writers.enter_context(Writer(database, seed + more).running())
        sync_once(config)
        sync_once(config)

    converge(database, config)
