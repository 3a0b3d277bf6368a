"""What a config may say of how a table's rows are shaped on their way into the warehouse."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from cdc_assets.config.strict import Strict, word_null
from cdc_assets.config.types import column_type_name
from cdc_assets.identifiers import fold

MaskKind = Literal["sha256", "hmac", "redact", "null", "last4"]
MaskWord = Annotated[
    MaskKind,
    BeforeValidator(word_null),
    WithJsonSchema({"enum": [*get_args(MaskKind), None]}),
]
Deletes = Literal["hard", "soft"]

# Equal outputs mean equal inputs: only these may stand in a key
ONE_TO_ONE: frozenset[MaskKind] = frozenset({"sha256", "hmac"})
RESERVED_PREFIX = "_cdc_"


def _without_doubles(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a column is listed twice")
    return names


def _to_distinct_names(rename: dict[str, str]) -> dict[str, str]:
    folded = [fold(name) for name in rename.values()]
    if len(set(folded)) < len(folded):
        raise ValueError("two columns get one name")
    for name in rename.values():
        if not name:
            raise ValueError("a column needs a name")
        if fold(name).startswith(RESERVED_PREFIX):
            raise ValueError(f"{name!r} starts with {RESERVED_PREFIX!r}, which is reserved")
    return rename


def _known_types(types: dict[str, str]) -> dict[str, str]:
    return {name: column_type_name(text) for name, text in types.items()}


Names = Annotated[list[str], AfterValidator(_without_doubles)]


class ColumnsConfig(Strict):
    """Which columns are kept, under which names, and as which types."""

    include: Annotated[
        Annotated[Names, Field(min_length=1)] | None,
        Field(
            description="The columns that are kept; the key's are always.",
            examples=[["id", "status", "total"]],
        ),
    ] = None
    exclude: Annotated[
        Names,
        Field(
            description="The columns that are left out: they are not decoded, and are nowhere in"
            " the warehouse.",
            examples=[["internal_note"]],
        ),
    ] = Field(default_factory=list)
    rename: Annotated[
        dict[str, str],
        AfterValidator(_to_distinct_names),
        Field(
            description="Names of columns in the warehouse, by their names on the source.",
            examples=[{"placed_at": "ordered_at"}],
        ),
    ] = Field(default_factory=dict)

    types: Annotated[
        dict[str, str],
        AfterValidator(_known_types),
        Field(
            description="Types of columns in the warehouse, by DuckDB's names, for columns by their"
            " names on the source; a value has to fit one exactly: `unfit_values`.",
            examples=[{"discount": "decimal(18,6)", "payload": "text", "tags": "varchar[][]"}],
        ),
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_choice(self) -> ColumnsConfig:
        if self.include is not None and self.exclude:
            raise ValueError("expected include or exclude, not both")
        if left_out := sorted(name for name in self.rename if not self.keeps(name)):
            raise ValueError(f"rename: column {left_out[0]!r} is left out")
        if left_out := sorted(name for name in self.types if not self.keeps(name)):
            raise ValueError(f"types: column {left_out[0]!r} is left out")
        return self

    def keeps(self, name: str) -> bool:
        """Whether a column is kept."""
        return name in self.include if self.include is not None else name not in self.exclude


def masked_columns_kept(columns: ColumnsConfig, mask: Mapping[str, MaskKind]) -> None:
    """Check that what is masked is kept.

    Raises:
        ValueError: A masked column is left out.
    """
    if left_out := sorted(name for name in mask if not columns.keeps(name)):
        raise ValueError(f"mask: column {left_out[0]!r} is left out")


def names_in(columns: ColumnsConfig, mask: Mapping[str, MaskKind]) -> Collection[str]:
    """Give every column that a table's config names."""
    return {*(columns.include or ()), *columns.exclude, *columns.rename, *columns.types, *mask}
