"""Whatever is wrong with the config or the warehouse is said in words, before anything is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets_tests.command_line import assert_readable, rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import config_path
from cdc_assets_tests.syncs import converge


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")
    return pipeline("public.orders")


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold a DuckDB file in another process."""
    program = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield
        process.communicate("\n")


def test_a_warehouse_that_another_process_holds(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("INSERT INTO orders VALUES (2)")
    with held(config.warehouse_path):
        path = str(config.warehouse_path)
        impatient = rewrite(config, warehouse={"duckdb": {"path": path, "wait_seconds": 0}})
        refused = run_command(impatient, "sync")
        assert_readable(refused, says="held by another process", hint="read a copy")
        checked = run_command(config, "check")
        assert checked.code == 0
        assert "is ready" in checked.out
        assert "in use, most likely by a run" in checked.err
        assert "in use" in run_command(config, "status").out
    converge(database, config)


def test_a_check_finds_that_the_warehouse_can_not_be_made(config: PipelineConfig) -> None:
    config.warehouse_path.parent.joinpath("a file").touch()
    path = str(config.warehouse_path.parent / "a file" / "shop.duckdb")

    done = run_command(rewrite(config, warehouse={"duckdb": {"path": path}}), "check")

    assert_readable(done, says="can't be written", hint="warehouse.duckdb.path")


def test_a_warehouse_of_another_pipeline(database: ScratchDatabase, config: PipelineConfig) -> None:
    converge(database, config)

    done = run_command(rewrite(config, name="other"), "sync")

    assert_readable(done, says="belongs to pipeline 'shop'", hint="warehouse.duckdb.path")
    converge(database, config)


def test_a_table_that_is_not_ours_is_left_alone(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("CREATE SCHEMA public; CREATE TABLE public.ORDERS AS SELECT 42 AS n")

    done = run_command(config, "sync")

    assert_readable(done, says="without a checkpoint", hint="rename or drop it")
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        assert warehouse.execute("SELECT n FROM public.orders").fetchall() == [(42,)]
        warehouse.execute("DROP TABLE public.orders")
    converge(database, config)


def test_a_mirror_that_somebody_dropped(database: ScratchDatabase, config: PipelineConfig) -> None:
    converge(database, config)
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("DROP TABLE public.orders")

    for command in ("sync", "check"):
        done = run_command(config, command)
        assert_readable(done, says="not in the warehouse any more", hint="backfill public.orders")
    status = run_command(config, "status")
    assert (status.code, "not in the warehouse any more" in status.out) == (1, True)

    assert run_command(config, "backfill", "public.orders").code == 0
    converge(database, config)


@pytest.mark.parametrize("broken", ["no duckdb file", "a folder"])
def test_a_warehouse_that_is_none(config: PipelineConfig, broken: str) -> None:
    path = config.warehouse_path
    if broken == "a folder":
        path.mkdir()
    else:
        path.write_text("these are not the bytes of a database" * 100)

    assert_readable(run_command(config, "sync"), says="can't be opened", hint="duckdb.path")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"windw": {}}, "windw: unknown key, did you mean 'window'?"),
        ({"source__slott": "x"}, "source.slott: unknown key, did you mean 'slot'?"),
        ({"tables": [{"sorce": "public.orders"}]}, "did you mean 'source'?"),
        ({"tables": [{"source": "orders"}]}, "expected schema.table"),
        ({"tables": [{"source": "public.a"}, {"source": "public.A"}]}, "one name"),
        ({"tables": []}, "tables: "),
        ({"tables": [{"source": "public.a", "mask": {"x": "md5"}}]}, "tables[0].mask.x: "),
        (
            {"tables": [{"source": "public.a", "enrich": [{"frm": "public.b"}]}]},
            "tables[0].enrich[0].frm: unknown key, did you mean 'from'?",
        ),
        (
            {"tables": [{"source": "public.a", "keep": ["history"]}]},
            "a history stands beside a mirror",
        ),
        ({"source__slot": "Bad-Name"}, "a slot's name"),
        ({"window": {"max_wal_bytes": 1}}, "window.max_wal_bytes"),
        ({"warehouse": {"duckdb": {"pth": "x"}}}, "did you mean 'path'?"),
    ],
)
def test_a_mistake_in_the_config_is_named(
    config: PipelineConfig, changed: dict[str, Any], says: str
) -> None:
    done = run_command(rewrite(config, **changed), "sync")

    assert done.code == 2
    assert "Traceback" not in done.err
    assert says in done.err
    assert "hint: " in done.err


def test_every_mistake_is_named_at_once(config: PipelineConfig) -> None:
    done = run_command(rewrite(config, windw={}, source__slott="x", name="no name"), "check")

    assert done.code == 2
    assert "has 3 problems" in done.err
    assert [line for line in done.err.splitlines() if line.startswith("  ")][2:]


@pytest.mark.parametrize(
    ("text", "says"),
    [("type: [", "is not YAML"), ("- a", "expected the keys"), ("type: other.Thing", "type: ")],
)
def test_a_config_that_is_none(config: PipelineConfig, text: str, says: str) -> None:
    path = rewrite(config)
    path.write_text(text)

    done = run_command(path, "sync")

    assert done.code == 2
    assert "Traceback" not in done.err
    assert says in done.err


def test_a_config_that_is_not_there(config: PipelineConfig) -> None:
    done = run_command(config_path(config).with_name("none.yaml"), "sync")

    assert_readable(done, says="can't be read", hint="--config PATH", code=2)


def test_an_environment_variable_that_is_not_set(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    named = rewrite(config, source__dsn={"env": "SHOP_TEST_DSN"})

    done = run_command(named, "sync")

    assert_readable(done, says="'SHOP_TEST_DSN' for source.dsn is not set", hint="export", code=2)
    assert run_command(named, "sync", SHOP_TEST_DSN=database.dsn).code == 0


def test_a_table_that_would_stand_in_for_a_batch_is_refused(config: PipelineConfig) -> None:
    """DuckDB would find the mirror in its own default schema, not the batch."""
    done = run_command(rewrite(config, tables=[{"source": "main._cdc_Batch"}]), "check")

    assert_readable(done, says="starts with '_cdc_'", hint="configuration.md", code=2)
