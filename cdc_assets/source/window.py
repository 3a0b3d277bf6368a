"""Windows of whole transactions that the source shows to everybody.

Two things are held here, whatever a window contains:

- A transaction is given out with its commit. Its changes come before its Commit message, and only
  that says its end_lsn; so what is read of an open transaction waits, in memory up to a bound and
  in a file past it.
- A transaction is given out once the source itself shows it. Decoding sees a commit record as soon
  as it is flushed, while the committing session may still wait for a synchronous standby. Applied
  then, it would be a row that no session of the source sees, which a failover can take back, and a
  chunk read at that moment would be merged in the wrong order. So the window ends before the first
  transaction that the source does not show within a few seconds. Nor does a transaction count as
  shown that a standby lacks which the slot may fail over to (`source/standby.py`).
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa

from cdc_assets import waits
from cdc_assets.changes.batch import Mask
from cdc_assets.errors import ProtocolError, WarehouseError
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import (
    BEGIN,
    COMMIT,
    Messages,
    Transactions,
    read_begins,
    read_commits,
)
from cdc_assets.source.connection import Connection
from cdc_assets.source.reader import SlotReader, WindowElement, WindowEnd, WindowStart
from cdc_assets.source.sealing import SealedFile
from cdc_assets.source.slot import current_snapshot
from cdc_assets.source.standby import Standby, describe, furthest_behind

MEMORY_BYTES = 32 * 1024 * 1024
_VISIBLE_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class CommittedPiece:
    """Messages of committed transactions; a transaction may go on in the next piece.

    `transactions` are those with messages in this piece, end_lsn known: first the one that goes on
    from the piece before, if the piece does not start with a Begin, then those that begin in it.
    """

    messages: Messages
    transactions: Transactions


@dataclass(slots=True)
class Window:
    """One half-open range `(start_lsn, end_lsn]`; `end_lsn` counts once `pieces` is used up.

    Attributes:
        upto_lsn: Where it was to end: at the first commit at or past this.
        held_by: Why the window ends early: what the next transaction waits for on the source.
    """

    start_lsn: LSN
    end_lsn: LSN
    upto_lsn: LSN
    pieces: Iterator[CommittedPiece]
    held_by: str = ""


@dataclass(slots=True)
class WindowStream:
    """Cuts a reader's batches into windows.

    Args:
        reader: An entered reader.
        control: Another session of the same source, to ask what it shows.
        start_lsn: Where the reader starts.
        spool_directory: Where an open transaction past `MEMORY_BYTES` waits.
        sealed: Whether it is not to be read there by anybody else.
    """

    reader: SlotReader
    control: Connection
    start_lsn: LSN
    spool_directory: Path
    sealed: bool = False
    _window: Window | None = field(default=None, init=False)

    def windows(self) -> Iterator[Window]:
        """Give window after window, each to be used up before the next.

        The one with `held_by` is the last, whatever the target.

        Raises:
            CdcError: What the source refused, or a lost connection.
        """
        elements = iter(self.reader)
        position = self.start_lsn
        for start in elements:
            if not isinstance(start, WindowStart):
                raise ProtocolError("a window without a start")
            window = Window(position, position, start.upto_lsn, iter(()))
            self._window = window
            window.pieces = self._pieces(window, next(elements), elements)
            yield window
            if window.held_by:
                return
            position = window.end_lsn

    def _pieces(
        self,
        window: Window,
        first: WindowElement,
        rest: Iterator[WindowElement],
    ) -> Iterator[CommittedPiece]:
        shown = _Shown(self.control, self.reader.slot)
        with _OpenTransaction(self.spool_directory, sealed=self.sealed) as open_transaction:
            element = first
            while not isinstance(element, WindowStart | WindowEnd):
                messages = Messages.from_arrow(element.column(0)).framed(
                    inside=bool(open_transaction)
                )
                complete = _behind_last_commit(messages)
                group = open_transaction.closed_by(messages.slice(0, complete))
                open_transaction.extend(messages.slice(complete, len(messages)))
                if group is not None:
                    yield from self._shown_pieces(window, group, shown)
                    if window.held_by:
                        return
                element = next(rest)
            if open_transaction or isinstance(element, WindowStart):
                raise ProtocolError("the window ends inside a transaction")
            window.held_by = shown.held_by(element.end_lsn)
            if not window.held_by:
                window.end_lsn = element.end_lsn

    def _shown_pieces(
        self, window: Window, group: _Group, shown: _Shown
    ) -> Iterator[CommittedPiece]:
        unseen = shown.first_unseen(group.transactions)
        if unseen is not None:
            window.held_by = shown.reason(group.transactions, unseen)
            if unseen:
                window.end_lsn = LSN(group.transactions.end_lsn[unseen - 1])
        shown_count = len(group.transactions) if unseen is None else unseen
        offset = 0
        for messages in group.pieces:
            begins = np.flatnonzero(messages.kinds == BEGIN)
            goes_on = int((messages.kinds[:1] != BEGIN).any())
            is_cut = offset + len(begins) > shown_count
            if is_cut:
                messages = messages.slice(0, int(begins[shown_count - offset]))
                begins = begins[: shown_count - offset]
            yield CommittedPiece(
                messages, _part(group.transactions, offset - goes_on, offset + len(begins))
            )
            if is_cut:
                return  # not before: the last transaction that is shown may go on in this piece
            offset += len(begins)
        window.end_lsn = LSN(max(window.end_lsn, int(group.transactions.end_lsn[-1])))


@dataclass(frozen=True, slots=True)
class _Group:
    """Whole transactions, in pieces that are read once."""

    pieces: Iterator[Messages]
    transactions: Transactions


def _behind_last_commit(messages: Messages) -> int:
    commits = np.flatnonzero(messages.kinds == COMMIT)
    return int(commits[-1]) + 1 if len(commits) else 0


def _part(transactions: Transactions, start: int, stop: int) -> Transactions:
    cut = slice(start, stop)
    return Transactions(
        transactions.commit_lsn[cut],
        transactions.end_lsn[cut],
        transactions.commit_micros[cut],
        transactions.xid[cut],
    )


class _OpenTransaction:
    """What was read of a transaction whose commit has not come yet."""

    def __init__(self, directory: Path, *, sealed: bool) -> None:
        self._directory, self._sealed = directory, sealed
        self._held: list[Messages] = []
        self._held_bytes = 0
        self._begins: list[Transactions] = []
        self._file: BinaryIO | SealedFile | None = None
        self._writer: pa.ipc.RecordBatchStreamWriter | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # what a full disk did not take is not needed any more
                self._file.close()

    def __bool__(self) -> bool:
        return bool(self._held) or self._file is not None

    def extend(self, messages: Messages) -> None:
        """Keep more of the open transaction."""
        if not len(messages):
            return
        self._begins.append(read_begins(messages))
        self._held.append(messages)
        self._held_bytes += messages.nbytes
        if self._held_bytes > MEMORY_BYTES:
            self._spool()

    def closed_by(self, messages: Messages) -> _Group | None:
        """Add messages that end with a commit, and give all that is kept as whole transactions.

        The group's pieces must be used up before the next call.
        """
        if not len(messages):
            return None
        begins = [*self._begins, read_begins(messages)]
        commit_lsn, end_lsn = read_commits(messages)
        transactions = Transactions(
            commit_lsn=np.concatenate([part.commit_lsn for part in begins]),
            end_lsn=end_lsn,
            commit_micros=np.concatenate([part.commit_micros for part in begins]),
            xid=np.concatenate([part.xid for part in begins]),
        )
        if (wrong := transactions.commit_lsn != commit_lsn).any():
            end = int(messages.ends[messages.kinds == COMMIT][wrong.argmax()])
            raise messages.malformed("not the commit_lsn of its Begin", end=end, offset=end)
        return _Group(self._take(messages), transactions)

    def _take(self, last: Messages) -> Iterator[Messages]:
        """Hand everything over; the next open transaction starts from nothing."""
        held, self._held, self._held_bytes, self._begins = self._held, [], 0, []
        file, writer, self._file, self._writer = self._file, self._writer, None, None
        if file is None or writer is None:
            return iter([*held, last])
        writer.close()
        return itertools.chain(_read_back(file), held, [last])

    def _spool(self) -> None:
        try:
            self._write_held()
        except OSError as error:
            raise WarehouseError(
                f"folder {str(self._directory)!r}, where a large transaction waits for its commit,"
                f" can't be written: {error.strerror or type(error).__name__}",
                hint="make room on its disk, as much as the largest transaction; nothing is lost: "
                "the next run goes on from the checkpoint",
            ) from error

    def _write_held(self) -> None:
        schema = pa.schema([("data", pa.binary())])
        if self._writer is None:
            file: BinaryIO = tempfile.TemporaryFile(  # noqa: SIM115 - closed by _read_back or __exit__
                dir=self._directory, prefix="cdc-open-transaction-"
            )
            self._file = SealedFile(file) if self._sealed else file
            self._writer = pa.ipc.new_stream(self._file, schema)
        for messages in self._held:
            self._writer.write_batch(pa.record_batch([messages.to_arrow()], schema=schema))
        self._held, self._held_bytes = [], 0


def _read_back(file: BinaryIO | SealedFile) -> Iterator[Messages]:
    with closing(file):
        file.rewind() if isinstance(file, SealedFile) else file.seek(0)
        for batch in pa.ipc.open_stream(file):
            yield Messages.from_arrow(batch.column(0))


class _Shown:
    """Asks which transactions the source shows and its standbys have, and waits for the rest."""

    def __init__(self, control: Connection, slot: str) -> None:
        self._control, self._slot = control, slot
        self._ask()

    def _ask(self) -> None:
        self._snapshot = current_snapshot(self._control)
        self._standby: Standby | None = furthest_behind(self._control, self._slot)

    def first_unseen(self, transactions: Transactions) -> int | None:
        """Index of the first transaction that other sessions of the source do not see yet."""

        def mask() -> Mask:
            shown: Mask = self._snapshot.shows(transactions.xid)
            if self._standby is not None:
                shown &= transactions.end_lsn <= self._standby.confirmed_lsn
            return shown

        def first() -> int:
            return int((~mask()).argmax())

        seen = self._wait(lambda: bool(mask().all()), lambda: self.reason(transactions, first()))
        return None if seen else first()

    def reason(self, transactions: Transactions, unseen: int) -> str:
        """Say what a transaction waits for that `first_unseen` has found."""
        xid, end_lsn = int(transactions.xid[unseen]), LSN(transactions.end_lsn[unseen])
        if self._snapshot.shows(transactions.xid[unseen : unseen + 1]).all():
            return self._lacking(end_lsn)
        return (
            f"transaction {xid} to end, which the source does not show yet: its commit waits for a "
            "standby"
        )

    def held_by(self, lsn: LSN) -> str:
        """Say which standby lacks `lsn` after a wait; empty if none."""

        def confirmed() -> bool:
            return self._standby is None or self._standby.confirmed_lsn >= lsn

        return "" if self._wait(confirmed, lambda: self._lacking(lsn)) else self._lacking(lsn)

    def _lacking(self, lsn: LSN) -> str:
        return "" if self._standby is None else describe(self._standby, lsn)

    def _wait(self, holds: Callable[[], bool], what: Callable[[], str]) -> bool:
        def asked_anew() -> bool:
            if holds():
                return True
            self._ask()
            return holds()

        return waits.until(asked_anew, what, seconds=_VISIBLE_TIMEOUT_SECONDS)
