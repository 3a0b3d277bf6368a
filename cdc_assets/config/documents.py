"""The documents of a YAML file, and which of them are pipelines.

A pipeline is `cdc_assets.PostgresCdcComponent` or a subclass of it. What is a subclass is known to
Python alone, and importing a project to read a config would need all that the project needs. So a
component of any other type is taken for one when its attributes have a pipeline's shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cdc_assets.config.model import COMPONENT_TYPE
from cdc_assets.errors import ConfigError, NoPipelineError

_SHAPE = frozenset({"source", "warehouse", "tables"})
_SOURCE_SHAPE = frozenset({"dsn", "slot", "publication"})


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a YAML file.

    Attributes:
        path: The file.
        line: The document's first line, counted from 1.
        alone: Whether the file holds no other.
        content: What it says.
        problems: Keys that stand twice: YAML takes the last of them without a word.
    """

    path: Path
    line: int
    alone: bool
    content: Any
    problems: tuple[str, ...]

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return str(self.path) if self.alone else f"{self.path}, line {self.line}"

    @property
    def type(self) -> str:
        """The component's type, or nothing."""
        return str(self.content.get("type", "")) if isinstance(self.content, dict) else ""

    @property
    def attributes(self) -> dict[str, Any]:
        """The component's attributes, or nothing."""
        found = self.content.get("attributes") if isinstance(self.content, dict) else None
        return found if isinstance(found, dict) else {}

    @property
    def name(self) -> str:
        """The pipeline's name, or nothing."""
        return str(self.attributes.get("name", ""))

    @property
    def is_pipeline(self) -> bool:
        """Whether it is ours, or a subclass by its shape, or was meant to be one."""
        return self.type == COMPONENT_TYPE or self.misses_type or self.has_shape

    @property
    def misses_type(self) -> bool:
        """Whether the type is a mistyped one of ours."""
        return self.type.startswith("cdc_assets.") and self.type != COMPONENT_TYPE

    @property
    def has_shape(self) -> bool:
        """Whether the attributes are those of a pipeline."""
        source = self.attributes.get("source")
        return (
            self.attributes.keys() >= _SHAPE
            and isinstance(source, dict)
            and bool(source.keys() & _SOURCE_SHAPE)
        )


def read_documents(path: Path) -> list[Document]:
    """Read a YAML file; documents that say nothing are left out.

    Raises:
        ConfigError: The file can't be read, or is not YAML.
    """
    try:
        found = list(_parsed(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(
            f"config {str(path)!r} can't be read: {error.strerror}",
            hint="give the pipeline's defs.yaml, or its folder, with --config PATH",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {str(path)!r} is not YAML: {_place_of(error)}") from error
    said = [(line, content, doubles) for line, content, doubles in found if content is not None]
    alone = len(said) == 1
    return [Document(path, line, alone, content, doubles) for line, content, doubles in said]


def choose(documents: Sequence[Document], pipeline: str | None, *, where: str) -> Document:
    """Find the pipeline of a name, or the only one.

    Args:
        documents: Those that may be it.
        pipeline: Its name, or None for the only one.
        where: Where the documents were looked for, for messages.

    Raises:
        ConfigError: There is none, or more than one.
    """
    found = [one for one in documents if pipeline in (None, one.name)]
    if len(found) == 1:
        return found[0]
    listed = tuple(f"{one.name or '(without a name)'}: {one.place}" for one in found or documents)
    hint = "say which with --pipeline NAME"
    if not documents:
        raise NoPipelineError(
            f"no pipeline in {where}",
            hint=f"make one with 'dg scaffold defs {COMPONENT_TYPE} NAME',"
            " or say where it is with --config PATH",
        )
    if pipeline is None:
        message = f"{len(found)} pipelines in {where}"
    elif found:
        message = f"{len(found)} pipelines are called {pipeline!r} in {where}"
        hint = "give each a name of its own, or say which file with --config PATH"
    else:
        message = f"no pipeline is called {pipeline!r} in {where}"
    raise ConfigError(message, hint=hint, problems=listed)


def _parsed(text: str) -> Iterator[tuple[int, object, tuple[str, ...]]]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node() and (node := loader.get_node()) is not None:
            doubles = tuple(_doubles(node, set()))
            yield node.start_mark.line + 1, loader.construct_document(node), doubles
    finally:
        loader.dispose()


def _doubles(node: yaml.Node, seen: set[int]) -> Iterator[str]:
    if id(node) in seen:  # by an alias
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for part in node.value:
            yield from _doubles(part, seen)
    elif isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name and first.setdefault(name, line) != line:
                yield f"line {line}: key {name!r} stands twice, first in line {first[name]}"
            yield from _doubles(value, seen)


def _place_of(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
    return "bytes that are not UTF-8" if isinstance(error, UnicodeDecodeError) else "unreadable"
