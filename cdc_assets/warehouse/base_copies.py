"""What the use cases need of a warehouse to go on with copies; a part of `warehouse.base`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from cdc_assets.changes.fence import ChunkFence, KeyText
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.warehouse.values import Copy


class Copies(Protocol):
    """One pipeline's copies under way; writes belong into the rows' transaction."""

    def read(self) -> list[Copy]:
        """Read every copy that is under way; empty when the warehouse has no state yet."""

    def abandoned(self, seconds: float) -> set[tuple[TableName, str]]:
        """Find the copies that have not got on for so long, by table and part."""

    def write(self, copy: Copy) -> None:
        """Put down how far a copy is."""

    def forget(self, copy: Copy) -> None:
        """Remove a copy, its fences and its gaps; its stage is another matter."""

    def drop(self, table: TableName) -> None:
        """Give up all copies of a table, and their stages."""

    def fences(self, copy: Copy) -> list[ChunkFence]:
        """Read the fences of a copy's chunks that the stream has not passed."""

    def add_fence(self, copy: Copy, fence: ChunkFence) -> None:
        """Put up a chunk's fence."""

    def drop_fences(self, copy: Copy, passed: LSN) -> None:
        """Remove the fences that the stream has passed."""

    def gaps(self, copy: Copy, limit: int) -> list[KeyText]:
        """Give keys, up to so many, of which a change did not carry all values."""

    def add_gaps(self, copy: Copy, keys: Collection[KeyText]) -> None:
        """Remember keys whose rows are to be read by themselves."""

    def close_gaps(self, copy: Copy, keys: Collection[KeyText]) -> None:
        """Forget keys whose rows were read."""
