"""A large copy holds up nobody: neither the other tables, nor the slot, nor the source."""

from __future__ import annotations

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.progress import ChunkCopied
from cdc_assets.replication import copying
from cdc_assets.replication import sync as syncing
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.sync import sync
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, has_mirror, mirror_rows, sync_once

BIG = TableName("public", "big")


@pytest.fixture
def tables(database: ScratchDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "CHUNK_ROWS", 50)
    monkeypatch.setattr(syncing, "TURN_SECONDS", 0)
    database.execute(
        "CREATE TABLE big (id int PRIMARY KEY); CREATE TABLE small (id int PRIMARY KEY)"
    )
    database.execute(
        "INSERT INTO big SELECT generate_series(1, 1000); INSERT INTO small VALUES (1)"
    )


def confirmed(database: ScratchDatabase, config: PipelineConfig) -> LSN:
    ((text,),) = database.execute(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s",
        [config.source.slot],
    )
    return LSN.parse(text)


@pytest.mark.usefixtures("tables")
def test_slot_and_other_tables_go_on_while_a_table_is_copied(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = pipeline("public.small", "public.big")
    database.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 100000))")
    positions, seen = list[LSN](), list[int]()
    for event in sync(config):
        if isinstance(event, ChunkCopied) and event.table == BIG:
            positions.append(confirmed(database, config))
            database.execute("UPDATE big SET id = id + 5000 WHERE id = (SELECT min(id) FROM big)")
            database.execute("INSERT INTO small SELECT max(id) + 1 FROM small")
        elif not isinstance(event, ChunkCopied) and positions:
            seen.append(len(positions))
    assert len(positions) > 5
    assert len(set(positions)) > 5  # it moved between the chunks
    assert positions == sorted(positions)
    assert len(set(seen)) > 5  # and so did the windows of all tables
    converge(database, config)


@pytest.mark.usefixtures("tables")
def test_a_run_whose_time_is_over_ends_and_the_next_goes_on(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = pipeline("public.small", "public.big")
    *_, first = sync(config, copy_seconds=0.000001)
    assert "is not in its place yet: the next run goes on" in first.notes[0]
    phases = {str(table.table): table.phase for table in first.tables}
    assert "copying" in phases.values()
    database.execute("INSERT INTO small VALUES (7); DELETE FROM big WHERE id < 10")
    converge(database, config)


@pytest.mark.usefixtures("tables")
def test_a_table_waits_for_its_backfill_and_says_so(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = pipeline("public.small", "public.big")
    waiting = config.model_copy(
        update={
            "tables": [
                table.model_copy(
                    update={"backfill": table.backfill.model_copy(update={"first": "wait"})}
                )
                if table.name == BIG
                else table
                for table in config.tables
            ]
        }
    )
    finished = sync_once(waiting)
    assert {str(one.table): one.phase for one in finished.tables} == {
        "public.small": "streaming",
        "public.big": "waiting",
    }
    assert finished.notes == (
        "table 'public.big' waits for its backfill: cdc-assets backfill public.big",
    )
    assert not has_mirror(waiting, "public.big")
    database.execute("INSERT INTO small VALUES (7); DELETE FROM big WHERE id < 10")
    sync_once(waiting)
    assert mirror_rows(waiting, "public.small", "id") == [(1,), (7,)]
    for _ in backfill(waiting, BIG):
        continue
    converge(database, waiting)


@pytest.mark.usefixtures("tables")
def test_a_rate_makes_chunks_small_and_rests_between_them(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests = list[float]()
    monkeypatch.setattr("cdc_assets.replication.copying.time.sleep", rests.append)
    config = pipeline("public.big")
    slow = config.model_copy(
        update={
            "tables": [
                table.model_copy(
                    update={
                        "backfill": table.backfill.model_copy(update={"max_rows_per_second": 40})
                    }
                )
                for table in config.tables
            ]
        }
    )
    chunks = [event for event in sync(slow) if isinstance(event, ChunkCopied)]
    assert max(chunk.rows for chunk in chunks) <= 300
    assert sum(rests) > sum(chunk.rows for chunk in chunks) / 40 / 2
    converge(database, slow)
