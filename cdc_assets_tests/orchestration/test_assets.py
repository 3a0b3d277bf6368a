from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
import pytest
from dagster.components.testing.utils import component_defs

from cdc_assets.identifiers import TableName
from cdc_assets.orchestration.component import PostgresCdcComponent
from cdc_assets.orchestration.execution import PipelineAssets, RunEvent
from cdc_assets.orchestration.keys import key_part, mirror_key, names_of, source_key
from cdc_assets_tests.dagster_pipelines import attributes, definitions, specs


def test_a_pipeline_has_sources_mirrors_their_snapshots_and_a_slot() -> None:
    assets = specs(definitions(attributes("public.customers", "sales.orders")))

    assert set(assets) == {
        "shop/source/public/customers",
        "shop/source/sales/orders",
        "shop/public/customers",
        "shop/sales/orders",
        "shop/public/customers__snapshot",
        "shop/sales/orders__snapshot",
        "shop/slot",
    }
    groups = {key: spec.group_name for key, spec in assets.items()}
    assert {key for key, group in groups.items() if group == "shop_source"} == {
        "shop/source/public/customers",
        "shop/source/sales/orders",
    }
    assert {key for key, group in groups.items() if group == "shop_backfill"} == {
        "shop/public/customers__snapshot",
        "shop/sales/orders__snapshot",
    }
    assert set(groups.values()) == {"shop", "shop_source", "shop_backfill"}


def test_a_mirror_depends_on_its_table_alone() -> None:
    assets = specs(definitions(attributes("public.customers", "public.orders")))

    upstream = [dep.asset_key for dep in assets["shop/public/orders"].deps]
    assert upstream == [dg.AssetKey(["shop", "source", "public", "orders"])]


def test_the_slot_depends_on_every_table_of_the_source() -> None:
    assets = specs(definitions(attributes("public.customers", "public.orders")))

    upstream = {dep.asset_key.to_user_string() for dep in assets["shop/slot"].deps}
    assert upstream == {"shop/source/public/customers", "shop/source/public/orders"}


def test_kinds_say_where_a_table_is() -> None:
    assets = specs(definitions(attributes("public.orders")))

    assert assets["shop/source/public/orders"].kinds == {"postgres"}
    assert assets["shop/public/orders"].kinds == {"duckdb", "table"}
    assert assets["shop/slot"].kinds == {"postgres"}


def test_mirrors_and_slot_are_one_op_that_can_be_run_for_some_of_them() -> None:
    defs = definitions(attributes("public.customers", "public.orders"))
    synced = defs.resolve_assets_def(dg.AssetKey(["shop", "slot"]))

    assert {key.to_user_string() for key in synced.keys} == {
        "shop/public/customers",
        "shop/public/orders",
        "shop/slot",
    }
    assert synced.can_subset
    assert all(spec.skippable for spec in synced.specs)


def test_sources_are_external() -> None:
    graph = definitions(attributes("public.orders")).resolve_asset_graph()

    assert {key.to_user_string() for key in graph.external_asset_keys} == {
        "shop/source/public/orders"
    }


def test_one_run_at_a_time_holds_the_pipelines_pool() -> None:
    synced = definitions(attributes("public.orders")).resolve_assets_def(
        dg.AssetKey(["shop", "slot"])
    )

    assert synced.op.pool == "cdc_shop"


def test_the_code_version_follows_what_shapes_rows_and_not_the_source() -> None:
    before = specs(definitions(attributes("public.orders", "public.customers")))
    elsewhere = {"dsn": {"env": "OTHER"}, "slot": "other", "publication": "other"}
    after = specs(definitions(attributes("public.orders", source=elsewhere)))

    assert before["shop/public/orders"].code_version == after["shop/public/orders"].code_version
    assert before["shop/public/orders"].code_version != before["shop/public/customers"].code_version


@pytest.mark.parametrize(
    ("schedule", "warn", "fail"),
    [
        ("* * * * *", timedelta(minutes=6), timedelta(minutes=17)),
        ("0 3 * * *", timedelta(days=1, minutes=5), timedelta(days=2, minutes=15)),
        ("0 3 * * 1-5", timedelta(days=3, minutes=5), timedelta(days=6, minutes=15)),
    ],
)
def test_the_slot_is_stale_when_runs_stay_away(
    schedule: str, warn: timedelta, fail: timedelta
) -> None:
    policy = specs(definitions(attributes("public.orders", schedule=schedule)))[
        "shop/slot"
    ].freshness_policy

    assert policy == dg.FreshnessPolicy.time_window(warn_window=warn, fail_window=fail)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("order_items", "order_items"),
        ("Orders", "Orders"),
        ("Order Items", "Order-20-Items"),
        ("a.b", "a-2e-b"),
        ("a/b", "a-2f-b"),
        ("a-b", "a-2d-b"),
        ('say "hi"', "say-20--22-hi-22-"),
        ("Größe", "Gr-f6--df-e"),
        ("表", "-8868-"),
    ],
)
def test_a_key_spells_out_what_keys_can_not_hold(name: str, part: str) -> None:
    assert key_part(name) == part


