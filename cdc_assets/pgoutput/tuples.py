"""TupleData, column by column for all rows of one relation at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdc_assets.errors import ProtocolError
from cdc_assets.pgoutput.messages import Bytes, Ints, Messages

NULL, UNCHANGED, TEXT = ord("n"), ord("u"), ord("t")


@dataclass(frozen=True, slots=True)
class Field:
    """One column of n rows: its kind byte, and where its text lies in the buffer.

    A field that carries no text (`n`, `u`, or no tuple at all: kind 0) has length 0.
    """

    kinds: Bytes
    starts: Ints
    lengths: Ints

    @property
    def present(self) -> NDArray[np.bool_]:
        """Rows that carry text; the others are null or unchanged."""
        present: NDArray[np.bool_] = self.kinds == TEXT
        return present

    def at(self, rows: Ints) -> Field:
        """Pick out rows."""
        return Field(self.kinds[rows], self.starts[rows], self.lengths[rows])

    def scattered(self, rows: Ints, count: int) -> Field:
        """Spread n rows over `count` rows, at the positions `rows`."""
        if len(rows) == count:
            return self
        kinds = np.zeros(count, dtype=np.uint8)
        starts, lengths = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        kinds[rows], starts[rows], lengths[rows] = self.kinds, self.starts, self.lengths
        return Field(kinds, starts, lengths)


def walk_tuples(messages: Messages, at: Ints, *, columns: int) -> tuple[list[Field], Ints]:
    """Walk tuples that start at byte offsets `at`, all with the same number of columns.

    Returns:
        A field per column, and the byte offset behind each tuple. The caller checks these against
        the messages' ends; as offsets only grow, that bounds every read in between as well.

    Raises:
        ProtocolError: Wrong number of columns, an unknown kind byte, or an offset past the buffer.
    """
    counts = messages.unsigned(at, width=2)
    if (wrong := counts != columns).any():
        row = int(wrong.argmax())
        raise ProtocolError(
            f"expected {columns} columns, got {int(counts[row])}", offset=int(at[row])
        )
    fields = []
    at = at + 2
    for _ in range(columns):
        field, at = _walk_field(messages, at)
        fields.append(field)
    return fields, at


def _walk_field(messages: Messages, at: Ints) -> tuple[Field, Ints]:
    kinds = gather(messages, at)
    present = kinds == TEXT
    if present.all():
        lengths = messages.unsigned(at + 1, width=4)
        starts = at + 5
        return Field(kinds, starts, lengths), starts + lengths
    if (unknown := ~(present | (kinds == NULL) | (kinds == UNCHANGED))).any():
        row = int(unknown.argmax())
        raise ProtocolError(f"unknown column kind {chr(kinds[row])!r}", offset=int(at[row]))
    lengths = np.zeros(len(at), dtype=np.int64)
    lengths[present] = messages.unsigned(at[present] + 1, width=4)
    starts = np.where(present, at + 5, at + 1)
    return Field(kinds, starts, lengths), starts + lengths


def gather(messages: Messages, at: Ints) -> Bytes:
    """Gather one byte per position.

    Raises:
        ProtocolError: A position is past the buffer.
    """
    if len(at) and int(at.max()) >= len(messages.buffer):
        raise ProtocolError("truncated", offset=int(at.max()))
    return messages.buffer[at]
