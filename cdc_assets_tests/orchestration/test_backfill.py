"""Backfills as Dagster starts them: of one bucket, of all of them, and of those that failed."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext
from dagster._core.definitions.selector import (
    PartitionRangeSelector,
    PartitionsByAssetSelector,
    PartitionsSelector,
)
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.backfill import execute_backfill_iteration

from cdc_assets.config import PipelineConfig, TableConfig
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName
from cdc_assets.progress import RunMark
from cdc_assets.replication import backfill as use_case
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import (
    attributes,
    definitions,
    materialized,
    run_sync,
    specs,
    values,
)
from cdc_assets_tests.dagster_project import PROJECT
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source

ORDERS, SNAPSHOT = "shop/public/orders", "shop/public/orders__snapshot"
BUCKETS = ("00", "01", "02")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """A pipeline of a table with three buckets and of one with eight."""
    database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, total numeric(12, 2))")
    database.execute("CREATE TABLE customers (id bigint PRIMARY KEY, name text)")
    database.execute("INSERT INTO orders SELECT i, i * 1.25 FROM generate_series(1, 90) i")
    database.execute("INSERT INTO customers SELECT i, 'c' || i FROM generate_series(1, 30) i")
    return _with_buckets(pipeline("public.orders", "public.customers", schema_changes="stop"))


def _with_buckets(config: PipelineConfig) -> PipelineConfig:
    orders = TableConfig.model_validate({"source": "public.orders", "backfill": {"buckets": 3}})
    return config.model_copy(update={"tables": [orders, *config.tables[1:]]})


def test_every_mirror_has_a_companion_whose_partitions_are_its_buckets() -> None:
    given = attributes("public.orders", "public.customers")
    given["tables"][0]["backfill"] = {"buckets": 3}
    assets = specs(definitions(given))

    snapshot, other = assets[SNAPSHOT], assets["shop/public/customers__snapshot"]
    assert snapshot.partitions_def == dg.StaticPartitionsDefinition(BUCKETS)
    eight = tuple(f"0{at}" for at in range(8))
    assert other.partitions_def == dg.StaticPartitionsDefinition(eight)
    assert [dep.asset_key.to_user_string() for dep in snapshot.deps] == [
        "shop/source/public/orders"
    ]
    assert "mirror `shop/public/orders`" in (snapshot.description or "")
    assert snapshot.metadata["cdc/mirror"] == dg.MetadataValue.asset(dg.AssetKey(ORDERS.split("/")))


def test_a_companion_is_beside_its_mirror_wherever_that_is() -> None:
    translation = {"key": "wh/{{ table.name }}", "group_name": "wh", "owners": ["team:shop"]}
    spec = specs(definitions(attributes("public.orders", translation=translation)))

    assert spec["wh/orders__snapshot"].group_name == "wh_backfill"
    assert spec["wh/orders__snapshot"].owners == ["team:shop"]


def test_a_table_that_is_called_like_a_companion_keeps_its_key() -> None:
    defs = definitions(attributes("public.orders", "public.orders__snapshot"))

    dg.Definitions.validate_loadable(defs)
    assets = specs(defs)
    assert assets["shop/public/orders__snapshot"].partitions_def is None
    assert assets["shop/public/orders__snapshot_"].partitions_def is not None


def test_one_job_backfills_tables_with_as_many_buckets_as_the_first() -> None:
    given = attributes("public.orders", "public.customers", "public.items")
    given["tables"][1]["backfill"] = {"buckets": 100}
    defs = definitions(given)

    jobs = {job.name: job for job in defs.resolve_all_job_defs()}
    assert set(jobs) >= {"shop_sync", "shop_backfill", "shop_backfill_100"}
    assert _selected(jobs["shop_backfill"]) == {SNAPSHOT, "shop/public/items__snapshot"}
    assert _selected(jobs["shop_backfill_100"]) == {"shop/public/customers__snapshot"}


def test_a_sync_has_no_partitions_and_no_companion() -> None:
    job = definitions(attributes("public.orders")).resolve_job_def("shop_sync")

    assert job.partitions_def is None
    assert _selected(job) == {ORDERS, "shop/slot"}


def test_syncs_go_on_beside_a_backfill_which_has_a_pool_of_its_own() -> None:
    defs = definitions(attributes("public.orders", op={"pool": "warehouse", "tags": {"a": "b"}}))

    snapshot = defs.resolve_assets_def(dg.AssetKey(SNAPSHOT.split("/")))
    assert snapshot.op.pool == "warehouse_backfill"
    assert snapshot.op.tags["a"] == "b"
    assert snapshot.backfill_policy == dg.BackfillPolicy.multi_run()


def test_another_number_of_buckets_makes_no_mirror_out_of_date() -> None:
    before = specs(definitions(attributes("public.orders")))[ORDERS].code_version
    given = attributes("public.orders")
    given["tables"][0]["backfill"] = {"buckets": 3, "max_rows_per_second": 5}

    assert specs(definitions(given))[ORDERS].code_version == before


def test_a_bucket_is_put_right_and_says_what_it_found(
    database: ScratchDatabase, config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)
    told = materialized(run_sync(defs, instance))[ORDERS]
    _write(config, "UPDATE public.orders SET total = 0 WHERE id = 1")
    _write(config, "DELETE FROM public.orders WHERE id = 2")
    _write(
        config, "INSERT INTO public.orders SELECT -7, 1, _cdc_lsn, NULL FROM public.orders LIMIT 1"
    )

    found = _backfilled(defs, instance, "00")

    assert found["cdc/rows_inserted"] == found["cdc/rows_changed"] == found["cdc/rows_removed"] == 1
    assert 0 < found["cdc/rows_read"] < 90
    assert found["cdc/key_range"].startswith("up to ")
    assert found["cdc/confirmed_lsn_int"] >= told["cdc/confirmed_lsn_int"]
    assert found["cdc/bytes"] > 0
    assert found["cdc/rows_per_second"] >= 0
    assert found["cdc/backfilled"].endswith(", 1 inserted, 1 changed, 1 removed")
    assert_equal_to_source(database, config)


def test_a_healthy_bucket_is_materialized_with_nothing_found(
    config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)
    run_sync(defs, instance)
    before = _mirror(instance)

    found = _backfilled(defs, instance, "02")

    counts = (found["cdc/rows_inserted"], found["cdc/rows_changed"], found["cdc/rows_removed"])
    assert counts == (0, 0, 0)
    assert found["cdc/backfilled"].endswith(", nothing differed")
    assert _mirror(instance) == before


def test_a_mirror_that_was_written_is_materialized_with_its_columns(
    config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)
    run_sync(defs, instance)
    before = _mirror(instance)
    _write(config, "UPDATE public.orders SET total = 0 WHERE id = 1")

    _backfilled(defs, instance, "00")

    after = _mirror(instance)
    assert after["cdc/confirmed_lsn_int"] >= before["cdc/confirmed_lsn_int"]
    assert after != before
    assert after["dagster/column_schema"] == before["dagster/column_schema"]


def test_a_mirror_that_can_not_go_on_is_copied_whole_whatever_bucket_was_asked_for(
    database: ScratchDatabase, config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)
    run_sync(defs, instance)
    database.execute("ALTER TABLE orders ADD COLUMN note text; INSERT INTO orders VALUES (91, 1)")
    assert not run_sync(defs, instance).success

    found = _backfilled(defs, instance, "01")

    assert found["cdc/backfilled"].startswith("the whole table: 91 rows ")
    assert run_sync(defs, instance).success
    assert_equal_to_source(database, config)


def test_a_mirror_may_wait_for_its_backfill_and_says_so(
    database: ScratchDatabase, config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    waits = {"buckets": 3, "first": "wait"}
    orders = TableConfig.model_validate({"source": "public.orders", "backfill": waits})
    defs = definitions(config.model_copy(update={"tables": [orders, *config.tables[1:]]}))

    first = run_sync(defs, instance)
    found = _backfilled(defs, instance, "00")
    second = run_sync(defs, instance)

    assert first.success
    assert ORDERS not in materialized(first)
    assert "shop/public/customers" in materialized(first)
    assert [
        event.asset_observation_data.asset_observation.description
        for event in first.all_events
        if event.event_type_value == "ASSET_OBSERVATION"
        and event.asset_key == dg.AssetKey(ORDERS.split("/"))
    ] == ["waits for its backfill"]
    assert found["cdc/rows_read"] == 90
    assert ORDERS in materialized(second)
    assert_equal_to_source(database, config)


def test_a_table_that_can_not_be_backfilled_fails_the_run_with_the_way_out(
    database: ScratchDatabase, config: PipelineConfig, instance: dg.DagsterInstance
) -> None:
    defs = definitions(config)
    run_sync(defs, instance)
    database.execute("DROP TABLE orders")

    result = _run(defs, instance, "01")

    (failed,) = [event for event in result.all_events if event.is_step_failure]
    failure = failed.step_failure_data.user_failure_data
    assert failure is not None
    assert "'public.orders'" in (failure.description or "")
    assert "\nhint: " in (failure.description or "")
    assert not instance.get_materialized_partitions(dg.AssetKey(SNAPSHOT.split("/")))


def test_a_backfill_of_all_buckets_and_then_of_those_that_failed(
    database: ScratchDatabase,
    config: PipelineConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, fails = use_case.backfill, ["01"]

    def failing(
        config: PipelineConfig, table: TableName, *, buckets: Any, run: RunMark
    ) -> Generator[Any]:
        if fails and fails[0] in buckets:
            fails.pop()
            raise TableError("no luck", table=str(table))
        yield from whole(config, table, buckets=buckets, run=run)

    monkeypatch.setattr(use_case, "backfill", failing)
    with _daemon(config, tmp_path) as backfill:
        run_sync(definitions(config), backfill.instance)
        _write(config, "UPDATE public.orders SET total = 0")

        first = backfill.run(BUCKETS)
        done = set(backfill.instance.get_materialized_partitions(backfill.key))
        again = backfill.run(sorted(set(BUCKETS) - done))

        assert first.status is BulkActionStatus.COMPLETED_FAILED
        assert done == {"00", "02"}
        assert again.status is BulkActionStatus.COMPLETED_SUCCESS
        assert set(backfill.instance.get_materialized_partitions(backfill.key)) == set(BUCKETS)
    assert_equal_to_source(database, config)


class _Backfills:
    """Backfills as the daemon takes them from the UI's dialog, its runs in this process."""

    key = dg.AssetKey(SNAPSHOT.split("/"))

    def __init__(self, workspace: Any) -> None:
        self._workspace, self.instance = workspace, workspace.instance
        self._graph = workspace.create_request_context().asset_graph

    def run(self, buckets: Any) -> PartitionBackfill:
        name = f"backfill{len(self.instance.get_backfills())}"
        self.instance.add_backfill(
            PartitionBackfill.from_partitions_by_assets(
                backfill_id=name,
                asset_graph=self._graph,
                partitions_by_assets=[
                    PartitionsByAssetSelector(
                        asset_key=self.key,
                        partitions=PartitionsSelector(
                            ranges=[PartitionRangeSelector(start=one, end=one) for one in buckets]
                        ),
                    )
                ],
                backfill_timestamp=time.time(),
                tags={},
                dynamic_partitions_store=self.instance,
                title=None,
                description=None,
                run_config=None,
            )
        )
        for _ in range(20):
            list(execute_backfill_iteration(self._workspace, logging.getLogger(name)))
            for run in self.instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED])):
                self.instance.launch_run(run.run_id, self._workspace.create_request_context())
            found = self.instance.get_backfill(name)
            assert found is not None
            if found.status not in (BulkActionStatus.REQUESTED, BulkActionStatus.FAILING):
                return found
        raise TimeoutError(name)


