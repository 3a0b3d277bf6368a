"""Raw messages over one buffer, and the transactions that frame them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cdc_assets.errors import ProtocolError

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

BEGIN, COMMIT, RELATION = ord("B"), ord("C"), ord("R")
INSERT, UPDATE, DELETE, TRUNCATE = ord("I"), ord("U"), ord("D"), ord("T")
STREAM_ABORT = ord("A")
_IGNORED = (ord("O"), ord("Y"), ord("M"))  # origin, type, logical message
_KNOWN = np.zeros(256, dtype=bool)
_KNOWN[[BEGIN, COMMIT, RELATION, INSERT, UPDATE, DELETE, TRUNCATE, STREAM_ABORT, *_IGNORED]] = True

_BEGIN_BYTES = 21  # kind, commit_lsn 8, commit time 8, xid 4
_COMMIT_BYTES = 26  # kind, flags, commit_lsn 8, end_lsn 8, commit time 8
_STREAM_ABORT_BYTES = 9  # kind, xid 4, xid of the subtransaction 4
POSTGRES_EPOCH_MICROSECONDS = 946_684_800_000_000  # 2000-01-01 in Unix microseconds


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages in stream order: `starts` and `ends` (exclusive) are byte offsets in `buffer`."""

    buffer: Bytes
    starts: Ints
    ends: Ints
    kinds: Bytes

    @classmethod
    def from_arrow(cls, array: pa.BinaryArray) -> Messages:
        """Index a binary array without copying its bytes.

        Raises:
            ProtocolError: A message is empty or of a kind that does not come without streaming.
        """
        _, offsets_buffer, bytes_buffer = array.buffers()
        narrow = np.frombuffer(offsets_buffer, dtype=np.int32)
        offsets = narrow[array.offset : array.offset + len(array) + 1].astype(np.int64)
        buffer = np.frombuffer(bytes_buffer or b"", dtype=np.uint8)
        starts, ends = offsets[:-1], offsets[1:]
        if not len(array):
            return cls(buffer, starts, ends, np.empty(0, dtype=np.uint8))
        if (empty := starts == ends).any():
            raise ProtocolError("empty", offset=int(starts[empty.argmax()]))
        kinds = buffer[starts]
        if (unknown := ~_KNOWN[kinds]).any():
            at = int(unknown.argmax())
            raise ProtocolError("unknown kind", kind=chr(kinds[at]), offset=int(starts[at]))
        return cls(buffer, starts, ends, kinds)

    def __len__(self) -> int:
        return len(self.starts)

    def to_arrow(self) -> pa.BinaryArray:
        """Lay an array over the messages' bytes; they touch, as they came in one array."""
        offsets = np.append(self.starts, self.ends[-1]).astype(np.int32)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(self.buffer)]
        return pa.Array.from_buffers(pa.binary(), len(self), buffers)

    def framed(self, *, inside: bool) -> Messages:
        """Check that transactions follow one another, and leave Stream Abort messages out.

        Those say that a transaction came to nothing. They come without streaming, too: a server of
        version 18 drops what it has collected of a transaction that is larger than its memory once
        it finds that it was aborted (ReorderBufferCheckAndTruncateAbortedTXN), marks the
        subtransactions as streamed on the way, and says so when it comes to the abort's record.
        Nothing of such a transaction was given out before, and that record lies between the
        transactions that are.

        Args:
            inside: Whether these messages start inside a transaction.

        Raises:
            ProtocolError: An abort has the wrong length, or a message is where it can't be: a Begin
                or an abort inside a transaction, anything else outside.
        """
        aborts = self.kinds == STREAM_ABORT
        _of_kind(self, STREAM_ABORT, _STREAM_ABORT_BYTES)
        commits = self.kinds == COMMIT
        behind = int(inside) + np.cumsum(self.kinds == BEGIN) - np.cumsum(commits)
        if (wrong := behind != ~(commits | aborts)).any():
            at = int(wrong.argmax())
            where = "inside" if behind[at] > 0 else "outside"
            raise ProtocolError(
                f"{where} a transaction", kind=chr(self.kinds[at]), offset=int(self.starts[at])
            )
        if not aborts.any():
            return self
        return Messages.from_arrow(self.to_arrow().filter(pa.array(~aborts)))

    @property
    def nbytes(self) -> int:
        """Bytes of all messages."""
        return int(self.ends[-1] - self.starts[0]) if len(self) else 0

    def slice(self, start: int, stop: int) -> Messages:
        """Cut out the messages `[start, stop)`, sharing the buffer."""
        cut = slice(start, stop)
        return Messages(self.buffer, self.starts[cut], self.ends[cut], self.kinds[cut])

    def malformed(self, reason: str, *, end: int, offset: int) -> ProtocolError:
        """Make the error for the message that ends at `end`."""
        kind = chr(self.kinds[np.searchsorted(self.ends, end)])
        return ProtocolError(reason, kind=kind, offset=offset)

    def unsigned(self, positions: Ints, *, width: int) -> Ints:
        """Gather big-endian unsigned integers of `width` bytes at unaligned positions.

        The caller has checked that they lie within their messages.
        """
        last = len(self.buffer) - width
        if last < 0:
            return np.empty(0, dtype=np.int64)
        # one element per byte position, so that an index is a byte offset
        view: NDArray[np.unsignedinteger] = np.ndarray(
            (last + 1,), dtype=f">u{width}", buffer=self.buffer.data, strides=(1,)
        )
        return view[positions].astype(np.int64)


@dataclass(frozen=True, slots=True)
class Transactions:
    """Committed transactions in commit order, one element each.

    `commit_micros` counts Unix microseconds; `xid` is the 32-bit number without its epoch.
    """

    commit_lsn: Ints
    end_lsn: Ints
    commit_micros: Ints
    xid: Ints

    def __len__(self) -> int:
        return len(self.commit_lsn)


def read_begins(messages: Messages) -> Transactions:
    """Read the transactions that begin here; their `end_lsn` is not known yet and 0.

    Raises:
        ProtocolError: A Begin message has the wrong length.
    """
    at = _of_kind(messages, BEGIN, _BEGIN_BYTES)
    return Transactions(
        commit_lsn=messages.unsigned(at + 1, width=8),
        end_lsn=np.zeros(len(at), dtype=np.int64),
        commit_micros=messages.unsigned(at + 9, width=8) + POSTGRES_EPOCH_MICROSECONDS,
        xid=messages.unsigned(at + 17, width=4),
    )


def read_commits(messages: Messages) -> tuple[Ints, Ints]:
    """Read `(commit_lsn, end_lsn)` of the transactions that end here.

    Raises:
        ProtocolError: A Commit message has the wrong length.
    """
    at = _of_kind(messages, COMMIT, _COMMIT_BYTES)
    return messages.unsigned(at + 2, width=8), messages.unsigned(at + 10, width=8)


def _of_kind(messages: Messages, kind: int, length: int) -> Ints:
    chosen = np.flatnonzero(messages.kinds == kind)
    at = messages.starts[chosen]
    wrong = messages.ends[chosen] - at != length
    if wrong.any():
        raise ProtocolError(
            f"expected {length} bytes", kind=chr(kind), offset=int(at[wrong.argmax()])
        )
    return at
