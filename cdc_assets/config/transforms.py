"""What a config may say of the function that a table's rows go through."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from cdc_assets.config.shaping import RESERVED_PREFIX
from cdc_assets.config.strict import Strict

# DuckDB's names, and the Postgres type that a column of each is kept as
TYPE_NAMES = {
    "boolean": "boolean",
    "bool": "boolean",
    "smallint": "smallint",
    "int2": "smallint",
    "integer": "integer",
    "int": "integer",
    "int4": "integer",
    "bigint": "bigint",
    "int8": "bigint",
    "real": "real",
    "float": "real",
    "float4": "real",
    "double": "double precision",
    "double precision": "double precision",
    "float8": "double precision",
    "varchar": "text",
    "text": "text",
    "string": "text",
    "blob": "bytea",
    "bytea": "bytea",
    "date": "date",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "timestamp with time zone": "timestamp with time zone",
    "interval": "interval",
    "uuid": "uuid",
    "json": "json",
}
_DECIMAL = re.compile(r"(?:decimal|numeric)\s*\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)")
_MAX_PRECISION = 38
# As lists they would have to be told from texts value by value
_NO_LISTS = frozenset({"uuid", "json", "interval"})


def type_name(text: str) -> str:
    """Give Postgres' name of a type that is declared by DuckDB's.

    Raises:
        ValueError: It is none that a column can have.
    """
    plain = " ".join(text.casefold().split())
    element = plain.removesuffix("[]").strip()
    is_list = element != plain
    if match := _DECIMAL.fullmatch(element):
        precision, scale = map(int, match.groups())
        if not 1 <= precision <= _MAX_PRECISION or scale > precision:
            raise ValueError(f"{text!r}: a decimal has 1 to {_MAX_PRECISION} digits")
        found = f"numeric({precision},{scale})"
    elif element not in TYPE_NAMES or (is_list and element in _NO_LISTS):
        raise ValueError(
            f"{text!r} is no type of a column: expected one of DuckDB's, such as double, varchar,"
            " decimal(18,6), timestamptz, varchar[]"
        )
    else:
        found = TYPE_NAMES[element]
    return found + "[]" * is_list


def _reference(text: str) -> str:
    module, colon, name = text.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ValueError(f"expected package.module:function, got {text!r}")
    return text


def _declared(columns: dict[str, str]) -> dict[str, str]:
    for name, kind in columns.items():
        if not name or name.casefold().startswith(RESERVED_PREFIX):
            raise ValueError(f"{name!r} can't be a column's name: {RESERVED_PREFIX!r} is reserved")
        type_name(kind)
    if len({name.casefold() for name in columns}) < len(columns):
        raise ValueError("two columns get one name")
    return columns


class TransformConfig(Strict):
    """The function that a table's rows go through, in its long form."""

    function: Annotated[
        str,
        AfterValidator(_reference),
        Field(
            description="The function, from a pandas DataFrame to one, as `package.module:name`.",
            examples=["my_project.transforms:add_margin"],
        ),
    ]
    columns: Annotated[
        dict[str, str],
        AfterValidator(_declared),
        Field(
            description="Types, by DuckDB's names, of the columns that it adds or changes; of"
            " those that are not declared it is told from what it makes of an empty frame.",
            examples=[{"margin": "double"}],
        ),
    ] = Field(default_factory=dict)
    lineage: Annotated[
        dict[str, Annotated[list[str], Field(min_length=1)]],
        Field(
            description="Which columns those that it adds or changes are made of; by default all.",
            examples=[{"margin": ["price", "cost"]}],
        ),
    ] = Field(default_factory=dict)


def as_transform(value: object) -> object:
    """Read the short form, which is the function alone."""
    return {"function": value} if isinstance(value, str) else value
