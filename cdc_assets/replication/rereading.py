"""What is read again, and must be what was applied before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cdc_assets.errors import SourceChangedError
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import Transactions
from cdc_assets.replication.session import RECOPY_ALL_HINT
from cdc_assets.warehouse.values import LastTransaction


@dataclass(slots=True)
class Reread:
    """What a read gives again of what was applied before: one transaction at the most.

    Anything else there is another history than the one that was applied: the source was restored
    from an older copy, which may have the same identity and timeline.

    Attributes:
        start_lsn: Where the read starts.
        applied_lsn: The checkpoint up to which everything was applied.
        expected: The transaction that must come, or None.
    """

    start_lsn: LSN
    applied_lsn: LSN
    expected: LastTransaction | None
    _has_come: bool = False

    def take(self, transactions: Transactions) -> None:
        """Check a piece's transactions; one that goes on from the piece before comes again.

        Raises:
            SourceChangedError: They are not those that were applied.
        """
        for at in np.flatnonzero(transactions.end_lsn <= self.applied_lsn).tolist():
            found = transaction_at(transactions, at)
            if found != self.expected:
                raise _history_changed(found.end_lsn)
            self._has_come = True

    def end(self, lsn: LSN) -> None:
        """Check that nothing is missing up to a window's end.

        Raises:
            SourceChangedError: The transaction that was applied did not come.
        """
        expected = self.expected
        if expected is not None and not self._has_come and expected.end_lsn <= lsn:
            raise _history_changed(expected.end_lsn)


def transaction_at(transactions: Transactions, at: int) -> LastTransaction:
    """Give one of some transactions."""
    return LastTransaction(
        xid=int(transactions.xid[at]),
        commit_micros=int(transactions.commit_micros[at]),
        commit_lsn=LSN(transactions.commit_lsn[at]),
        end_lsn=LSN(transactions.end_lsn[at]),
    )


def _history_changed(end_lsn: LSN) -> SourceChangedError:
    return SourceChangedError(
        f"the transaction that ends at {end_lsn} is not the one that was applied: the source was "
        "restored from an older copy",
        hint=RECOPY_ALL_HINT,
    )
