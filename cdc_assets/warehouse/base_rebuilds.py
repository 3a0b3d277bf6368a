"""What the use cases need of a warehouse to make tables anew; a part of `warehouse.base`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN


class Rebuilds(Protocol):
    """Tables that are made anew of their change tables; what writes belongs into a transaction."""

    def begin(self, table: TableName, stage: TableName, shape: TableShape) -> None:
        """Make an empty mirror, in place of one that was left."""

    def deleted_before(self, table: TableName, since: LSN) -> int:
        """Count the rows that a mirror keeps as deleted since before an LSN, or at it."""

    def copied_at(self, table: TableName, since: LSN, upto: LSN) -> list[LSN]:
        """Give where rows were copied: where the change table begins, and places behind that."""

    def put_first(self, table: TableName, stage: TableName, shape: TableShape, since: LSN) -> None:
        """Put the rows in with which the change table begins, at `since`."""

    def put_copied(
        self, table: TableName, stage: TableName, shape: TableShape, at: LSN, *, since: LSN
    ) -> None:
        """Put the rows in that were copied at an LSN, but for those that `put_first` has put in."""

    def parts(self, table: TableName, after: LSN, upto: LSN) -> list[LSN]:
        """Cut what the stream has brought, by LSNs, into parts of bounded size; give their ends."""

    def changes(
        self, table: TableName, shape: TableShape, after: LSN, upto: LSN
    ) -> Iterator[pa.Table]:
        """Read what the stream has brought behind an LSN, up to another, in order.

        Yields:
            Rows as `changes.replay` takes them, of bounded size.
        """

    def put_in_place(self, table: TableName, stage: TableName) -> None:
        """Make what was made anew a table's mirror, whatever that is now."""

    def leave(self, table: TableName, stage: TableName, into: TableName, lsn: LSN) -> None:
        """Give what was made anew a name of its own, instead of what a rebuild left there."""

    def has_left(self, name: TableName) -> bool:
        """Whether a rebuild has left a table of this name."""

    def drop(self, table: TableName) -> None:
        """Drop what a rebuild of a table was killed over; what it has left has its own name."""
