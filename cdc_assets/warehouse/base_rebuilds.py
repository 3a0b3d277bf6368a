"""What the use cases need of a warehouse to make tables anew; a part of `warehouse.base`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.warehouse.values import Rebuild


class Rebuilds(Protocol):
    """Tables that are made anew of their change tables; what writes belongs into a transaction.

    What the stream has brought is applied by whoever uses it, to `Rebuild.stage` as a mirror and to
    the history of that name.
    """

    def begin(self, of: Rebuild) -> None:
        """Make an empty mirror, and its history, in place of what was left."""

    def untold_deletes(self, table: TableName, shape: TableShape, since: LSN) -> int:
        """Count the rows that a mirror keeps as deleted, and its changes since an LSN do not tell.

        Args:
            table: Whose.
            shape: The kept one.
            since: Where its change table begins.
        """

    def copied_at(self, of: Rebuild, upto: LSN) -> list[LSN]:
        """Give where rows were copied: where the change table begins, and places behind that."""

    def put_first(self, of: Rebuild) -> None:
        """Put the rows in with which the change table begins."""

    def put_copied(self, of: Rebuild, at: LSN) -> None:
        """Put the rows in that were copied at an LSN, but for those that `put_first` has put in.

        What is made is as of that LSN but for these rows.
        """

    def parts(self, of: Rebuild, after: LSN, upto: LSN) -> list[LSN]:
        """Cut what the stream has brought, by LSNs, into parts of bounded size; give their ends."""

    def changes(self, of: Rebuild, after: LSN, upto: LSN) -> Iterator[pa.Table]:
        """Read what the stream has brought behind an LSN, up to another, in order.

        Yields:
            Rows as `changes.replay` takes them, of bounded size.
        """

    def put_in_place(self, of: Rebuild) -> None:
        """Make what was made anew a table's, whatever is there now."""

    def leave(self, of: Rebuild, into: TableName, lsn: LSN) -> None:
        """Give what was made anew a name of its own, instead of what a rebuild left there."""

    def has_left(self, name: TableName) -> bool:
        """Whether a rebuild has left a table of this name."""

    def drop(self, table: TableName) -> None:
        """Drop what a rebuild of a table was killed over; what it has left has its own name."""
