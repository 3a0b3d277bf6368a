"""What a run leaves word of beside the warehouse, for whoever asks while it goes on and after."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc_assets import waits
from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import CdcError
from cdc_assets.operations.evidence import read_evidence
from cdc_assets.replication.journal import Journal, journal_path, read_journal
from cdc_assets.replication.sync import sync
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, held_at, kill_at
from cdc_assets_tests.syncs import converge, sync_all, sync_once
from cdc_assets_tests.waiting import wait_for, wait_until_unlocked


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE a (id int PRIMARY KEY, x text); CREATE TABLE b (LIKE a)")
    database.execute("ALTER TABLE b ADD PRIMARY KEY (id)")
    database.execute("INSERT INTO a SELECT n, 'canary' FROM generate_series(1, 200) n; ANALYZE a")
    return pipeline("public.a", "public.b", schema_changes="stop")


def journal_of(config: PipelineConfig) -> Journal:
    journal = read_journal(config)
    assert journal is not None
    return journal


def test_a_run_that_ended_has_left_where_everything_is(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    finished = converge(database, config)

    journal = journal_of(config)

    assert (journal.run.state, journal.run.rows_copied, journal.run.activity) == ("ok", 200, None)
    assert journal.slot is not None
    assert journal.slot.confirmed_lsn == finished.confirmed_lsn
    assert journal.slot.stalled_since is None
    assert {name: (one.phase, one.rows) for name, one in journal.tables.items()} == {
        "public.a": ("streaming", 200),
        "public.b": ("streaming", 0),
    }
    assert all(table.complete_at is not None for table in journal.tables.values())
    text = journal_path(config).read_text()
    assert "canary" not in text
    assert database.dsn not in text


def test_a_run_that_copies_says_how_far_it_is(config: PipelineConfig) -> None:
    with held_at(config, "chunk_read", 3):
        wait_for(lambda: read_journal(config), "the journal")
        evidence = read_evidence(config)

    assert evidence.life == "running"
    assert evidence.journal is not None
    activity = evidence.journal.run.activity
    assert activity is not None
    assert (activity.what, activity.table) == ("copying", "public.a")
    assert activity.rows_expected == 200


def test_a_run_that_applies_says_where_it_is(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("UPDATE a SET x = 'other'")
    with held_at(config, "before_commit", 1):
        evidence = read_evidence(config)

    assert evidence.life == "running"
    assert evidence.journal is not None
    activity, last = evidence.journal.run.activity, evidence.journal.ended
    assert activity is not None
    assert last is not None
    assert (activity.what, last.state) == ("applying", "ok")
    assert activity.start_lsn == evidence.journal.tables["public.a"].lsn
    assert activity.remaining_bytes


def test_what_a_run_waits_for_is_in_it_until_it_goes_on(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("UPDATE a SET x = 'other'")
    seen = []

    def wait() -> None:
        waits.say("waiting for somebody, up to 9 s")
        seen.append(journal_of(config).run.activity)
        waits.over()
        seen.append(journal_of(config).run.activity)

    with at_step("before_commit", 1, wait):
        sync_all(config)
    during, after = seen
    assert during is not None
    assert after is not None
    assert (during.what, during.waits_for) == ("applying", "waiting for somebody, up to 9 s")
    assert during.waits_since is not None
    assert (after.waits_for, after.waits_since) == ("", None)


def test_a_run_that_was_killed_is_told_from_one_that_goes_on(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("UPDATE a SET x = 'other'")
    assert kill_at(config, "before_commit", 1)
    wait_until_unlocked(database)
    wait_for(lambda: read_evidence(config).life == "died", "the lack of a last word")

    converge(database, config)
    assert read_evidence(config).life == "none"
    assert journal_of(config).run.state == "ok"


def test_an_error_that_ends_a_run_is_in_it(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute(f"SELECT pg_drop_replication_slot('{config.source.slot}')")
    with pytest.raises(CdcError):
        sync_once(config)

    failure = journal_of(config).run.error
    assert failure is not None
    assert (failure.kind, failure.retryable) == ("SlotNotFoundError", False)
    assert "does not exist" in failure.message
    assert "cdc-assets setup" in failure.hint


def test_a_source_that_can_not_be_reached_is_in_it(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    down = load_config(rewrite(config, source__dsn="postgresql://u:SECRET@127.0.0.1:1/d"))
    with pytest.raises(CdcError):
        sync_once(down)

    journal = journal_of(down)
    assert journal.run.error is not None
    assert journal.run.error.kind == "ConnectionLostError"
    assert journal.run.error.retryable
    assert set(journal.tables) == {"public.a", "public.b"}
    assert "SECRET" not in journal_path(down).read_text()


def test_an_unexpected_error_is_not_quoted(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("UPDATE a SET x = 'other'")

    def fail() -> None:
        raise ValueError("canary")

    with at_step("before_commit", 1, fail), pytest.raises(ValueError, match="canary"):
        sync_once(config)

    failure = journal_of(config).run.error
    assert failure is not None
    assert failure.kind == "ValueError"
    assert "canary" not in journal_path(config).read_text()


def test_a_table_that_was_left_behind_is_in_it_with_its_way_out(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    converge(database, config)
    database.execute("ALTER TABLE a ADD y int; INSERT INTO a VALUES (0); INSERT INTO b VALUES (0)")
    sync_once(config)

    journal = journal_of(config)
    assert (journal.run.state, journal.run.failed_tables) == ("ok", ("public.a",))
    error = journal.tables["public.a"].error
    assert error is not None
    assert error.kind == "SchemaChangeError"
    assert "backfill public.a" in error.hint
    assert journal.slot is not None
    assert journal.slot.stalled_since == journal.run.started_at
    assert journal.slot.held_by == ("public.a",)

    sync_once(config)
    again = journal_of(config).slot
    assert again is not None
    assert again.stalled_since == journal.slot.stalled_since


def test_a_run_that_is_not_listened_to_any_more_was_stopped(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    events = sync(config)
    next(events)
    events.close()  # type: ignore[attr-defined]

    assert journal_of(config).run.state == "stopped"
    converge(database, config)


def test_a_run_that_another_one_keeps_out_leaves_its_journal_alone(
    database: ScratchDatabase, config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_assets.source.lock.IN_USE_TIMEOUT_SECONDS", 0.1)
    sync_all(config)
    database.execute("UPDATE a SET x = 'other'")
    with held_at(config, "before_commit", 1):
        before = journal_path(config).read_text()
        with pytest.raises(CdcError, match="another run holds"):
            sync_once(config)
        assert journal_path(config).read_text() == before


def test_a_run_that_was_refused_makes_nothing(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "volume" / "w.duckdb"
    lost = load_config(rewrite(config, warehouse__duckdb__path=str(elsewhere)))
    database.execute(f"SELECT pg_drop_replication_slot('{config.source.slot}')")
    with pytest.raises(CdcError):
        sync_once(lost)

    assert not elsewhere.parent.exists()


def test_a_journal_that_can_not_be_written_is_a_note_and_no_more(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    path = journal_path(config)
    (path.parent / (path.name + ".new")).mkdir()

    finished = converge(database, config)

    assert ["can't be written" in note for note in finished.notes] == [True]
    assert read_journal(config) is None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"pipeline": "shop"}', "\xff"])
def test_a_journal_that_is_not_understood_is_as_none(
    database: ScratchDatabase, config: PipelineConfig, text: str
) -> None:
    journal_path(config).write_text(text, encoding="latin-1")
    assert read_journal(config) is None
    converge(database, config)
    assert journal_of(config).run.state == "ok"
