"""What every part of a config has in common.

Dagster reads YAML 1.1, where the words `on` and `null` without quotes are a truth and nothing.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Knows its keys, does not change, and never shows what it was given."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def key_on(value: object) -> object:
    """Read a key `on` that was written without quotes as what it was meant to be."""
    if isinstance(value, dict) and True in value:
        return {"on" if key is True else key: part for key, part in value.items()}
    return value


def word_null(value: object) -> object:
    """Read a word `null` that was written without quotes as what it was meant to be."""
    return "null" if value is None else value
