"""Reads a pipeline's YAML, and checks a component's attributes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cdc_assets.config.model import COMPONENT_TYPE, PipelineConfig
from cdc_assets.config.problems import config_error, path_text, problem_text, unknown_key
from cdc_assets.config.project import project_root
from cdc_assets.errors import ConfigError

_COMPONENT_KEYS = ("type", "attributes", "template_vars_module", "requirements", "post_processing")


def load_config(path: Path) -> PipelineConfig:
    """Read a pipeline's YAML file.

    Raises:
        ConfigError: The file can't be read, is not such a component, or has problems; all of them
            are in `problems`.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"config {str(path)!r} can't be read: {error.strerror}",
            hint="give the pipeline's defs.yaml with --config PATH",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {str(path)!r} is not YAML: {_yaml_place(error)}") from error
    problems = _envelope_problems(document)
    if problems:
        raise config_error(str(path), problems)
    return parse_config(document["attributes"], root=project_root(path), place=str(path))


def parse_config(attributes: Mapping[str, Any], *, root: Path, place: str) -> PipelineConfig:
    """Check a component's attributes.

    Args:
        attributes: What stands under `attributes:`.
        root: Where relative paths start.
        place: Where the attributes come from, for error messages.

    Raises:
        ConfigError: With every problem in `problems`.
    """
    try:
        return PipelineConfig.model_validate({**attributes, "root": root})
    except ValidationError as error:
        problems = [problem_text(detail) for detail in error.errors(include_input=False)]
        raise config_error(place, list(dict.fromkeys(problems))) from None


def _envelope_problems(document: object) -> list[str]:
    if not isinstance(document, dict):
        return [f"expected the keys 'type' and 'attributes', got {type(document).__name__}"]
    problems = [
        unknown_key(str(key), _COMPONENT_KEYS, where="")
        for key in document
        if key not in _COMPONENT_KEYS
    ]
    if document.get("type") != COMPONENT_TYPE:
        problems.append(f"type: expected {COMPONENT_TYPE!r}, got {document.get('type')!r}")
    if not isinstance(document.get("attributes"), dict):
        problems.append("attributes: missing")
    return problems + _templates(document.get("attributes"), [])


def _templates(value: object, location: list[int | str]) -> list[str]:
    """Find Dagster's templates, which the command line could not resolve."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, part in parts for found in _templates(part, [*location, key])]
    if isinstance(value, str) and "{{" in value and location[0] not in ("translation", "op"):
        return [
            f"{path_text(location)}: templates are not supported; source.dsn takes {{env: NAME}}"
        ]
    return []


def _yaml_place(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
    return "bytes that are not UTF-8" if isinstance(error, UnicodeDecodeError) else "unreadable"
