"""A component's attributes: the schema that editors and `dg check yaml` use, and the reading.

Dagster validates attributes with pydantic and prints the value next to each error, which would
show a connection string. So the model that Dagster validates with takes everything, carries the
schema, and leaves the checking to the same code that the command line uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster._utils.schedules import is_valid_cron_string
from pydantic import BaseModel, GetJsonSchemaHandler, RootModel, ValidationError
from pydantic_core import CoreSchema

from cdc_assets.config import PipelineConfig, parse_config
from cdc_assets.errors import ConfigError

if TYPE_CHECKING:
    from cdc_assets.orchestration.component import PostgresCdcComponent

JsonSchema = dict[str, Any]

# Keys of PipelineConfig that Dagster alone reads, or that no file holds.
_DAGSTERS_OWN = frozenset({"translation", "op"})
_NOT_IN_FILES = frozenset({"root"})


@cache
def attributes_model(component_type: type[PostgresCdcComponent]) -> type[BaseModel]:
    """Make the model that Dagster reads a component's `attributes:` with."""

    class Attributes(RootModel[dict[str, Any]]):
        @classmethod
        def __get_pydantic_json_schema__(
            cls, _core_schema: CoreSchema, _handler: GetJsonSchemaHandler
        ) -> JsonSchema:
            return attributes_schema(component_type)

    return Attributes


def attributes_schema(component_type: type[PostgresCdcComponent]) -> JsonSchema:
    """Describe `attributes:` as a JSON schema without references.

    A key that is not known is refused by listing the known ones: what a schema can say comes
    closest to naming the nearest.
    """
    config = _inlined(PipelineConfig.model_json_schema())
    dagsters = _inlined(component_type.model().model_json_schema())
    schema = {
        **config,
        "title": component_type.__name__,
        "properties": {**dagsters["properties"], **_file_keys(config["properties"])},
    }
    schema["required"] = sorted({*config["required"], *dagsters.get("required", ())})
    listed: JsonSchema = _listing_known_keys(schema)
    return listed


def read_attributes(
    component_type: type[PostgresCdcComponent],
    attributes: Mapping[str, Any],
    *,
    root: Path,
    place: str,
) -> BaseModel:
    """Check attributes and make them the model that Dagster resolves.

    Args:
        component_type: The component or a subclass with keys of its own.
        attributes: What stands under `attributes:`.
        root: Where relative paths start.
        place: Where the attributes come from, for error messages.

    Raises:
        ConfigError: With every problem in `problems`.
    """
    added = component_type.model_fields.keys() - PipelineConfig.model_fields.keys()
    own = {key: value for key, value in attributes.items() if key not in added}
    config = parse_config(own, root=root, place=place)
    check_schedule(config.schedule, place=place)
    try:
        return component_type.model().model_validate(dict(attributes))
    except ValidationError as error:
        problems = tuple(
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg'].lower()}"
            for detail in error.errors(include_input=False)
        )
        raise ConfigError(
            f"config {place!r} has problems: " + "; ".join(problems), problems=problems
        ) from None


def check_schedule(schedule: str, *, place: str) -> None:
    """Make sure that Dagster understands a cron expression.

    Raises:
        ConfigError: It does not.
    """
    if not is_valid_cron_string(schedule):
        problem = f"schedule: expected a cron expression with five fields, got {schedule!r}"
        raise ConfigError(f"config {place!r} has 1 problem: {problem}", problems=(problem,))


def _file_keys(properties: JsonSchema) -> JsonSchema:
    return {
        key: schema
        for key, schema in properties.items()
        if key not in _DAGSTERS_OWN | _NOT_IN_FILES
    }


def _inlined(schema: JsonSchema) -> JsonSchema:
    definitions = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inline(definitions[node["$ref"].rpartition("/")[2]])
            return {key: inline(value) for key, value in node.items()}
        return [inline(value) for value in node] if isinstance(node, list) else node

    inlined: JsonSchema = inline(schema)
    return inlined


def _listing_known_keys(node: Any) -> Any:
    if isinstance(node, list):
        return [_listing_known_keys(value) for value in node]
    if not isinstance(node, dict):
        return node
    listed = {key: _listing_known_keys(value) for key, value in node.items()}
    if listed.get("additionalProperties") is False:
        del listed["additionalProperties"]
        listed["propertyNames"] = {"enum": list(listed["properties"])}
    return listed