def test_tables_with_odd_names_have_assets_of_their_own() -> None:
    tables = [
        'public."a.b"',
        "public.a_b",
        "public.a-b",
        "public.a b",
        "public.Größe",
        "public.a/b",
    ]
    defs = definitions(attributes(*tables))

    dg.Definitions.validate_loadable(defs)
    assert len(specs(defs)) == 3 * len(tables) + 1


def test_names_that_dagster_would_take_for_one_stay_apart() -> None:
    tables = ["sales.order_items", "sales_order.items", "a.b__c", "a__b.c"]
    defs = definitions(attributes(*tables))

    dg.Definitions.validate_loadable(defs)
    for table in map(TableName.parse, tables):
        spec = defs.resolve_asset_graph().get(mirror_key("shop", table))
        assert spec.parent_keys == {source_key("shop", table)}


def test_schemas_that_are_called_like_our_own_keys_do_not_clash() -> None:
    tables = ["source.orders", "slot.orders", "source.slot"]

    assert len(specs(definitions(attributes(*tables)))) == 3 * len(tables) + 1


def test_names_stay_as_they_are_when_they_are_unique() -> None:
    keys = [dg.AssetKey(["shop", "a", "b"]), dg.AssetKey(["shop", "c"])]

    assert list(names_of(keys)) == ["shop__a__b", "shop__c"]


def test_translation_shapes_mirrors_by_their_tables() -> None:
    translation = {
        "key": "{{ table.schema }}/{{ table.name }}",
        "group_name": "{{ table.schema }}",
        "tags": {"team": "shop"},
    }
    assets = specs(definitions(attributes("public.orders", translation=translation)))

    spec = assets["public/orders"]
    assert spec.group_name == "public"
    assert spec.tags["team"] == "shop"
    assert [dep.asset_key.to_user_string() for dep in spec.deps] == ["shop/source/public/orders"]


def test_source_and_slot_are_shaped_and_what_depends_on_them_follows() -> None:
    shaped = {
        "source_translation": {"key": "crm/{{ table.name }}", "group_name": "crm"},
        "slot_translation": {"key": "control/{{ pipeline }}", "owners": ["team:shop"]},
    }
    assets = specs(definitions(attributes("public.orders", **shaped)))

    mirror, snapshot = "shop/public/orders", "shop/public/orders__snapshot"
    assert set(assets) == {"crm/orders", mirror, snapshot, "control/shop"}
    assert assets["crm/orders"].group_name == "crm"
    assert assets["control/shop"].owners == ["team:shop"]
    for key in (mirror, snapshot, "control/shop"):
        assert [dep.asset_key.to_user_string() for dep in assets[key].deps] == ["crm/orders"]


def test_op_names_tags_and_pool_are_the_users() -> None:
    op = {"name": "replicate", "tags": {"purpose": "cdc"}, "pool": "warehouse"}
    synced = definitions(attributes("public.orders", op=op)).resolve_assets_def(
        dg.AssetKey(["shop", "slot"])
    )

    assert synced.op.name == "replicate"
    assert synced.op.tags["purpose"] == "cdc"
    assert synced.op.pool == "warehouse"


class Owned(PostgresCdcComponent):
    """A component as a user would make it, with a key of its own."""

    owner: str

    def get_asset_spec(self, table: TableName) -> dg.AssetSpec:
        return super().get_asset_spec(table).replace_attributes(owners=[self.owner])

    def get_source_spec(self, table: TableName) -> dg.AssetSpec:
        return super().get_source_spec(table).replace_attributes(group_name=self.owner[5:])

    def get_slot_spec(self) -> dg.AssetSpec:
        return super().get_slot_spec().merge_attributes(tags={"owned": "yes"})

    def execute(
        self, context: dg.AssetExecutionContext, assets: PipelineAssets
    ) -> Iterator[RunEvent]:
        context.log.info("before")
        yield dg.AssetObservation(assets.slot)


def test_a_subclass_adds_keys_and_overrides_specs_and_execution() -> None:
    given = attributes("public.orders", owner="team:shop")
    defs = component_defs(component=Owned.from_attributes_dict(attributes=given))
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("shop_sync").execute_in_process(instance=instance)

    assert specs(defs)["shop/public/orders"].owners == ["team:shop"]
    assert specs(defs)["shop/source/public/orders"].group_name == "shop"
    assert specs(defs)["shop/slot"].tags["owned"] == "yes"
    assert result.success
