"""`resync` says what was lost and what it will do, and asks."""

from __future__ import annotations

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets_tests.command_line import assert_readable, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, total int)")
    database.execute("INSERT INTO orders SELECT i, i FROM generate_series(1, 20) i")
    config = pipeline("public.orders")
    assert run_command(config, "sync").code == 0
    return config


def test_where_nothing_is_wrong_nothing_is_done(config: PipelineConfig) -> None:
    done = run_command(config, "resync")
    as_json = run_command(config, "resync", "--json")

    assert (done.code, done.err) == (0, "")
    assert "nothing of pipeline 'shop' is lost" in done.out
    assert (as_json.code, as_json.json) == (0, {"found": [], "will": []})


def test_without_a_terminal_it_says_what_it_would_do_and_is_refused(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("SELECT pg_drop_replication_slot(%s)", [config.source.slot])

    refused = run_command(config, "resync")

    assert_readable(refused, says="no terminal to ask on", hint="--yes", code=2)
    assert [line for line in refused.err.splitlines() if line.startswith("found: ")]
    assert [line for line in refused.err.splitlines() if line.startswith("resync will ")]
    assert database.execute("SELECT count(*) FROM pg_replication_slots") == [(0,)]


def test_the_slot_and_every_table_are_made_anew(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("SELECT pg_drop_replication_slot(%s)", [config.source.slot])
    database.execute("DELETE FROM orders WHERE id > 15; UPDATE orders SET total = 0 WHERE id = 1")

    done = run_command(config, "resync", "--yes", "--json")

    assert done.code == 0, done.err
    assert done.json["found"]
    assert done.json["will"]
    assert [table["error"] for table in done.json["tables"]] == [None]
    assert_equal_to_source(database, config)
    assert run_command(config, "sync").code == 0
