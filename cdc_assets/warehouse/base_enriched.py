"""What the use cases need of a warehouse for columns that rows take of other tables' mirrors.

A part of `warehouse.base`. What rows take when they are written is written with them; here is what
they get past that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pyarrow as pa

from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import Ints
from cdc_assets.shaping.enriching import Enrichment
from cdc_assets.warehouse.values import Copy, Moment


class Enriched(Protocol):
    """What rows take of others; all of it belongs into the rows' transaction."""

    def fill(
        self,
        copy: Copy,
        enrich: Sequence[Enrichment],
        shapes: Mapping[TableName, TableShape],
        *,
        differing: bool,
    ) -> None:
        """Give a copy's rows the columns that they take of other tables, as these are now.

        Args:
            copy: The copy.
            enrich: What they take.
            shapes: The kept ones, of the copy's table and of the partners.
            differing: Whether only the rows that `Stages.compare` has found to differ, in
                `before_write`.
        """

    def keep(self, copy: Copy, enrich: Sequence[Enrichment], shape: TableShape) -> None:
        """Give a copy's rows what those of the mirror have taken which are joined alike.

        Args:
            copy: Compared with its mirror.
            enrich: What they take.
            shape: The kept one.
        """

    def renew(
        self,
        table: TableName,
        one: Enrichment,
        keys: Sequence[pa.Array],
        values: Sequence[pa.Array],
        *,
        lsn: Ints,
        micros: Ints,
    ) -> int:
        """Give rows that were written before n changes of their partners what these are by then.

        Args:
            table: Whose rows; those that were written after a change have it.
            one: What they take.
            keys: What the rows' columns of `on` are, in its order.
            values: What the partners are, in the order of `columns`; null where there is none.
            lsn: Of each change's transaction, which is that of the rows then.
            micros: When it was committed.

        Returns:
            How many rows.
        """

    def forget(self, table: TableName, one: Enrichment, moment: Moment) -> int:
        """Take from rows that were written up to a truncation of their partners what these were.

        Returns:
            How many rows.
        """

    def renew_differing(
        self, table: TableName, one: Enrichment, copy: Copy, shape: TableShape, lsn: LSN
    ) -> int:
        """Give rows what their partners are by a copy, in `Stages.compare`'s `before_write`.

        Args:
            table: Whose rows.
            one: What they take.
            copy: Of the partner.
            shape: The partner's kept one.
            lsn: As of which all of them are.

        Returns:
            How many rows.
        """
