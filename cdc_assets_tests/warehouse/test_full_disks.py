"""A full disk, a machine without memory: the error names what and where, and nothing is lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ReplicationError
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import PROJECT, at_step, config_path
from cdc_assets_tests.syncs import converge, sync_once

LIMIT_BYTES = 1_500_000


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE a (id int PRIMARY KEY, x text)")
    return pipeline("public.a")


def sync_where_files_stay_small(config: PipelineConfig, module: str) -> tuple[int, str]:
    """Sync in a process whose files can't grow past a limit, as on a disk that is full."""
    done = subprocess.run(
        ["/usr/bin/prlimit", f"--fsize={LIMIT_BYTES}", sys.executable, "-m", module]
        + (
            ["sync", "--config", str(config_path(config))]
            if module == "cdc_assets.cli"
            else [str(config_path(config)), "", "0", "0", ""]
        ),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stderr


def test_a_warehouse_on_a_full_disk_is_named_and_goes_on_later(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("INSERT INTO a SELECT n, md5(n::text) || n FROM generate_series(1, 60000) n")

    code, said = sync_where_files_stay_small(config, "cdc_assets.cli")

    assert code == 1
    assert f"error: warehouse {str(config.warehouse_path)!r} can't be written: File too" in said
    assert "hint: make room on its disk" in said
    assert "Traceback" not in said
    converge(database, config)


def test_a_large_transaction_that_finds_no_room_is_named_and_goes_on_later(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("INSERT INTO a SELECT n, repeat('x', 200) FROM generate_series(1, 20000) n")

    code, said = sync_where_files_stay_small(config, "cdc_assets_tests.interrupting")

    assert code == 1
    folder = str(config.warehouse_path.parent)
    assert f"folder {folder!r}, where a large transaction waits for its commit" in said
    assert "File too large" in said
    converge(database, config)


def test_a_lack_of_memory_is_said(database: ScratchDatabase, config: PipelineConfig) -> None:
    converge(database, config)
    database.execute("INSERT INTO a VALUES (1)")

    def fail() -> None:
        raise MemoryError("malloc of size 99 failed")

    with (
        at_step("window_read", 1, fail),
        pytest.raises(ReplicationError, match="has no memory left"),
    ):
        sync_once(config)
    converge(database, config)
