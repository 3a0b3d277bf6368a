"""The config as Dagster reads it: the same checks and the same words as on the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdc_assets.config import load_config
from cdc_assets.errors import ConfigError
from cdc_assets.orchestration.component import PostgresCdcComponent
from cdc_assets_tests.dagster_pipelines import attributes, definitions
from cdc_assets_tests.dagster_project import PROJECT, copy_project, dg, shop_config

CANARY = "canary-5ecret"
LITERAL = f"postgresql://cdc:{CANARY}@127.0.0.1/shop"


def test_the_dsns_variable_is_not_needed_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHOP_SOURCE_DSN", raising=False)

    assert definitions(attributes("public.orders"))


def test_every_problem_is_named_at_once_as_on_the_command_line(tmp_path: Path) -> None:
    broken = attributes("public.orders", tabels=[], window={"max_wal_byte": 1})
    broken["source"]["slott"] = broken["source"].pop("slot")

    with pytest.raises(ConfigError) as in_dagster:
        PostgresCdcComponent.from_attributes_dict(attributes=broken)
    with pytest.raises(ConfigError) as on_the_command_line:
        load_config(_written(tmp_path, broken))

    assert set(in_dagster.value.problems) == set(on_the_command_line.value.problems)
    assert set(in_dagster.value.problems) == {
        "tabels: unknown key, did you mean 'tables'?",
        "window.max_wal_byte: unknown key, did you mean 'max_wal_bytes'?",
        "source.slott: unknown key, did you mean 'slot'?",
        "source.slot: missing",
    }


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"schedule": "* * * *"},
            "schedule: expected a cron expression with five fields, got '* * * *'",
        ),
        ({"op": {"pol": "x"}}, "op.pol: unknown key, did you mean 'pool'?"),
        (
            {"translation": {"grup_name": "x"}},
            "translation.grup_name: unknown key, did you mean 'group_name'?",
        ),
    ],
)
def test_what_dagster_alone_reads_is_checked_in_the_same_words(
    changed: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError) as error:
        definitions(attributes("public.orders", **changed))

    assert error.value.problems == (problem,)


def test_a_problem_elsewhere_does_not_show_the_dsn() -> None:
    broken = attributes("public.orders", nmae="shop")
    broken["source"] = {"dsn": LITERAL, "publication": 5}

    with pytest.raises(ConfigError) as error:
        definitions(broken)

    assert len(error.value.problems) == 3
    assert CANARY not in str(error.value)


def test_a_template_in_the_dsn_is_refused() -> None:
    templated = attributes("public.orders")
    templated["source"]["dsn"] = "{{ env.SHOP_SOURCE_DSN }}"

    with pytest.raises(ConfigError, match=r"write \{env: NAME\} instead of a template"):
        definitions(templated)


def test_the_schema_knows_every_key_and_no_reference() -> None:
    schema = PostgresCdcComponent.get_model_cls().model_json_schema()  # type: ignore[union-attr]

    assert set(schema["properties"]) == {
        *("name", "source", "warehouse", "tables", "defaults", "mask_key", "window"),
        *("reconcile", "health"),
        "schedule",
        *("translation", "source_translation", "slot_translation", "op"),
    }
    assert set(schema["properties"]["source"]["propertyNames"]["enum"]) == {
        *("dsn", "slot", "publication", "push_down")
    }
    assert "$ref" not in str(schema)


def test_every_key_says_what_it_is_and_gives_an_example() -> None:
    schema = PostgresCdcComponent.get_model_cls().model_json_schema()  # type: ignore[union-attr]

    keys = dict(_keys(schema))
    assert len(keys) > 25
    silent = [place for place, key in keys.items() if not {"description", "examples"} <= key.keys()]
    assert [place for place in silent if not place.startswith((".translation.", ".op.back"))] == []


def test_the_schemas_examples_are_a_config_that_loads() -> None:
    schema = PostgresCdcComponent.get_model_cls().model_json_schema()  # type: ignore[union-attr]

    assert definitions({key: said["examples"][0] for key, said in schema["properties"].items()})


def test_dg_and_the_daemon_know_the_code_location_by_one_name() -> None:
    with (PROJECT / "pyproject.toml").open("rb") as file:
        to_dg = tomllib.load(file)["tool"]["dg"]["project"]
    (entry,) = yaml.safe_load((PROJECT / "workspace.yaml").read_text())["load_from"]
    to_the_daemon = entry["python_module"]

    assert to_the_daemon["location_name"] == to_dg["code_location_name"]
    assert to_the_daemon["module_name"] == to_dg["code_location_target_module"]


def test_dg_accepts_the_projects_own_pipeline(project: Path) -> None:
    done = dg(project, "check", "defs")

    assert done.returncode == 0, done.stdout + done.stderr
    assert "All component YAML validated successfully" in done.stdout
    assert "All definitions loaded successfully" in done.stdout


def test_words_that_yaml_reads_otherwise_need_no_quotes(project: Path) -> None:
    _break(project, "mask: {email: sha256}", "mask: {email: sha256, biography: null}")

    config = load_config(shop_config(project))
    checked = dg(project, "check", "yaml")
    loaded = dg(project, "check", "defs", "--no-check-yaml")

    masks, enriched = config.tables[0].mask, config.tables[2].enrich
    assert masks == {"email": "sha256", "biography": "null"}
    assert [one.on for one in enriched] == [{"customer_id": "id"}]
    assert checked.returncode == 0, checked.stdout
    assert loaded.returncode == 0, loaded.stdout + loaded.stderr


def test_dg_lists_the_component(project: Path) -> None:
    listed = dg(project, "list", "components", "--json")

    assert "cdc_assets.PostgresCdcComponent" in listed.stdout


def test_dg_check_yaml_points_at_a_mistake_and_lists_the_keys(project: Path) -> None:
    _break(project, "slot: shop_cdc", "slott: shop_cdc")

    done = dg(project, "check", "yaml")

    assert done.returncode == 1
    assert "'slott' is not one of ['dsn', 'slot', 'publication', 'push_down']" in done.stdout


def test_dg_check_defs_names_the_nearest_key_and_no_secret(project: Path) -> None:
    _break(project, "dsn: {env: SHOP_SOURCE_DSN}", f"dsn: {LITERAL}")
    _break(project, "slot: shop_cdc", "slott: shop_cdc")

    done = dg(project, "check", "defs", "--no-check-yaml")

    assert done.returncode == 1
    assert "source.slott: unknown key, did you mean 'slot'?" in done.stdout + done.stderr
    assert CANARY not in done.stdout + done.stderr


def test_a_key_that_stands_twice_is_named(project: Path) -> None:
    _break(project, "    slot: shop_cdc\n", "    slot: shop_cdc\n    slot: other_cdc\n")

    done = dg(project, "check", "defs", "--no-check-yaml")

    assert done.returncode == 1
    assert "line 8: key 'slot' stands twice, first in line 7" in done.stdout + done.stderr


def test_what_dg_scaffolds_is_a_config_that_loads(project: Path) -> None:
    done = dg(project, "scaffold", "defs", "cdc_assets.PostgresCdcComponent", "sales")
    written = project / "cdc_assets" / "defs" / "sales" / "defs.yaml"

    assert done.returncode == 0, done.stdout + done.stderr
    assert load_config(written).name == "sales"
    assert definitions(yaml.safe_load(written.read_text())["attributes"])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_project(tmp_path)


def _keys(node: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, said in node.get("properties", {}).items():
        yield f"{place}.{key}", said
        yield from _keys(said, f"{place}.{key}")
    for branch in (*node.get("anyOf", []), *node.get("oneOf", [])):
        yield from _keys(branch, place)
    if isinstance(node.get("items"), dict):
        yield from _keys(node["items"], place)


def _break(project: Path, right: str, wrong: str) -> None:
    path = shop_config(project)
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong))


def _written(directory: Path, attributes: dict[str, Any]) -> Path:
    path = directory / "defs.yaml"
    path.write_text(
        yaml.safe_dump({"type": "cdc_assets.PostgresCdcComponent", "attributes": attributes})
    )
    return path