@contextmanager
def _daemon(config: PipelineConfig, directory: Path) -> Iterator[_Backfills]:
    file = directory / "location.py"
    file.write_text(
        "from pathlib import Path\n"
        "import dagster as dg\n"
        "from cdc_assets.config import load_config\n"
        "from cdc_assets_tests.dagster_pipelines import definitions\n"
        "from cdc_assets_tests.orchestration.test_backfill import _with_buckets\n"
        f"defs = definitions(_with_buckets(load_config(Path({str(_file(config))!r}))))\n"
        "here = dg.Definitions(executor=dg.in_process_executor)\n"
        "merged = dg.Definitions.merge(defs, here)\n"
    )
    launcher = {"module": "dagster._core.launcher.sync_in_memory_run_launcher"}
    overrides = {"run_launcher": {**launcher, "class": "SyncInMemoryRunLauncher"}}
    target = PythonFileTarget(str(file), "merged", str(PROJECT), "shop")
    with (
        dg.instance_for_test(overrides=overrides) as instance,
        create_test_daemon_workspace_context(target, instance) as workspace,
        # Runs in this process say of it that it loads definitions for a run
        DefinitionsLoadContext.scoped(DefinitionsLoadContext.get()),
    ):
        yield _Backfills(workspace)


def _file(config: PipelineConfig) -> Path:
    return config.root / "defs.yaml"


def _selected(job: dg.JobDefinition) -> set[str]:
    return {key.to_user_string() for key in job.asset_layer.executable_asset_keys}


def _run(
    defs: dg.Definitions, instance: dg.DagsterInstance, bucket: str
) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("shop_backfill").execute_in_process(
        partition_key=bucket, instance=instance, raise_on_error=False
    )


def _backfilled(
    defs: dg.Definitions, instance: dg.DagsterInstance, bucket: str
) -> Mapping[str, Any]:
    result = _run(defs, instance, bucket)
    assert result.success
    (event,) = [
        event.step_materialization_data.materialization
        for event in result.all_events
        if event.is_step_materialization and event.asset_key == dg.AssetKey(SNAPSHOT.split("/"))
    ]
    assert event.partition == bucket
    return values(event.metadata)


def _mirror(instance: dg.DagsterInstance) -> Mapping[str, Any]:
    event = instance.get_latest_materialization_event(dg.AssetKey(ORDERS.split("/")))
    assert event is not None
    assert event.asset_materialization is not None
    return values(event.asset_materialization.metadata)


def _write(config: PipelineConfig, sql: str) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(sql)
