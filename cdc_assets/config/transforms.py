"""What a config may say of the function that a table's rows go through."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from cdc_assets.config.shaping import RESERVED_PREFIX
from cdc_assets.config.strict import Strict
from cdc_assets.config.types import type_name
from cdc_assets.identifiers import fold


def _reference(text: str) -> str:
    module, colon, name = text.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise ValueError(f"expected package.module:function, got {text!r}")
    return text


def _declared(columns: dict[str, str]) -> dict[str, str]:
    for name, kind in columns.items():
        if not name or fold(name).startswith(RESERVED_PREFIX):
            raise ValueError(f"{name!r} can't be a column's name: {RESERVED_PREFIX!r} is reserved")
        type_name(kind)
    if len({fold(name) for name in columns}) < len(columns):
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
