"""Which transactions a snapshot of the source shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdc_assets.pgoutput.messages import Ints
from cdc_assets.source.connection import Connection, fetch_one

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


def current_snapshot(connection: Connection) -> Snapshot:
    """Take the snapshot of the connection's next statement."""
    return Snapshot.parse(fetch_one(connection, "SELECT pg_current_snapshot()::text")[0])
