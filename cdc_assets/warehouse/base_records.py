"""What the use cases need of what is kept beside mirrors; a part of `warehouse.base`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import pyarrow as pa

from cdc_assets.changes.batch import Mask
from cdc_assets.changes.rows import Lookup
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import Ints
from cdc_assets.warehouse.values import Bounds, Copy, Moment


class Records(Protocol):
    """What is kept beside mirrors; all but the questions belong into the rows' transaction.

    One has all rows of its mirror as of one LSN, and what happened to them after that.
    """

    def name(self, table: TableName) -> TableName:
        """Name the one of now of a table."""

    def names(self, tables: Collection[TableName]) -> dict[TableName, list[TableName]]:
        """Give all that were made of some tables: those of now, and those set aside."""

    def read(self) -> frozenset[TableName]:
        """Give the tables whose own goes on."""

    def bounds(self, table: TableName) -> Bounds | None:
        """Give between which places the one of now has everything, if there is one."""

    def altered(self, shapes: Mapping[TableName, TableShape]) -> dict[TableName, str]:
        """Find tables whose one of now is not what it was made, and say what it is instead."""

    def begin(self, table: TableName, shape: TableShape, moment: Moment) -> None:
        """Begin one with all rows of the mirror, which is as of a moment.

        One that was there before keeps its rows, under another name.
        """

    def pause(self, table: TableName, moment: Moment) -> None:
        """Say that one shows no state past a moment, unless it was said of an earlier one."""

    def resume(self, table: TableName, moment: Moment) -> None:
        """Say that one shows every state from a moment on."""

    def gaps(self, table: TableName) -> list[tuple[LSN, LSN | None]]:
        """Give between which LSNs, both left out, the one of now shows no state.

        None for what has no end so far: the table is not followed, or this one has ended.
        """

    def end(self, table: TableName, moment: Moment) -> None:
        """Say that one has nothing past a moment, or past where it was paused."""

    def append_read(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], moment: Moment
    ) -> None:
        """Take in the mirror's rows of some keys, which were read by themselves, as of a moment."""

    def append_differing(self, copy: Copy, shape: TableShape, moment: Moment) -> None:
        """Take in how a mirror's rows come to be a copy's, in `before_write` of `compare`."""

    def append_gone(self, table: TableName, shape: TableShape, moment: Moment) -> int:
        """Take in that rows are gone which this one has and the mirror has not, as of a moment.

        Returns:
            How many.
        """

    def move(self, table: TableName, to: TableName) -> None:
        """Give the one of now the name that another table's has; those set aside keep theirs."""

    def drop(self, table: TableName) -> None:
        """Drop all that were made of a table."""


class Moments(Protocol):
    """What shows tables with a mirror as they were; all of it belongs into a transaction."""

    def show(self, table: TableName, shape: TableShape) -> None:
        """Show a table of what goes on beside its mirror and goes back furthest, if anything."""

    def drop(self, table: TableName) -> None:
        """Do not show a table any more."""


class ChangeTables(Records, Protocol):
    """What happened to tables' rows, change by change."""

    def append(self, table: TableName, rows: pa.Table) -> None:
        """Append changes with all columns of the change table, in its order.

        Raises:
            ValueConversionError: The warehouse would not keep a value as it is.
        """

    def stage(self, stage: TableName, shape: TableShape) -> None:
        """Make an empty one that is to take the place of a table's, instead of one that was left.

        It is one without a mirror, which begins with what is read of the source.
        """

    def append_staged(self, stage: TableName, rows: pa.Table) -> None:
        """Append changes to one that is being made, as `append` does."""

    def append_snapshot(
        self, stage: TableName, shape: TableShape, rows: pa.Table, lsn: LSN
    ) -> None:
        """Append rows of a copy to one that is being made.

        Args:
            stage: Its name now.
            shape: The kept one.
            rows: Its columns, by their names.
            lsn: At or before the copy's moment; no change that follows the copy is at it.
        """

    def put_in_place(self, table: TableName, stage: TableName, moment: Moment) -> frozenset[LSN]:
        """Make one a table's, which has everything past a moment; that of before is set aside.

        Returns:
            What its rows carry that were read.
        """


class Histories(Records, Protocol):
    """Which versions tables' rows had; a key has one open version at the most."""

    def fill(self, table: TableName, shape: TableShape, lookup: Lookup) -> tuple[pa.Table, Ints]:
        """Fill rows with what the open versions have.

        Returns:
            The rows that found one, and their places among those asked for.
        """

    def compare_open(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], rows: pa.Table
    ) -> tuple[Mask, Ints]:
        """Compare n rows, all null where there is to be none, with the open versions of their keys.

        Returns:
            Which are the same, and since when the open ones hold, in Unix microseconds; the
            smallest number where there is none.
        """

    def close(
        self,
        table: TableName,
        shape: TableShape,
        keys: Sequence[pa.Array],
        *,
        lsn: Ints,
        micros: Ints,
    ) -> None:
        """Close the open versions of n keys, each at its own moment."""

    def reopen(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], lsn: LSN
    ) -> None:
        """Undo what a transaction has done to some keys so far: its end decides."""

    def close_all(self, table: TableName, moment: Moment) -> None:
        """Close all open versions; what the same transaction has opened never was."""

    def append(self, table: TableName, versions: pa.Table) -> None:
        """Append versions with all columns of the history, in its order.

        Raises:
            ValueConversionError: The warehouse would not keep a value as it is.
        """
