"""Each alteration is told once, whoever follows it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.progress import SchemaChanged
from cdc_assets.replication import backfill as backfilling
from cdc_assets.replication import sync as syncing
from cdc_assets.replication.resync import resync
from cdc_assets.source import snapshot
from cdc_assets.steps import Step
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import kill_at
from cdc_assets_tests.syncs import converge, errors_of, kept, query, sync_all, sync_once
from cdc_assets_tests.waiting import wait_until_unlocked

T = TableName("public", "t")


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, b int); INSERT INTO t VALUES (1, 1)")
    config = pipeline("public.t")
    sync_all(config)
    return config


def said(events: Iterable[object]) -> list[tuple[str, str]]:
    return [(event.what, event.how) for event in events if isinstance(event, SchemaChanged)]


def noted(config: PipelineConfig) -> list[tuple[str, str]]:
    return query(config, "SELECT what, how FROM _cdc.schema_changes")  # type: ignore[return-value]


@pytest.mark.parametrize("keep", [["mirror"], ["mirror", "changes", "history"], ["changes"]])
def test_a_backfill_says_what_it_follows(
    database: ScratchDatabase, pipeline: MakePipeline, keep: list[str]
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, b int); INSERT INTO t VALUES (1, 1)")
    config = kept(pipeline("public.t"), keep)
    sync_all(config)
    database.execute("ALTER TABLE t ADD c int DEFAULT 4")

    assert said(backfilling.backfill(config, T)) == [("added 'c'", "copied anew")]
    assert said(backfilling.backfill(config, T)) == []

    assert noted(config) == [("added 'c'", "copied anew")]
    converge(database, config)


def test_a_resync_says_what_it_follows(database: ScratchDatabase, config: PipelineConfig) -> None:
    database.execute("ALTER TABLE t ALTER b TYPE bigint")
    database.execute(f"SELECT pg_drop_replication_slot('{config.source.slot}')")

    assert said(resync(config)) == [("'b' is bigint, was integer", "copied anew")]

    assert noted(config) == [("'b' is bigint, was integer", "copied anew")]
    converge(database, config)


def test_a_copy_that_can_not_begin_says_nothing_yet(
    database: ScratchDatabase, config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "LOCK_TIMEOUT_SECONDS", 0.1)
    database.execute("ALTER TABLE t ALTER b TYPE bigint")
    with closing(database.connect()) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        assert "locked" in errors_of(sync_once(config))["public.t"].message
        assert noted(config) == []
        other.execute("COMMIT")

    assert [how for _, how in said(syncing.sync(config))] == ["copied anew"]

    assert [how for _, how in noted(config)] == ["copied anew"]
    converge(database, config)


@pytest.mark.parametrize("step", ["chunk_read", "chunk_staged", "chunk_committed", "before_commit"])
def test_a_copy_that_is_killed_is_noted_once(
    database: ScratchDatabase, config: PipelineConfig, step: Step
) -> None:
    database.execute("ALTER TABLE t ALTER b TYPE bigint; INSERT INTO t VALUES (2, 5000000000)")
    assert kill_at(config, step, 1)
    wait_until_unlocked(database)

    converge(database, config)

    assert [how for _, how in noted(config)] == ["copied anew"]
