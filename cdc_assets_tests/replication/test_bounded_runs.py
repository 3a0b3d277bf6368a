"""A run ends, whatever is written while it goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

import psycopg
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets.replication import copying, fencing
from cdc_assets.replication.backfill import backfill
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.replication.test_rows_publications import publish
from cdc_assets_tests.syncs import converge, has_mirror, mirror_rows, sync_all, sync_once
from cdc_assets_tests.waiting import wait_for

ROWS = 200
LIMIT_SECONDS = 40  # of writing: a run that follows the present goes on for as long


@contextmanager
def written(
    database: ScratchDatabase, write: Callable[[psycopg.Connection, int], object]
) -> Iterator[threading.Event]:
    """Write without a pause inside the block; the event is set once writing has ended."""
    stop, ended = threading.Event(), threading.Event()
    faults: list[BaseException] = []
    written_times = 0

    def go_on() -> None:
        nonlocal written_times
        try:
            with closing(database.connect()) as session:
                timer = threading.Timer(LIMIT_SECONDS, stop.set)
                timer.start()
                while not stop.is_set():
                    write(session, written_times)
                    written_times += 1
                timer.cancel()
        except BaseException as fault:
            faults.append(fault)
        finally:
            ended.set()

    writer = threading.Thread(target=go_on)
    writer.start()
    try:
        wait_for(lambda: written_times > 2 or ended.is_set(), "the writer's first changes")
        yield ended
    finally:
        stop.set()
        writer.join()
    assert not faults


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """Rows of which the open ones are published, and a table beside them."""
    database.execute("CREATE TABLE t (id int, open bool, body text, PRIMARY KEY (id, open))")
    database.execute("ALTER TABLE t ALTER body SET STORAGE EXTERNAL")
    database.execute(
        f"INSERT INTO t SELECT n, n > {ROWS}, repeat('x', 3000)"
        f" FROM generate_series(1, {ROWS + 5}) n"
    )
    database.execute("CREATE TABLE u (id int PRIMARY KEY)")
    config = pipeline("public.t", "public.u")
    publish(database, config, "t WHERE (open), u")
    sync_all(config)
    return config


def open_and_close(session: psycopg.Connection, number: int) -> None:
    session.execute(
        "UPDATE t SET open = NOT open WHERE id = %s", [1 + number % ROWS], prepare=False
    )


def open_rows(database: ScratchDatabase) -> list[tuple[object, ...]]:
    return database.execute("SELECT id, open, body FROM t WHERE open ORDER BY id")


def test_a_run_does_not_follow_rows_that_enter_the_row_filter_all_the_time(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    with written(database, open_and_close) as ended:
        for number in range(3):
            database.execute(f"INSERT INTO u VALUES ({number})")
            finished = sync_all(config)
            assert not ended.is_set(), "the run went on for as long as somebody wrote"
            assert finished.windows < 10
            assert finished.confirmed_lsn >= finished.target_lsn
            assert len(mirror_rows(config, "public.u")) == number + 1
    sync_all(config)
    assert mirror_rows(config, "public.t", "id, open, body") == open_rows(database)
    assert sync_all(config).notes == ()


def test_rows_that_are_newer_than_their_run_are_said(
    database: ScratchDatabase, config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row enters while the run reads the first anew, and one while it reads the second."""
    entering = iter(range(2, 9))
    read_anew = fencing.read_anew

    def enter_and_read(*arguments: Any) -> None:
        database.execute(f"UPDATE t SET open = true WHERE id = {next(entering)}")
        read_anew(*arguments)

    database.execute("UPDATE t SET open = true WHERE id = 1")
    with monkeypatch.context() as patch:
        patch.setattr(fencing, "read_anew", enter_and_read)
        finished = sync_all(config)
    assert next(entering) == 4
    assert any("'public.t' that were read anew are newer" in note for note in finished.notes)
    assert len(mirror_rows(config, "public.t")) == 5 + 2
    assert sync_all(config).notes == ()
    assert mirror_rows(config, "public.t", "id, open, body") == open_rows(database)


def test_a_first_copy_does_not_follow_rows_that_move_all_the_time(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "CHUNK_ROWS", 20)
    database.execute("CREATE TABLE t (id int PRIMARY KEY, body text)")
    database.execute("ALTER TABLE t ALTER body SET STORAGE EXTERNAL")
    database.execute(f"INSERT INTO t SELECT n, repeat('x', 3000) FROM generate_series(1, {ROWS}) n")
    config = pipeline("public.t")
    half = ROWS // 2

    def move(session: psycopg.Connection, number: int) -> None:
        """Swap the halves' keys, row by row, so that rows come to ranges read or not yet read."""
        key = 1 + number % half
        session.execute(
            f"UPDATE t SET id = CASE WHEN id > {half * 10} THEN id - {half * 10}"
            f" ELSE id + {half * 10} END WHERE id IN ({key}, {key + half * 10})"
        )

    with written(database, move) as ended:
        finished = sync_all(config)
        assert not ended.is_set(), "the run went on for as long as somebody wrote"
        assert finished.confirmed_lsn >= finished.target_lsn
    converge(database, config)


@pytest.mark.parametrize("anew", ["first copy", "altered"])
def test_a_copy_comes_to_its_place_while_rows_go_on_entering(
    database: ScratchDatabase, config: PipelineConfig, anew: str
) -> None:
    if anew == "first copy":
        forget_tables(config, [TableName.parse("public.t")])
    else:
        database.execute("ALTER TABLE t ADD COLUMN more int")
    with written(database, open_and_close) as ended:
        if anew == "first copy":
            sync_once(config)
        else:
            for _ in backfill(config, TableName.parse("public.t")):
                continue
        assert not ended.is_set()
        assert has_mirror(config, "public.t")
    sync_all(config)
    assert mirror_rows(config, "public.t", "id, open, body") == open_rows(database)


def test_a_healthy_table_whose_rows_go_on_entering_ends_its_backfill(
    database: ScratchDatabase, config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_assets.replication.beside_syncs._MOST_ROUNDS", 3)
    with written(database, open_and_close) as ended:
        with suppress(TableError):  # it comes to one moment, or says that it does not
            for _ in backfill(config, TableName.parse("public.t")):
                continue
        assert not ended.is_set()
    sync_all(config)
    assert mirror_rows(config, "public.t", "id, open, body") == open_rows(database)
    for _ in backfill(config, TableName.parse("public.t")):
        continue
    sync_all(config)
    assert mirror_rows(config, "public.t", "id, open, body") == open_rows(database)
