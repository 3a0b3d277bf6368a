"""Reads a slot's windows ahead of whoever applies them.

The reader consumes a temporary copy of the pipeline's slot, so the server decodes the next window
while this one is applied, and the durable slot waits for the warehouse's commit. The copy ends with
its session: a killed reader leaves nothing behind.

A window is one call of `pg_logical_slot_get_binary_changes` on the copy. The server decodes all of
it before the first row comes, and ends it at the first commit at or past `upto_lsn`; where it
really ended is the copy's own confirmed_flush_lsn.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

import pyarrow as pa

from cdc_assets import waits
from cdc_assets.identifiers import quote_literal
from cdc_assets.lsn import LSN
from cdc_assets.source.arrow import ArrowSession
from cdc_assets.source.connection import translated

_QUEUED_BATCHES = 4
_SAY_SECONDS = 5.0
# Small first windows let applying start early. Every call reads the WAL again from restart_lsn,
# which stands still during a burst: growing windows keep that to a small share.
_FIRST_WINDOW_BYTES = 64 * 1024 * 1024
_WORK_MEM = "64MB"


@dataclass(frozen=True, slots=True)
class WindowStart:
    """Before a window's first batch: it is to end at the first commit at or past `upto_lsn`."""

    upto_lsn: LSN


@dataclass(frozen=True, slots=True)
class WindowEnd:
    """Behind a window's last batch: everything committed up to `end_lsn` has been given out."""

    end_lsn: LSN


WindowElement: TypeAlias = WindowStart | pa.RecordBatch | WindowEnd


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


class SlotReader:
    """A thread that reads windows until a target; iterate it once.

    Args:
        conninfo: A complete libpq connection string.
        slot: The durable slot to copy.
        publication: What to decode.
        start_lsn: Where the first window starts, at or past the slot's confirmed_flush_lsn.
        target_lsn: The last window ends here or at the first commit past it.
        max_wal_bytes: No window spans more WAL, but for the transaction that crosses its end.
    """

    def __init__(
        self,
        *,
        conninfo: str,
        slot: str,
        publication: str,
        start_lsn: LSN,
        target_lsn: LSN,
        max_wal_bytes: int,
    ) -> None:
        self._conninfo, self.slot, self._publication = conninfo, slot, publication
        self._start_lsn, self._target_lsn = start_lsn, target_lsn
        self._max_wal_bytes = max_wal_bytes
        self._queue: queue.Queue[WindowElement | _Failure | None] = queue.Queue(
            maxsize=_QUEUED_BATCHES
        )
        self._closed = threading.Event()
        self._session: ArrowSession | None = None
        self._session_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="cdc-assets-reader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop reading, even in the middle of a window; returns once the slot's copy is gone."""
        self._closed.set()
        with self._session_lock:
            if self._session is not None:
                self._session.cancel(because=error)
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue

    def __iter__(self) -> Iterator[WindowElement]:
        """Give each window's start, its batches of one binary column and its end, in order.

        Raises:
            CdcError: What the source refused, or a lost connection.
        """
        while (element := self._next()) is not None:
            if isinstance(element, _Failure):
                raise element.error
            yield element

    def _next(self) -> WindowElement | _Failure | None:
        """Give the reader's next element; how long that may take is the session's to say."""
        with suppress(queue.Empty):
            return self._queue.get(timeout=_SAY_SECONDS)
        waits.say("waiting for the source to decode the next changes")
        element = self._queue.get()
        waits.over()
        return element

    def _run(self) -> None:
        try:
            with translated(self.slot):
                self._read()
            self._put(None)
        except BaseException as error:
            self._put(_Failure(error))  # raised again where the reader is iterated

    def _put(self, element: WindowElement | _Failure | None) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(element, timeout=0.05)
            except queue.Full:
                continue
            return True
        return False

    def _read(self) -> None:
        with ArrowSession(self._conninfo, reads_ahead=True) as session:
            self._session = session
            try:
                self._read_windows(session)
            finally:
                with self._session_lock:
                    self._session = None

    def _read_windows(self, session: ArrowSession) -> None:
        session.row(f"SELECT set_config('work_mem', '{_WORK_MEM}', false)")
        copy = self._copy_slot(session)
        position, size = self._start_lsn, _FIRST_WINDOW_BYTES
        while position < self._target_lsn and not self._closed.is_set():
            upto = LSN(min(position + min(size, self._max_wal_bytes), self._target_lsn))
            if not (self._put(WindowStart(upto)) and self._read_window(session, copy, upto)):
                return
            position = _confirmed(session, copy)
            if not self._put(WindowEnd(position)):
                return
            size = max(size, position - self._start_lsn)

    def _copy_slot(self, session: ArrowSession) -> str:
        copy = f"{self.slot[:40]}_run_{session.row('SELECT pg_backend_pid()')[0]}"
        with translated(self.slot, about="slot"):
            session.row(
                f"SELECT slot_name FROM pg_copy_logical_replication_slot({quote_literal(self.slot)}"
                f", {quote_literal(copy)}, true)"
            )
        if _confirmed(session, copy) < self._start_lsn:
            session.row(
                f"SELECT slot_name FROM pg_replication_slot_advance({quote_literal(copy)},"
                f" '{self._start_lsn}')"
            )
        return copy

    def _read_window(self, session: ArrowSession, copy: str, upto: LSN) -> bool:
        batches = session.batches(
            f"SELECT data FROM pg_logical_slot_get_binary_changes({quote_literal(copy)}, '{upto}',"
            " NULL, 'proto_version', '1', 'publication_names',"
            f" {quote_literal(publication_list(self._publication))})"
        )
        with translated(self.slot, about="decoding"):
            return all(self._put(batch) for batch in batches)


def publication_list(publication: str) -> str:
    """Quote a name for `publication_names`, a list that SplitIdentifierString takes apart."""
    return '"' + publication.replace('"', '""') + '"'


def _confirmed(session: ArrowSession, slot: str) -> LSN:
    row = session.row(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots"
        f" WHERE slot_name = {quote_literal(slot)}"
    )
    return LSN.parse(row[0])
