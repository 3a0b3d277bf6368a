"""`{env: NAME}` where development and production differ: one rule for both readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cdc_assets.config import COMPONENT_TYPE, PipelineConfig, load_config
from cdc_assets.errors import ConfigError
from cdc_assets.orchestration.component import PostgresCdcComponent
from cdc_assets_tests.dagster_pipelines import attributes, definitions

READ_WHEN_LOADED = {
    "source.slot": ("dev_cdc", "slot"),
    "source.publication": ("dev_tables", "publication"),
    "warehouse.duckdb.path": ("data/dev.duckdb", "path"),
    "warehouse.duckdb.publish": ("data/copy.duckdb", "publish"),
    "schedule": ("*/5 * * * *", "cron"),
    "schedule.cron": ("*/5 * * * *", "cron"),
    "schedule.timezone": ("Asia/Tokyo", "timezone"),
    "schedule.start": ("stopped", "start"),
}


@pytest.mark.parametrize("place", READ_WHEN_LOADED)
def test_a_variable_stands_for_the_value(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, field = READ_WHEN_LOADED[place]
    written = with_value(place, {"env": "CDC_TEST_VALUE"})
    monkeypatch.setenv("CDC_TEST_VALUE", text)

    for config in read_by_both(tmp_path, written):
        found = {
            **config.source.model_dump(),
            **config.warehouse.duckdb.model_dump(),
            **(config.schedule.model_dump() if config.schedule else {}),
        }
        assert found[field] == text


@pytest.mark.parametrize("place", READ_WHEN_LOADED)
def test_one_that_is_not_set_is_a_problem_with_its_place(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CDC_TEST_VALUE", raising=False)

    problems = problems_of_both(tmp_path, with_value(place, {"env": "CDC_TEST_VALUE"}))

    assert problems == (f"{place}: environment variable 'CDC_TEST_VALUE' is not set",)


@pytest.mark.parametrize("place", READ_WHEN_LOADED)
@pytest.mark.parametrize("reference", [{"env": ""}, {"env": 5}, {"env": "A", "default": "b"}])
def test_a_reference_is_one_name(place: str, reference: dict[str, Any], tmp_path: Path) -> None:
    problems = problems_of_both(tmp_path, with_value(place, reference))

    assert problems == (
        f"{place}: expected {{env: NAME}}, NAME being that of an environment variable",
    )


def test_what_a_variable_holds_is_checked_as_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDC_TEST_VALUE", "Not A Slot")

    (problem,) = problems_of_both(tmp_path, with_value("source.slot", {"env": "CDC_TEST_VALUE"}))

    assert problem.startswith("source.slot: a slot's name has lower case letters")


@pytest.mark.parametrize("place", ["source.dsn", *READ_WHEN_LOADED])
def test_a_template_is_refused_by_both(place: str, tmp_path: Path) -> None:
    problems = problems_of_both(tmp_path, with_value(place, "{{ env.CDC_TEST_VALUE }}"))

    assert problems == (
        f"{place}: write {{env: NAME}} instead of a template: the command line reads it too",
    )


def test_a_template_is_refused_where_no_variable_can_stand(tmp_path: Path) -> None:
    written = attributes("{{ env.SCHEMA }}.orders", name="{{ env.NAME }}")

    assert set(problems_of_both(tmp_path, written)) == {
        "name: no templates: the command line reads it too",
        "tables[0].source: no templates: the command line reads it too",
    }


def test_the_schema_shows_both_forms() -> None:
    schema = PostgresCdcComponent.get_model_cls().model_json_schema()  # type: ignore[union-attr]

    for place in READ_WHEN_LOADED:
        if place.startswith("schedule."):
            continue
        field = schema
        for part in place.split("."):
            field = field["properties"][part]
        forms = field["anyOf"]
        assert "string" in {form.get("type") for form in forms}
        assert ["env"] in [form.get("required") for form in forms]


def with_value(place: str, value: object) -> dict[str, Any]:
    written = attributes("public.orders")
    if place.startswith("schedule."):
        written["schedule"] = {"cron": "0 3 * * *"}
    *parents, last = place.split(".")
    inside = written
    for parent in parents:
        inside = inside[parent]
    inside[last] = value
    return written


def read_by_both(directory: Path, written: dict[str, Any]) -> tuple[PipelineConfig, ...]:
    component = PostgresCdcComponent.from_attributes_dict(attributes=written)
    assert definitions(written)
    return load_config(as_file(directory, written)), component.config


def problems_of_both(directory: Path, written: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as on_the_command_line:
        load_config(as_file(directory, written))
    with pytest.raises(ConfigError) as in_dagster:
        definitions(written)
    assert in_dagster.value.problems == on_the_command_line.value.problems
    return on_the_command_line.value.problems


def as_file(directory: Path, written: dict[str, Any]) -> Path:
    path = directory / "defs.yaml"
    path.write_text(yaml.safe_dump({"type": COMPONENT_TYPE, "attributes": written}))
    return path
