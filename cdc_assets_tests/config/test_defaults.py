from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from cdc_assets.config import PipelineConfig, TableConfig, TableDefaults, parse_config
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import TableName
from cdc_assets.orchestration.component import PostgresCdcComponent
from cdc_assets_tests.dagster_pipelines import attributes
from cdc_assets_tests.interrupting import PROJECT

TABLES = [
    {"source": "public.customers"},
    {"source": "public.orders", "keep": ["mirror"], "backfill": {"first": "wait"}},
]


def read(**config: Any) -> PipelineConfig:
    return parse_config(attributes("public.orders") | config, root=PROJECT, place="x")


def table(config: PipelineConfig, name: str) -> TableConfig:
    return config.table(TableName("public", name))


def test_what_a_table_says_itself_goes_before_the_defaults() -> None:
    defaults = {"keep": ["mirror", "changes"], "backfill": {"buckets": 3}, "deletes": "soft"}

    config = read(tables=TABLES, defaults=defaults)

    customers, orders = table(config, "customers"), table(config, "orders")
    assert (customers.keep, orders.keep) == (["mirror", "changes"], ["mirror"])
    assert (customers.backfill.buckets, customers.backfill.first) == (3, "sync")
    assert (orders.backfill.buckets, orders.backfill.first) == (8, "wait")  # a key is a whole
    assert (customers.deletes, orders.deletes) == ("soft", "soft")


def test_a_table_that_says_nothing_is_what_its_config_was_without_defaults() -> None:
    assert read(tables=TABLES) == read(tables=TABLES, defaults={})


def test_a_table_is_judged_by_what_it_has_with_the_defaults() -> None:
    with pytest.raises(ConfigError) as raised:
        read(
            tables=[{"source": "public.orders", "keep": ["changes"]}], defaults={"deletes": "soft"}
        )
    assert raised.value.problems == (
        "tables[0]: deletes: soft marks rows of a mirror, and none is kept (it has 'deletes' of"
        " 'defaults')",
    )


@pytest.mark.parametrize(
    ("defaults", "problem"),
    [
        ({"kep": ["mirror"]}, "defaults.kep: unknown key, did you mean 'keep'?"),
        ({"source": "public.x"}, "defaults.source: unknown key"),
        ({"keep": []}, "defaults.keep: nothing is kept"),
        ({"backfill": {"bucket": 3}}, "defaults.backfill.bucket: unknown key, did you mean 'bu"),
        ({"changes": {"keep_day": 3}}, "defaults.changes.keep_day: unknown key, did you mean 'ke"),
        ({"mask": {"email": "md5"}}, "defaults.mask.email: "),
        (["mirror"], "defaults: "),
    ],
)
def test_a_wrong_default_is_found_once(defaults: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tables=TABLES, defaults=defaults)
    (found,) = raised.value.problems
    assert found.startswith(problem)


def test_both_mistakes_are_found_where_tables_are_wrong_too() -> None:
    with pytest.raises(ConfigError) as raised:
        read(tables="public.orders", defaults={"keep": ["mirror"]})
    assert [problem.partition(":")[0] for problem in raised.value.problems] == ["tables"]


def test_the_component_takes_them_from_python_too() -> None:
    written = attributes("public.orders") | {"schedule": None}
    made = PipelineConfig(**written)
    component = PostgresCdcComponent(
        name=made.name,
        source=made.source,
        warehouse=made.warehouse,
        tables=[TableConfig.model_validate(one) for one in TABLES],
        defaults=TableDefaults(keep=["mirror", "history"]),
    )

    assert table(component.config, "customers").keep == ["mirror", "history"]
    assert table(component.config, "orders").keep == ["mirror"]
    assert isinstance(component, dg.Component)
