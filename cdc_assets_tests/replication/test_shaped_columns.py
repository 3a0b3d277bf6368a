"""Columns are left out, renamed and masked on their way, by copy and by stream alike."""

from __future__ import annotations

from typing import Any

import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import TableName
from cdc_assets.progress import TableCompared
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets_tests.command_line import rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_all, sync_once

pytestmark = pytest.mark.usefixtures("small")

CANARY = "canary-7f3a91"
PEOPLE = {
    "source": "public.people",
    "columns": {"exclude": ["note"], "rename": {"email": "contact", "id": "person"}},
    "mask": {"email": "sha256", "phone": "last4", "card": "redact", "code": "hmac"},
}


@pytest.fixture
def people(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(
        "CREATE TABLE people (id int PRIMARY KEY, note text, email text, phone text, card text,"
        " code int, body text);"
        " ALTER TABLE people ALTER body SET STORAGE EXTERNAL;"
        " ALTER TABLE people ALTER email SET STORAGE EXTERNAL;"
        " INSERT INTO people SELECT n, 'note ' || n, n || '@example.com', '+41 79 000 ' || n,"
        " 'card' || n, n % 7, repeat(md5(n::text), 90) FROM generate_series(1, 200) n;"
        " CREATE TABLE plain (id int PRIMARY KEY, a text)"
    )
    config = pipeline("public.people", "public.plain", schema_changes="stop")
    return shaped(config, PEOPLE, {"source": "public.plain"})


def shaped(config: PipelineConfig, *tables: dict[str, Any]) -> PipelineConfig:
    return load_config(rewrite(config, tables=list(tables), mask_key="a secret"))


def churn(database: ScratchDatabase, mark: str) -> None:
    """Change rows in all the ways that there are, also without carrying the value in `body`."""
    database.execute(
        f"UPDATE people SET phone = '{mark} 4711 0815' WHERE id % 5 = 0;"
        f"UPDATE people SET email = repeat('{mark}', 900), note = 'n' WHERE id % 7 = 0;"
        f"UPDATE people SET id = id + 1000 WHERE id % 11 = 0 AND id < 1000;"
        "DELETE FROM people WHERE id % 13 = 0;"
        "UPDATE people SET note = 'other' WHERE id % 3 = 0;"
        "INSERT INTO people SELECT coalesce(max(id), 0) + 1, 'x', NULL, '1234567', '', NULL, 'b'"
        " FROM people"
    )


def test_copy_and_stream_shape_alike(database: ScratchDatabase, people: PipelineConfig) -> None:
    converge(database, people)
    columns = "person, contact, phone, card, code, body, _cdc_lsn"
    assert len(mirror_rows(people, "public.people", columns)) == 200
    for mark in "abc":
        churn(database, mark)
        converge(database, people)
    database.execute("TRUNCATE people; INSERT INTO people VALUES (1, 'n', 'e', 'p', 'c', 2, 'b')")
    converge(database, people)


def test_a_backfill_of_a_shaped_table_finds_it_right(
    database: ScratchDatabase, people: PipelineConfig
) -> None:
    converge(database, people)
    churn(database, "a")
    for bucket in (None, ["03"]):
        done = [*backfill(people, TableName("public", "people"), buckets=bucket)]
        assert [
            (event.rows_inserted, event.rows_changed, event.rows_removed)
            for event in done
            if hasattr(event, "rows_inserted")
        ] == [(0, 0, 0)]
    compared = [event for event in reconcile(people) if isinstance(event, TableCompared)]
    assert [table.equal for table in compared] == [True, True]
    assert_equal_to_source(database, people)


def test_what_is_left_out_or_masked_is_nowhere(
    database: ScratchDatabase, people: PipelineConfig, caplog: pytest.LogCaptureFixture
) -> None:
    converge(database, people)
    secret = f"note = '{CANARY}', email = '{CANARY}', phone = '{CANARY}xxxx', card = '{CANARY}'"
    database.execute(f"UPDATE people SET {secret} WHERE id = 1")
    database.execute(f"INSERT INTO people SELECT 5000, '{CANARY}', '{CANARY}', NULL, '{CANARY}'")
    sync_all(people)
    list(backfill(people, TableName("public", "people")))
    list(reconcile(people))
    for file in people.warehouse_path.parent.rglob("*"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes(), file
    assert CANARY not in caplog.text


def test_a_column_that_is_left_out_may_come_and_go(
    database: ScratchDatabase, people: PipelineConfig
) -> None:
    converge(database, people)
    database.execute("ALTER TABLE people ALTER note TYPE varchar(500)")
    database.execute("UPDATE people SET phone = 'new' WHERE id < 10")
    converge(database, people)
    database.execute("ALTER TABLE people DROP note")
    error = errors_of(sync_once(people))["public.people"]
    assert "names a column 'note' that it does not have" in error.message


def test_only_what_is_included_is_kept(database: ScratchDatabase, people: PipelineConfig) -> None:
    config = shaped(people, {"source": "public.people", "columns": {"include": ["phone"]}})
    converge(database, config)
    database.execute("ALTER TABLE people ADD later int DEFAULT 4; UPDATE people SET later = 5")
    database.execute("ALTER TABLE people DROP note")
    churned = "UPDATE people SET phone = 'new' WHERE id < 10; DELETE FROM people WHERE id = 20"
    database.execute(churned)
    converge(database, config)
    assert len(mirror_rows(config, "public.people", "id, phone")) == 199


def test_a_masked_key_is_a_key(database: ScratchDatabase, people: PipelineConfig) -> None:
    table = {"source": "public.people", "mask": {"id": "sha256", "email": "sha256"}}
    config = shaped(people, table, {"source": "public.plain"})
    error = errors_of(sync_once(config))["public.people"]
    assert "REPLICA IDENTITY FULL" in error.hint
    database.execute("ALTER TABLE people REPLICA IDENTITY FULL")
    converge(database, config)
    for mark in "ab":
        churn(database, mark)
        converge(database, config)
    list(backfill(config, TableName("public", "people"), buckets=["00"]))
    assert_equal_to_source(database, config)


def test_another_shaping_stops_the_table_until_it_is_copied_anew(
    database: ScratchDatabase, people: PipelineConfig
) -> None:
    converge(database, people)
    for changed in (
        {**PEOPLE, "mask": {"email": "hmac"}},
        {**PEOPLE, "columns": {}},
        {"source": "public.people"},
        {**PEOPLE, "mask": {"email": "hmac", "phone": "null"}},
    ):
        config = shaped(people, changed, {"source": "public.plain"})
        churn(database, "x")
        error = errors_of(sync_once(config))["public.people"]
        assert "shaped otherwise" in error.message
        assert "cdc-assets backfill public.people" in error.hint
        assert "shaped otherwise" in run_command(config, "check").err
        assert "shaped otherwise" in run_command(config, "status").out
        list(backfill(config, TableName("public", "people")))
        assert_equal_to_source(database, config)
        assert run_command(config, "check").code == 0
    secret = load_config(rewrite(config, mask_key="another secret"))
    assert "shaped otherwise" in errors_of(sync_once(secret))["public.people"].message


@pytest.mark.parametrize(
    ("shaping", "said"),
    [
        ({"mask": {"emali": "sha256"}}, "did you mean 'email'?"),
        ({"columns": {"exclude": ["nothing at all"]}}, "known: id, note"),
        ({"columns": {"exclude": ["id"]}}, "columns.exclude"),
        ({"columns": {"rename": {"email": "PHONE"}}}, "there is a column 'phone'"),
        ({"mask": {"id": "redact"}}, "sha256 or hmac"),
        ({"mask": {"id": "null"}}, "sha256 or hmac"),
    ],
)
def test_what_can_not_be_shaped_is_said_and_stops_that_table_alone(
    people: PipelineConfig, shaping: dict[str, Any], said: str
) -> None:
    config = shaped(people, {"source": "public.people", **shaping}, {"source": "public.plain"})
    checked = run_command(config, "check")
    assert checked.code == 1
    assert said in checked.err
    assert set(errors_of(sync_once(config))) == {"public.people"}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"columns": {"include": ["a"], "exclude": ["b"]}}, "not both"),
        ({"columns": {"rename": {"a": "x", "b": "X"}}}, "two columns get one name"),
        ({"columns": {"rename": {"a": "_cdc_lsn"}}}, "reserved"),
        ({"columns": {"exclude": ["a"]}, "mask": {"a": "null"}}, "is left out"),
        ({"mask": {"a": "md5"}}, "mask"),
    ],
)
def test_what_no_table_could_be_is_refused_with_the_config(
    people: PipelineConfig, table: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        shaped(people, {"source": "public.people", **table})


def test_hmac_needs_a_key(people: PipelineConfig) -> None:
    tables = [{"source": "public.people", "mask": {"email": "hmac"}}]
    with pytest.raises(ConfigError, match="mask_key: missing"):
        load_config(rewrite(people, tables=tables, mask_key=None))
    unset = load_config(rewrite(people, tables=tables, mask_key={"env": "NOT_SET_HERE"}))
    with pytest.raises(ConfigError, match="NOT_SET_HERE"):
        sync_once(unset)


@pytest.mark.parametrize("seed", range(2))
def test_random_transactions_beside_random_copies(
    database: ScratchDatabase, pipeline: MakePipeline, seed: int
) -> None:
    create_ledger(database)
    config = shaped(
        pipeline(*TABLES, schema_changes="stop"),
        {"source": TABLES[0], "mask": {"body": "sha256"}, "columns": {"exclude": ["owner"]}},
        {"source": TABLES[1], "columns": {"rename": {"Key": "key", "Body": "text"}}},
        {"source": TABLES[2], "mask": {"account": "hmac", "amount": "redact"}},
    )
    writer = Writer(database, seed)
    with writer.running():
        for _ in range(3):
            sync_all(config)
            for table in config.table_names:
                list(backfill(config, table))
    converge(database, config)
