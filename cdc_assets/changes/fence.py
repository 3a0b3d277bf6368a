"""Fences: how rows that were read by themselves and the stream are made to agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import Ints

KeyText = tuple[str, ...]  # a key in Postgres' text form, one element per key column

_XID_BITS = 32


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A `pg_snapshot`: all below xmin is visible, nothing from xmax on, between them not `xip`.

    The numbers are 64-bit; the stream's xids are their lower half.
    """

    xmin: int
    xmax: int
    xip: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read `xmin:xmax:xip,xip`."""
        xmin, xmax, xip = text.split(":")
        return cls(int(xmin), int(xmax), tuple(int(xid) for xid in xip.split(",") if xid))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.xip))}"

    def shows(self, xids: Ints) -> NDArray[np.bool_]:
        """Say for each committed 32-bit xid whether this snapshot sees its changes.

        An xid lies within 2^31 of any snapshot that it can be compared with, as in
        `TransactionIdPrecedes`.
        """
        half = 2 ** (_XID_BITS - 1)
        distance = (xids - self.xmax + half) % 2**_XID_BITS - half
        full = self.xmax + distance
        running = np.isin(full, np.array(self.xip, dtype=np.int64))
        visible: NDArray[np.bool_] = (full < self.xmin) | ((full < self.xmax) & ~running)
        return visible


@dataclass(frozen=True, slots=True)
class Fence:
    """One row of a mirror that was read by itself, ahead of the stream.

    The stream skips, for this key, the transactions that `snapshot` already saw. Past `lsn`, taken
    after the snapshot, no such transaction can come any more.
    """

    key: KeyText
    snapshot: Snapshot
    lsn: LSN


@dataclass(frozen=True, slots=True)
class ChunkFence:
    """Rows of a stage that were read together, ahead of the stream.

    Which rows they are is told by the rows: they carry `lsn` and no commit time. For them the
    stream skips the transactions that `snapshot` already saw; past `lsn` none can come any more.
    """

    snapshot: Snapshot
    lsn: LSN


def shown_by_all(fences: Sequence[ChunkFence], xids: Ints) -> NDArray[np.bool_]:
    """Say for each xid whether every one of some chunks has seen it.

    Chunks of one LSN can't be told apart by their rows. What only some of them have seen is applied
    again, from the first such change of a row on: that ends in the same row.
    """
    shown: NDArray[np.bool_] = np.logical_and.reduce(
        [fence.snapshot.shows(xids) for fence in fences]
    )
    return shown
