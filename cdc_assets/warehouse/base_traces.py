"""What a warehouse tells of where its rows come from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from cdc_assets.identifiers import TableName
from cdc_assets.progress import Origin
from cdc_assets.warehouse.values import Trace


class Traces(Protocol):
    """What was written when and by whom, and of what columns are made.

    Writes belong into the transaction of the rows that they speak of.
    """

    def write(self, trace: Trace) -> None:
        """Note what this transaction has written of kept tables."""

    def lineage(
        self, tables: Collection[TableName]
    ) -> Mapping[TableName, tuple[str, Sequence[Origin]]]:
        """Give the code version and the origins of some kept tables that were noted last."""

    def write_lineage(self, table: TableName, version: str, origins: Sequence[Origin]) -> None:
        """Note the origins of a kept table's columns, instead of what was noted before."""
