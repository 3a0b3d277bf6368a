"""A component's attributes: the schema that editors and `dg check yaml` use, and the reading.

Dagster validates attributes with pydantic and prints the value next to each error, which would
show a connection string. So the model that Dagster validates with takes everything, carries the
schema, and leaves the checking to the same code that the command line uses.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from dagster.components import AssetAttributesModel
from dagster.components.resolved.core_models import OpSpec
from pydantic import BaseModel, GetJsonSchemaHandler, RootModel, ValidationError
from pydantic_core import CoreSchema

from cdc_assets.config import PipelineConfig, config_error, parse_config
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import nearest

JsonSchema = dict[str, Any]

# Keys of PipelineConfig that Dagster alone reads, by what they hold, and those no file holds.
_DAGSTERS_OWN: Mapping[str, type[BaseModel]] = {
    "translation": AssetAttributesModel,
    "source_translation": AssetAttributesModel,
    "slot_translation": AssetAttributesModel,
    "op": OpSpec.model(),
}
_NOT_IN_FILES = frozenset({"root"})


# A template may stand for any of these.
_TEMPLATED: JsonSchema = {"type": ["object", "string", "null"]}
# Dagster says nothing of what an op's settings are.
_OP: Mapping[str, tuple[str, object]] = {
    "name": ("What the op is called.", "replicate_shop"),
    "tags": ("Tags of the op, which run launchers and executors may read.", {"purpose": "cdc"}),
    "description": ("What Dagster says of the op.", "Syncs the shop."),
    "pool": ("The pool that a run holds; pipelines with one DuckDB file share one.", "warehouse"),
    "backfill_policy": ("Unused: the tables have no partitions.", {"type": "single_run"}),
}


@cache
def attributes_model(component_type: type[dg.Resolvable]) -> type[BaseModel]:
    """Make the model that Dagster reads a component's `attributes:` with."""

    class Attributes(RootModel[dict[str, Any]]):
        @classmethod
        def __get_pydantic_json_schema__(
            cls, _core_schema: CoreSchema, _handler: GetJsonSchemaHandler
        ) -> JsonSchema:
            return attributes_schema(component_type)

    return Attributes


def attributes_schema(component_type: type[dg.Resolvable]) -> JsonSchema:
    """Describe `attributes:` as a JSON schema without references.

    A key that is not known is refused by listing the known ones: that is as close as a schema
    comes to naming the nearest.
    """
    config = _inlined(PipelineConfig.model_json_schema())
    component = _inlined(component_type.model().model_json_schema())
    files = {key: value for key, value in config["properties"].items() if key not in _NOT_IN_FILES}
    own = {key: {**_own_schema(key), **files[key], **_TEMPLATED} for key in _DAGSTERS_OWN}
    schema = {
        **config,
        "title": component_type.__name__,
        "properties": {**component["properties"], **files, **own},
        "required": sorted({*config["required"], *component.get("required", ())}),
    }
    listed: JsonSchema = _listing_known_keys(schema)
    return listed


def _own_schema(key: str) -> JsonSchema:
    schema = _inlined(_DAGSTERS_OWN[key].model_json_schema())
    known = schema["properties"]
    if key == "op":
        for name, (description, example) in _OP.items():
            known[name] = {**known[name], "description": description, "examples": [example]}
    elif key != "translation":  # the same keys again: the page would be three times as long
        return {"propertyNames": {"enum": list(known)}}
    return schema


def read_attributes(
    component_type: type[dg.Resolvable],
    attributes: Mapping[str, Any],
    *,
    root: Path,
    place: str,
    found: Collection[str],
) -> BaseModel:
    """Check attributes and make them the model that Dagster resolves.

    Args:
        component_type: The component or a subclass with keys of its own.
        attributes: What stands under `attributes:`.
        root: Where relative paths start.
        place: Where the attributes come from, for error messages.
        found: Problems that were found already.

    Raises:
        ConfigError: With every problem in `problems`.
    """
    added = component_type.model().model_fields.keys() - PipelineConfig.model_fields.keys()
    own = {key: value for key, value in attributes.items() if key not in added}
    problems: list[str] = []
    try:
        parse_config(own, root=root, place=place, found=found)
    except ConfigError as error:
        problems += error.problems
    problems += _dagsters_problems(attributes)
    if problems:
        raise config_error(place, list(dict.fromkeys(problems)))
    try:
        return component_type.model().model_validate(dict(attributes))
    except ValidationError as error:  # of a subclass's own keys
        raise config_error(place, list(_worded(error, component_type.model(), ""))) from None


def _dagsters_problems(attributes: Mapping[str, Any]) -> Iterator[str]:
    for key, model in _DAGSTERS_OWN.items():
        if isinstance(attributes.get(key), dict):
            try:
                model.model_validate(attributes[key])
            except ValidationError as error:
                yield from _worded(error, model, f"{key}.")


def _worded(error: ValidationError, model: type[BaseModel], prefix: str) -> Iterator[str]:
    for detail in error.errors(include_input=False):
        path = prefix + ".".join(map(str, detail["loc"]))
        meant = nearest(str(detail["loc"][-1]), model.model_fields) if detail["loc"] else None
        if detail["type"] != "extra_forbidden":
            yield f"{path}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"
        elif meant:
            yield f"{path}: unknown key, did you mean {meant!r}?"
        else:
            yield f"{path}: unknown key, known keys: {', '.join(model.model_fields)}"


def _inlined(schema: JsonSchema) -> JsonSchema:
    definitions = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:  # what a field says of itself goes before what its type says
                beside = {key: value for key, value in node.items() if key != "$ref"}
                return inline({**definitions[node["$ref"].rpartition("/")[2]], **beside})
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
