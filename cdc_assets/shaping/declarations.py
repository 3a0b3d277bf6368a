"""What `Shaping.declaration` says, read again: of a table's shape, and of two of them."""

from __future__ import annotations

import json

from cdc_assets.changes.shape import TableShape

UNMIRRORED = "changes alone"


def differing_keys(before: str, after: str) -> list[str]:
    """Give the keys of the config in which two declarations of a shaping differ.

    A transform whose function alone was edited is said to be that.
    """
    one, other = (json.loads(text) if text else {} for text in (before, after))
    keys = [key for key in {**one, **other} if one.get(key) != other.get(key)]
    functions = [said.get("transform", {}).get("function") for said in (one, other)]
    if "transform" in keys and functions[0] == functions[1]:
        is_edited = one["transform"].get("digest") != other["transform"].get("digest")
        keys[keys.index("transform")] = "transform (edited)" if is_edited else "transform"
    return keys


def is_unmirrored(source: TableShape) -> bool:
    """Whether a table's shape was that of one of which changes alone are kept."""
    return bool(source.shaping) and json.loads(source.shaping).get("keep") == UNMIRRORED
