"""What a key takes, in plain words, where it was given something of another kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

# By how pydantic's kinds of errors begin
_KINDS = {
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "string": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}
_OF_EXAMPLES = ((list, "a list"), (dict, "a mapping"), (str, "a text"))
_BOUNDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


def expected_text(detail: ErrorDetails, field: FieldInfo | None) -> str:
    """Say what was expected.

    Args:
        detail: One of pydantic's findings; of what was given only its kind is looked at.
        field: The key's, where it is the value of a key and no part of one.
    """
    told = _told(detail["type"], detail.get("ctx", {}))
    if told is None:
        told = _by_kind(detail, field)
    if isinstance(detail["input"], bool) and not detail["type"].startswith("bool"):
        told += "; without quotes YAML reads off, no, on and yes as false and true"
        if field is not None and type(None) in get_args(field.annotation):
            told += ", and null is for none"
    return told


def _told(kind: str, context: Mapping[str, Any]) -> str | None:
    if kind == "literal_error":
        return f"expected {context['expected']}"
    for bound, words in _BOUNDS.items():
        if bound in context:
            value = context[bound]
            return f"expected {words} {int(value) if value == int(value) else value}"
    if kind.endswith("too_short"):
        return "is empty"
    if kind.endswith("too_long"):
        return f"has more than {context['max_length']} characters"
    return None


def _by_kind(detail: ErrorDetails, field: FieldInfo | None) -> str:
    what = _KINDS.get(detail["type"].partition("_")[0])
    if what is None:
        return detail["msg"][:1].lower() + detail["msg"][1:]
    if field is None or not field.examples or what == _KINDS["bool"]:
        return f"expected {what}"
    example = field.examples[0]
    what = next((words for of, words in _OF_EXAMPLES if isinstance(example, of)), what)
    return f"expected {what}, such as {_written(example)}"


def _written(example: object) -> str:
    """Write a value in a line of YAML."""
    text: str = yaml.safe_dump(
        example, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True
    )
    return text.removesuffix("...\n").strip()
