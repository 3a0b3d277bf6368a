"""What the use cases need of a warehouse to remove old changes; a part of `warehouse.base`."""

from __future__ import annotations

from datetime import timedelta
from typing import Protocol

from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.warehouse.values import Rebuild


class Retention(Protocol):
    """Change tables whose oldest changes go; what writes belongs into a transaction."""

    def older_than(self, table: TableName, age: timedelta) -> LSN | None:
        """Give the last LSN up to which all changes are older; None where there are none."""

    def past_bytes(self, table: TableName, size: int) -> LSN | None:
        """Give the LSN behind which the newest changes take so much; None where all take less."""

    def fold(self, of: Rebuild, upto: LSN) -> tuple[int, int]:
        """Put the rows of `Rebuild.stage`, which is as of an LSN, in place of the changes up to it.

        Returns:
            How many changes are gone, and with how many rows the change table begins now.
        """

    def cut(self, table: TableName, upto: LSN) -> int:
        """Remove the changes up to an LSN, of a table without a mirror, and say how many."""
