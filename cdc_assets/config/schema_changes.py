"""What a config may say of how a table's schema changes are met, and values that do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_serializer

from cdc_assets.config.strict import Strict

EVOLVE, STOP, TEXT = "evolve", "stop", "text"
UnfitValues = Literal["stop", "text"] | dict[str, Literal["stop", "text"]]


class SchemaChanges(Strict):
    """How a table goes on when it is altered on the source."""

    how: Annotated[
        Literal["evolve", "stop"],
        Field(
            description="`evolve` alters what is kept, or copies the table anew beside it; `stop`"
            " leaves the table behind until it is backfilled.",
            examples=["evolve"],
        ),
    ] = "evolve"
    dropped_columns: Annotated[
        Literal["keep", "drop"],
        Field(
            description="Whether a column that is dropped on the source keeps its last values.",
            examples=["drop"],
        ),
    ] = "keep"
    recreated_tables: Annotated[
        Literal["stop", "backfill"],
        Field(
            description="Whether another table that has got the table's name is copied in its"
            " place, or stops it.",
            examples=["backfill"],
        ),
    ] = "stop"

    @model_serializer
    def _as_said(self) -> str | dict[str, str]:
        if not self.evolves:
            return self.how
        return {
            "dropped_columns": self.dropped_columns,
            "recreated_tables": self.recreated_tables,
        }

    @property
    def evolves(self) -> bool:
        """Whether what is kept follows the source."""
        return self.how == EVOLVE


def as_schema_changes(said: object) -> object:
    """Read the short form: `evolve`, or `stop`.

    Raises:
        ValueError: It is another word.
    """
    if isinstance(said, str):
        if said not in (EVOLVE, STOP):
            raise ValueError(
                "expected evolve, stop, or {dropped_columns: keep | drop, recreated_tables: stop |"
                " backfill}"
            )
        return {"how": said}
    if isinstance(said, Mapping) and "how" in said:
        raise ValueError("expected dropped_columns and recreated_tables alone: these evolve")
    return said


def as_unfit_values(said: object) -> object:
    """Check what is said of values that do not fit.

    Raises:
        ValueError: It is no word of the two, and no mapping of columns to these.
    """
    words = said.values() if isinstance(said, Mapping) else [said]
    if not all(word in (STOP, TEXT) for word in words):
        raise ValueError("expected stop, text, or columns with one of these: {amount: text}")
    return said
