"""A secret in the DSN is in nothing that Dagster keeps or prints."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_representation.external_data import RepositorySnap
from dagster_shared.serdes import serialize_value
from psycopg.conninfo import make_conninfo

from cdc_assets.config import PipelineConfig
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import attributes, definitions, run_sync
from cdc_assets_tests.database import ScratchDatabase

CANARY = "canary-5ecret"
ROW_CANARY = "row-canary-77"


@pytest.fixture
def known_by_canary(database: ScratchDatabase) -> Iterator[str]:
    """A DSN whose password is the canary, and right."""
    role = f"role_{database.name}"
    database.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{CANARY}'")
    yield make_conninfo(database.dsn, user=role, password=CANARY)
    database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition.environment_vars`")
def test_definitions_do_not_hold_a_literal_dsn() -> None:
    given = attributes("public.orders")
    given["source"]["dsn"] = f"postgresql://cdc:{CANARY}@127.0.0.1/shop"

    snapshot = RepositorySnap.from_def(definitions(given).get_repository_def())

    assert CANARY not in serialize_value(snapshot)


def test_a_run_keeps_neither_the_dsn_nor_a_row(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    known_by_canary: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, note text)")
    database.execute("INSERT INTO t VALUES (1, %s)", [ROW_CANARY])
    config = _with_dsn(pipeline("public.t"), known_by_canary)

    with dg.instance_for_test() as instance:
        first = run_sync(definitions(config), instance)
        database.execute("UPDATE t SET note = note || '!'")
        second = run_sync(definitions(config), instance)
        kept = _everything(instance, first, second)

    assert first.success
    assert second.success
    printed = "".join(capfd.readouterr())
    for canary in (CANARY, ROW_CANARY):
        assert canary not in kept
        assert canary not in printed


@pytest.mark.parametrize(
    "unusable",
    [
        lambda dsn: make_conninfo(dsn, port=1, password=CANARY),
        lambda dsn: make_conninfo(dsn, dbname="no_such_database", password=CANARY),
        lambda dsn: make_conninfo(dsn, user="no_such_user", password=CANARY),
        lambda _: f"postgresql//cdc:{CANARY}@127.0.0.1/shop",
        lambda _: f"postgresql://cdc:{CANARY}@127.0.0.1/shop?no_such_option={CANARY}",
        lambda dsn: f"{dsn} password='{CANARY}",
    ],
    ids=["port", "database", "user", "no_uri", "option", "quote"],
)
def test_a_run_that_can_not_connect_does_not_say_with_what(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    unusable: Callable[[str], str],
) -> None:
    monkeypatch.setattr("cdc_assets.orchestration.failures.MAX_RETRIES", 0)
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    config = _with_dsn(pipeline("public.t"), unusable(database.dsn))

    with dg.instance_for_test() as instance:
        result = run_sync(definitions(config), instance)
        kept = _everything(instance, result)

    assert not result.success
    assert CANARY not in kept
    assert CANARY not in "".join(capfd.readouterr())


def _with_dsn(config: PipelineConfig, dsn: str) -> PipelineConfig:
    fields: dict[str, Any] = config.model_dump() | {"root": config.root}
    fields["source"] = {**fields["source"], "dsn": dsn}
    return PipelineConfig.model_validate(fields)


def _everything(instance: dg.DagsterInstance, *results: dg.ExecuteInProcessResult) -> str:
    entries = [entry for result in results for entry in instance.all_logs(result.run_id)]
    runs = [serialize_value(record.dagster_run) for record in instance.get_run_records()]
    return json.dumps([serialize_value(entry) for entry in entries] + runs)
