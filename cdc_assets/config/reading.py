"""Reads a pipeline's YAML, and checks a component's attributes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cdc_assets.config.documents import Document, choose, read_documents
from cdc_assets.config.model import COMPONENT_TYPE, PipelineConfig
from cdc_assets.config.problems import config_error, path_text, problem_text, unknown_key
from cdc_assets.config.project import config_files, project_root
from cdc_assets.config.variables import PLACES
from cdc_assets.errors import ConfigError

_COMPONENT_KEYS = ("type", "attributes", "template_vars_module", "requirements", "post_processing")
_DAGSTERS_OWN = ("translation", "source_translation", "slot_translation", "op")


def load_config(path: Path, pipeline: str | None = None) -> PipelineConfig:
    """Read a pipeline's YAML.

    Args:
        path: The file, or a folder that holds it.
        pipeline: The pipeline's name, where there are several.

    Raises:
        ConfigError: The file can't be read, holds no such component, or has problems; all of them
            are in `problems`.
    """
    return read_pipeline(find_pipeline([path], pipeline, where=repr(str(path))))


def find_pipeline(places: Collection[Path], pipeline: str | None, *, where: str) -> Document:
    """Find the one pipeline that is meant in files and folders.

    Raises:
        ConfigError: There is none or more than one, or what may have been it can't be read.
    """
    documents: list[Document] = []
    unreadable: list[ConfigError] = []
    for file in config_files(places):
        try:
            documents += read_documents(file)
        except ConfigError as error:  # a neighbour's, perhaps: it stops nothing yet
            unreadable.append(error)
    pipelines = [one for one in documents if one.is_pipeline]
    if not pipelines and unreadable:
        raise unreadable[0]
    if not pipelines and len(documents) == 1 and not any(place.is_dir() for place in places):
        return documents[0]  # it was given by name: its problems are what to say
    return choose(pipelines, pipeline, where=where)


def read_pipeline(document: Document) -> PipelineConfig:
    """Check a document and give the pipeline that it describes.

    Raises:
        ConfigError: With every problem in `problems`.
    """
    problems = [*document.problems, *_envelope_problems(document)]
    if not document.attributes:
        raise config_error(document.place, problems)
    known = {*PipelineConfig.model_fields}
    # What a subclass adds is read by Dagster alone
    passed = () if document.type == COMPONENT_TYPE else document.attributes.keys() - known
    attributes = {key: value for key, value in document.attributes.items() if key not in passed}
    root = project_root(document.path)
    return parse_config(attributes, root=root, place=document.place, found=problems)


def parse_config(
    attributes: Mapping[str, Any], *, root: Path, place: str, found: Collection[str] = ()
) -> PipelineConfig:
    """Check a component's attributes.

    Args:
        attributes: What stands under `attributes:`.
        root: Where relative paths start.
        place: Where the attributes come from, for error messages.
        found: Problems that were found already.

    Raises:
        ConfigError: With every problem in `problems`.
    """
    own = {key: value for key, value in attributes.items() if key not in _DAGSTERS_OWN}
    templates = dict(_templates(own, []))
    problems = [*found, *templates.values()]
    try:
        config = PipelineConfig.model_validate({**attributes, "root": root})
    except ValidationError as error:
        for detail in error.errors():  # what was given is never shown
            problem = problem_text(detail) + _by_defaults(detail["loc"], attributes)
            if problem.partition(": ")[0] not in templates:
                problems.append(problem)
    if problems:
        raise config_error(place, list(dict.fromkeys(problems))) from None
    return config


def _by_defaults(location: Sequence[int | str], attributes: Mapping[str, Any]) -> str:
    """Say that it may be the defaults that a table does not go with."""
    match location:
        case ("tables", int(at)):
            shared, said = attributes.get("defaults"), attributes["tables"][at]
            if not (isinstance(shared, dict) and isinstance(said, dict)):
                return ""
            keys = ", ".join(map(repr, sorted(shared.keys() - said.keys())))
            return f" (it has {keys} of 'defaults')" if keys else ""
        case _:
            return ""


def _envelope_problems(document: Document) -> Iterator[str]:
    content = document.content
    if not isinstance(content, dict):
        yield f"expected the keys 'type' and 'attributes', got {type(content).__name__}"
        return
    for key in content:
        if key not in _COMPONENT_KEYS:
            yield unknown_key(str(key), _COMPONENT_KEYS, where="")
    if document.misses_type or (document.type != COMPONENT_TYPE and not document.has_shape):
        found = repr(document.type) if document.type else "none"
        yield f"type: expected {COMPONENT_TYPE!r} or a subclass of it, got {found}"
    if not document.attributes:
        yield "attributes: missing"


def _templates(value: object, location: list[int | str]) -> Iterator[tuple[str, str]]:
    """Find Dagster's templates by their places: the command line could not resolve them."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            yield from _templates(part, [*location, key])
    elif isinstance(value, str) and "{{" in value:
        place = path_text(location)
        advice = "write {env: NAME} instead of a template" if place in PLACES else "no templates"
        yield place, f"{place}: {advice}: the command line reads it too"
