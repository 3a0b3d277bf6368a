"""Values that DuckDB needs more memory for than it is given at first: it gets more, by itself."""

from __future__ import annotations

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import WarehouseMemoryError
from cdc_assets.operations.status import read_status
from cdc_assets.warehouse import memory
from cdc_assets_tests.command_line import assert_readable, rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, sync_all, sync_once

MEGABYTE = 2**20
# 2048 of them, which is what DuckDB holds at once, take 160 MB
LONG = "SELECT n, md5(n::text) || repeat('x', 40_000) || repeat(md5(n::text), 1_250)"


@pytest.fixture
def documents(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE documents (id int PRIMARY KEY, body text)")
    return pipeline("public.documents")


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FIRST_BYTES", 48 * MEGABYTE)


def kept_memory_bytes(config: PipelineConfig) -> list[int]:
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        rows = warehouse.execute("SELECT limit_bytes FROM _cdc.memory").fetchall()
    return [row[0] for row in rows]


def fill(database: ScratchDatabase, start: int, count: int) -> None:
    database.execute(
        f"INSERT INTO documents {LONG} FROM generate_series({start}, {start + count - 1}) AS n"
    )


def test_long_values_are_copied(database: ScratchDatabase, documents: PipelineConfig) -> None:
    fill(database, 1, 2100)

    converge(database, documents)

    assert kept_memory_bytes(documents)[0] > 100 * MEGABYTE


def test_long_values_of_one_transaction_are_applied(
    database: ScratchDatabase, documents: PipelineConfig
) -> None:
    sync_all(documents)
    fill(database, 1, 2100)

    finished = converge(database, documents)

    assert finished.counts.inserted == 2100


def test_long_values_that_come_few_by_few_do_not_shut_the_file(
    database: ScratchDatabase, documents: PipelineConfig
) -> None:
    for start in range(1, 2100, 300):
        fill(database, start, 300)
        converge(database, documents)

    database.execute("UPDATE documents SET id = -id WHERE id % 2 = 0")
    converge(database, documents)
    assert read_status(documents).tables[0].rows == 2100


def test_memory_that_may_not_grow_is_a_readable_error(
    database: ScratchDatabase, documents: PipelineConfig
) -> None:
    path = str(documents.warehouse_path)
    limited = rewrite(documents, warehouse={"duckdb": {"path": path, "max_memory_bytes": 2**27}})
    sync_all(documents)
    fill(database, 1, 2100)
    done = run_command(limited, "sync")

    assert_readable(done, says="its limit is 128 MiB", hint="max_memory_bytes")
    with pytest.raises(WarehouseMemoryError):
        sync_once(load_config(limited))
    converge(database, documents)
