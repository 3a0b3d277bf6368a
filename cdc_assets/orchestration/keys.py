"""Asset keys of a pipeline, and the names that Dagster needs beside them.

Dagster joins a key's parts with `/` in its UI, on its command line and in selections, and takes
no more than letters, digits, `_`, `-` and `.` where it derives names from keys. A table's name
may hold anything, so what a key can't hold is written as its code point between hyphens:
`Order Items` becomes `Order-20-Items`, a hyphen itself `-2d-`. Two tables never share a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import dagster as dg

from cdc_assets.identifiers import TableName

_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_]")


def mirror_key(pipeline: str, table: TableName) -> dg.AssetKey:
    """Give the key of a table's mirror in the warehouse."""
    return dg.AssetKey([pipeline, key_part(table.schema), key_part(table.name)])


def record_key(mirror: dg.AssetKey, keep: str) -> dg.AssetKey:
    """Give the key of a table's change table or history, beside its mirror's."""
    return dg.AssetKey([*mirror.path[:-1], f"{mirror.path[-1]}__{keep}"])


def source_key(pipeline: str, table: TableName) -> dg.AssetKey:
    """Give the key of a table of the source.

    A source's schema called `source` and a warehouse's schema of that name stay apart by the
    number of their parts.
    """
    return dg.AssetKey([pipeline, "source", key_part(table.schema), key_part(table.name)])


def slot_key(pipeline: str) -> dg.AssetKey:
    """Give the key of the control asset, which every run materializes."""
    return dg.AssetKey([pipeline, "slot"])


def key_part(name: str) -> str:
    """Spell a schema or table so that it can be a part of a key; different names stay different."""
    return _NOT_IN_KEYS.sub(lambda match: f"-{ord(match[0]):x}-", name)


def names_of(keys: Iterable[dg.AssetKey]) -> dict[str, dg.AssetKey]:
    """Name an op's inputs or outputs after their assets.

    Dagster's own naming gives `a_b.c` and `a.b_c` one name, and then loses one of the two.
    """
    named: dict[str, dg.AssetKey] = {}
    for key in keys:
        name = key.to_python_identifier()
        while name in named:
            name += "_"
        named[name] = key
    return named
