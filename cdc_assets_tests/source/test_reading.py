"""A reader that holds the warehouse is waited for, and said; but no longer than the config says."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import SlotInUseError, WarehouseBusyError
from cdc_assets.source.lock import lock_holder
from cdc_assets.waits import listening
from cdc_assets_tests.command_line import assert_readable, rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import definitions, run_sync
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, mirror_rows, sync_all, sync_once

READER = (
    "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True);"
    " print('open', flush=True); sys.stdin.read()"
)


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")
    return pipeline("public.orders")


def waiting(config: PipelineConfig, seconds: float) -> PipelineConfig:
    duckdb = {"path": str(config.warehouse_path), "wait_seconds": seconds}
    return load_config(rewrite(config, warehouse={"duckdb": duckdb}))


@contextmanager
def reader(config: PipelineConfig) -> Iterator[subprocess.Popen[str]]:
    """Hold the warehouse in another process that only reads, until its input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(config.warehouse_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process
        finally:
            process.communicate()


def test_a_reader_is_waited_for_and_said(database: ScratchDatabase, config: PipelineConfig) -> None:
    sync_all(config)
    database.execute("INSERT INTO orders VALUES (2)")
    said: list[str] = []
    with reader(config) as process:

        def hear(what: str) -> None:
            said.append(what)
            with database.connect() as other:  # while it waits, whoever asks finds a run under way
                assert lock_holder(other, config.source.slot) is not None
            assert process.stdin is not None
            process.stdin.close()

        with listening(hear):
            sync_all(config)
        process.stdin = None

    assert mirror_rows(config, "public.orders", "id") == [(1,), (2,)]
    assert len(said) == 1
    assert f"waiting for warehouse '{config.warehouse_path}'" in said[0]
    assert f"(PID {process.pid}), up to 120 s" in said[0]


def test_what_the_source_did_meanwhile_is_seen(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    sync_all(config)
    with reader(config) as process:

        def hear(_: str) -> None:
            database.execute("ALTER TABLE orders ADD more int")
            assert process.stdin is not None
            process.stdin.close()

        with listening(hear):
            finished = sync_once(config)
        process.stdin = None

    assert (finished.tables[0].error, finished.tables[0].altered) == (None, True)


def test_a_wait_ends(database: ScratchDatabase, config: PipelineConfig) -> None:
    sync_all(config)
    database.execute("INSERT INTO orders VALUES (2)")
    with reader(config) as process:
        done = run_command(waiting(config, 0.5), "sync")
        assert_readable(done, says=f"(PID {process.pid}) (waited 0.5 s)", hint="read a copy")
        with pytest.raises(WarehouseBusyError) as waited:
            sync_once(waiting(config, 0.1))
        with pytest.raises(WarehouseBusyError) as refused:
            sync_once(waiting(config, 0))
    assert not waited.value.retryable
    assert refused.value.retryable
    converge(database, config)


def test_dagster_does_not_multiply_the_wait(config: PipelineConfig) -> None:
    sync_all(config)
    with reader(config), dg.DagsterInstance.ephemeral() as instance:
        result = run_sync(definitions(waiting(config, 0.5)), instance)
    assert not result.success
    assert not [one for one in result.all_events if one.event_type_value == "STEP_UP_FOR_RETRY"]


def test_two_runs_do_not_interleave_while_one_waits(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    sync_all(config)
    database.execute("INSERT INTO orders VALUES (2)")
    refused: list[BaseException] = []
    with reader(config) as process:

        def hear(what: str) -> None:
            if "another run" in what:
                return
            with pytest.raises(SlotInUseError) as error:
                sync_once(config)
            refused.append(error.value)
            assert process.stdin is not None
            process.stdin.close()

        with listening(hear):
            first = threading.Thread(target=sync_all, args=[config])
            first.start()
            first.join()
        process.stdin = None

    assert len(refused) == 1
    converge(database, config)
    assert mirror_rows(config, "public.orders", "id") == [(1,), (2,)]


@pytest.mark.parametrize("name", ["blocks.duckdb", "already.duckdb"])
def test_a_path_that_sounds_like_a_lock_is_not_waited_for(
    config: PipelineConfig, name: str
) -> None:
    path = config.warehouse_path.parent / name
    path.mkdir()
    done = run_command(rewrite(config, warehouse={"duckdb": {"path": str(path)}}), "sync")
    assert_readable(done, says="can't be opened", hint="duckdb.path")
