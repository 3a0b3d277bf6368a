"""A value of another kind is told in plain words, with an example, and is not shown."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from cdc_assets.config import parse_config
from cdc_assets.errors import ConfigError
from cdc_assets_tests.dagster_pipelines import attributes
from cdc_assets_tests.interrupting import PROJECT

YAML = "; without quotes YAML reads off, no, on and yes as false and true"


def problems(**changed: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as raised:
        parse_config(attributes("public.orders") | changed, root=PROJECT, place="x")
    return raised.value.problems


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("keep: mirror", "keep: expected a list, such as [mirror]"),
        ("keep: off", f"keep: expected a list, such as [mirror]{YAML}"),
        ("mask: email", "mask: expected a mapping, such as {email: sha256, phone: last4}"),
        ("deletes: no", f"deletes: expected 'hard' or 'soft'{YAML}"),
        ("transform: 5", "transform: expected a text, such as my_project.transforms:add_margin"),
        ("changes: {keep_days: 0}", "changes.keep_days: expected more than 0"),
        ("backfill: {buckets: x}", "backfill.buckets: expected a whole number, such as 8"),
        ("append_only: maybe", "append_only: expected true or false"),
        ("where: ''", "where: is empty"),
    ],
)
def test_a_value_of_a_table(written: str, said: str) -> None:
    table = {"source": "public.orders", **yaml.safe_load(written)}
    assert problems(tables=[table]) == (f"tables[0].{said}",)


def test_a_word_that_yaml_reads_as_false() -> None:
    (said,) = problems(tables=[{"source": "public.orders", "mask": {"email": False}}])
    assert said.startswith("tables[0].mask.email: expected 'sha256', 'hmac'")
    assert said.endswith(YAML)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"schedule": False}, f"schedule: expected a text, such as '* * * * *'{YAML}, and null is"),
        ({"window": 5}, "window: expected a mapping, such as {max_wal_bytes: 268435456}"),
        ({"tables": []}, "tables: is empty"),
    ],
)
def test_a_value_of_the_pipeline(changed: dict[str, Any], said: str) -> None:
    (found,) = problems(**changed)
    assert found.startswith(said)


def test_a_missing_mask_key_has_no_empty_place() -> None:
    table = {"source": "public.orders", "mask": {"email": "hmac"}}
    assert problems(tables=[table]) == ("mask_key: missing, and a column is masked by hmac",)
