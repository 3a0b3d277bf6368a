"""What the use cases need of a warehouse where a table's columns become other ones."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import pyarrow as pa

from cdc_assets.progress import SchemaChanged
from cdc_assets.warehouse.values import Reshaping


class Evolutions(Protocol):
    """One pipeline's; writes belong into the transaction of the changes that follow."""

    def reshape(self, reshaping: Reshaping, keeps: Collection[str]) -> None:
        """Give a table's mirror, if it has one, and what is kept beside it the columns of a shape.

        Args:
            reshaping: Of the kept shape.
            keeps: What of it there is: `mirror`, `changes`, `history`.

        Raises:
            ValueConversionError: The warehouse would not keep a value as it is.
        """

    def has_source_text(self, kind: pa.DataType) -> bool:
        """Whether a value of a type tells how Postgres writes it, by `Reshaping.texts`."""

    def note(self, change: SchemaChanged, run_id: str) -> None:
        """Note in `_cdc.schema_changes` what was altered, and what came of it."""
