"""The slot's health as Dagster shows it: checks in every sync, and a sensor when there is none."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.operations.health import CHECK_NAMES
from cdc_assets.orchestration import checks as checks_on_the_slot
from cdc_assets.orchestration import health
from cdc_assets.orchestration.checks import DESCRIPTIONS
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import (
    attributes,
    definitions,
    materialized,
    run_sync,
    values,
)
from cdc_assets_tests.database import ScratchDatabase

SLOT = dg.AssetKey(["shop", "slot"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, total int)")
    return pipeline("public.orders", schema_changes="stop")


def test_every_check_of_the_slots_health_is_described() -> None:
    assert tuple(DESCRIPTIONS) == CHECK_NAMES


def test_the_slot_has_the_checks_and_none_of_them_blocks() -> None:
    graph = definitions(attributes("public.orders")).resolve_asset_graph()
    keys = [key for key in graph.asset_check_keys if key.name != "equals_source"]
    specs = [graph.get_check_spec(key) for key in keys]

    assert {(spec.asset_key, spec.name) for spec in specs} == {(SLOT, name) for name in CHECK_NAMES}
    assert not any(spec.blocking for spec in specs)


def test_every_sync_looks_and_tells_all_of_it(
    config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    for _ in range(2):
        told = _evaluated(run_sync(definitions(config), instance), instance)

        assert set(told) == set(CHECK_NAMES)
        assert all(check.passed for check in told.values()), told
    assert not _planned(instance)


def test_dagster_shows_the_outcome_for_the_last_materialization(
    config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    for _ in range(2):
        run_sync(definitions(config), instance)

    key = dg.AssetCheckKey(SLOT, "wal_safe")
    told = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    shown = instance.get_latest_materialization_event(SLOT)
    assert shown is not None
    assert told.run_id == shown.run_id


def test_the_slots_numbers_plot(config: PipelineConfig, instance: dg.DagsterInstance) -> None:
    found = materialized(run_sync(definitions(config), instance))["shop/slot"]

    assert found["cdc/retained_bytes"] >= 0
    assert found["cdc/lag_seconds"] >= 0
    assert found["cdc/oldest_transaction_seconds"] >= 0


def test_a_failed_run_says_what_is_wrong_and_what_to_do(
    database: ScratchDatabase, config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)
    run_sync(defs, instance)
    database.execute("SELECT pg_drop_replication_slot(%s)", [config.source.slot])

    said = _evaluated(run_sync(defs, instance), instance)

    assert not said["wal_safe"].passed
    assert said["wal_safe"].severity is dg.AssetCheckSeverity.ERROR
    assert "does not exist" in (said["wal_safe"].description or "")
    assert "\n\nhint: run 'cdc-assets setup --pipeline shop'" in (
        said["wal_safe"].description or ""
    )


def test_a_failed_table_turns_the_last_syncs_check_red_and_back(
    database: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    config = pipeline("public.a", "public.b", schema_changes="stop")
    defs = definitions(config)
    run_sync(defs, instance)
    database.execute("ALTER TABLE a ADD COLUMN note text")

    red = _evaluated(run_sync(defs, instance), instance)
    database.execute("ALTER TABLE a DROP COLUMN note")
    _copy_anew(config, "public.a")
    green = _evaluated(run_sync(defs, instance), instance)

    assert not red["last_sync"].passed
    assert green["last_sync"].passed


def test_the_checks_alone_can_be_run(config: PipelineConfig, instance: dg.DagsterInstance) -> None:
    defs = definitions(config)
    run_sync(defs, instance)
    job = defs.resolve_implicit_global_asset_job_def()
    only = {dg.AssetCheckKey(SLOT, "wal_safe")}

    result = job.get_subset(asset_check_selection=only).execute_in_process(instance=instance)

    assert result.success
    assert "wal_safe" in _evaluated(result, instance)
    assert not materialized(result)


def test_health_that_can_not_be_looked_at_fails_no_run(
    config: PipelineConfig, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: PipelineConfig) -> None:
        raise RuntimeError("row-value")

    monkeypatch.setattr("cdc_assets.operations.health.check_health", broken)

    result = run_sync(definitions(config), instance)

    assert result.success
    assert "shop/slot" in materialized(result)
    logged = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert any("an unexpected RuntimeError" in line for line in logged)
    assert not any("row-value" in line for line in logged)


def test_the_sensor_is_quiet_while_syncs_look(
    config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    run_sync(definitions(config), instance)

    skipped = _sense(config, instance)

    assert not skipped.asset_events
    assert "a sync looked" in (skipped.skip_message or "")


def test_the_sensor_looks_when_no_sync_does(
    database: ScratchDatabase,
    config: PipelineConfig,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_sync(definitions(config), instance)
    monkeypatch.setattr(health, "LOOKS_EVERY_SECONDS", 0)
    healthy = _sense(config, instance)
    database.execute("SELECT pg_drop_replication_slot(%s)", [config.source.slot])

    told = _sense(config, instance)

    (plotted,) = healthy.asset_events  # all checks were told by the sync, and have not changed
    assert isinstance(plotted, dg.AssetObservation)
    assert plotted.asset_key == SLOT
    assert {"cdc/retained_bytes", "cdc/lag_bytes"} <= set(values(plotted.metadata))
    found = {
        event.check_name: event
        for event in told.asset_events
        if isinstance(event, dg.AssetCheckEvaluation)
    }
    assert not found["wal_safe"].passed


def test_the_sensor_says_again_what_it_said_long_ago(
    config: PipelineConfig, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_sync(definitions(config), instance)
    monkeypatch.setattr(health, "LOOKS_EVERY_SECONDS", 0)
    monkeypatch.setattr(checks_on_the_slot, "TOLD_AGAIN_SECONDS", 0.0)

    told = _sense(config, instance).asset_events

    names = {one.check_name for one in told if isinstance(one, dg.AssetCheckEvaluation)}
    assert names == set(CHECK_NAMES)


def test_a_source_that_is_down_is_said_by_the_sensor(
    pipeline: MakePipeline,
    database: ScratchDatabase,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    config = pipeline("public.orders", dsn_env="SHOP_DSN", schema_changes="stop")
    monkeypatch.setenv("SHOP_DSN", "postgresql://nobody@127.0.0.1:1/nowhere")

    told = _sense(config, instance)

    (source,) = [
        event
        for event in told.asset_events
        if isinstance(event, dg.AssetCheckEvaluation) and event.check_name == "source"
    ]
    assert not source.passed
    assert source.severity is dg.AssetCheckSeverity.ERROR


def test_a_sensor_that_may_not_ask_says_so(
    database: ScratchDatabase, pipeline: MakePipeline, instance: dg.DagsterInstance
) -> None:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    config = pipeline("public.orders", dsn_env="NOT_SET_ANYWHERE", schema_changes="stop")

    assert "'NOT_SET_ANYWHERE'" in (_sense(config, instance).skip_message or "")


@pytest.mark.parametrize(
    ("schedule", "status"),
    [
        ("*/5 * * * *", dg.DefaultSensorStatus.RUNNING),
        (None, dg.DefaultSensorStatus.RUNNING),
        ({"cron": "@hourly", "start": "stopped"}, dg.DefaultSensorStatus.STOPPED),
    ],
    ids=["running", "none", "stopped"],
)
def test_the_sensor_is_on_as_the_schedule_is(
    schedule: object, status: dg.DefaultSensorStatus
) -> None:
    defs = definitions(attributes("public.orders", schedule=schedule))

    assert defs.resolve_sensor_def("shop_health").default_status is status


def _copy_anew(config: PipelineConfig, table: str) -> None:
    from cdc_assets.operations.removal import forget_tables

    forget_tables(config, config.select([table]))


def _sense(config: PipelineConfig, instance: dg.DagsterInstance) -> dg.SensorExecutionData:
    sensor = definitions(config).resolve_sensor_def("shop_health")
    return sensor.evaluate_tick(dg.build_sensor_context(instance=instance))


def _planned(instance: dg.DagsterInstance) -> list[object]:
    planned = dg.DagsterEventType.ASSET_CHECK_EVALUATION_PLANNED
    runs = instance.get_runs()
    return [entry for run in runs for entry in instance.all_logs(run.run_id, of_type=planned)]


def _evaluated(
    result: dg.ExecuteInProcessResult, instance: dg.DagsterInstance
) -> dict[str, dg.AssetCheckEvaluation]:
    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    events = [entry.dagster_event for entry in instance.all_logs(result.run_id, of_type=kind)]
    found = [event.asset_check_evaluation_data for event in events if event is not None]
    return {one.check_name: one for one in found}
