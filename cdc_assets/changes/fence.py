"""Fences: how a range of keys that was read by itself and the stream are made to agree."""

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
    """A range of keys that was read by itself, ahead of the stream.

    The stream skips, for keys in the range, the transactions that `snapshot` already saw. Past
    `lsn`, taken after the snapshot, no such transaction can come any more.

    Attributes:
        low: The range starts behind this key, or at it with `low_inclusive`; None: at the first.
        high: The range ends with this key; None: with the last.
    """

    low: KeyText | None
    high: KeyText | None
    low_inclusive: bool
    snapshot: Snapshot
    lsn: LSN


def point_fence(key: KeyText, snapshot: Snapshot, lsn: LSN) -> Fence:
    """Fence one key."""
    return Fence(key, key, low_inclusive=True, snapshot=snapshot, lsn=lsn)


def shown_everywhere(fences: Sequence[Fence], xids: Ints) -> NDArray[np.bool_]:
    """Find transactions that the fences keep out whatever the key.

    Those are seen by all chunks of a copy of the whole table: ranges that follow one another from
    the first key to the last.
    """
    chunks = [fence for fence in fences if not fence.low_inclusive]
    ends = [chunk.high for chunk in chunks]
    starts = [chunk.low for chunk in chunks]
    if not chunks or starts != [None, *ends[:-1]] or ends[-1] is not None:
        return np.zeros(len(xids), dtype=bool)
    shown: NDArray[np.bool_] = np.logical_and.reduce(
        [chunk.snapshot.shows(xids) for chunk in chunks]
    )
    return shown
