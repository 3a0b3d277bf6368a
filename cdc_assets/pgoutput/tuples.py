"""TupleData, column by column for all rows of one relation at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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


def walk_tuples(
    messages: Messages, at: Ints, *, ends: Ints, columns: int
) -> tuple[list[Field], Ints]:
    """Walk tuples that start at byte offsets `at`, all with the same number of columns.

    Args:
        messages: What they lie in.
        at: One offset per tuple.
        ends: Of the message that each lies in; no byte at or past it is read.
        columns: How many each must have.

    Returns:
        A field per column, and the byte offset behind each tuple. Only the last field may still
        reach past its message: the caller checks what is to follow the tuple.

    Raises:
        ProtocolError: Wrong number of columns, an unknown kind byte, or a field that does not fit.
    """
    behind = at + 2
    expect_within(messages, behind, ends)
    counts = messages.unsigned(at, width=2)
    if (wrong := counts != columns).any():
        row = int(wrong.argmax())
        raise messages.malformed(
            f"expected {columns} columns, got {int(counts[row])}",
            end=int(ends[row]),
            offset=int(at[row]),
        )
    fields = []
    for _ in range(columns):
        field, behind = _walk_field(messages, behind, ends)
        fields.append(field)
    return fields, behind


def expect_within(messages: Messages, behind: Ints, ends: Ints) -> None:
    """Check that what is to be read next lies within its message, before it is read.

    Args:
        messages: What is read.
        behind: Byte offset behind it, one per message.
        ends: Of these messages.

    Raises:
        ProtocolError: A message ends before that.
    """
    if (cut := behind > ends).any():
        end = int(ends[cut.argmax()])
        raise messages.malformed("truncated", end=end, offset=end)


def _walk_field(messages: Messages, at: Ints, ends: Ints) -> tuple[Field, Ints]:
    expect_within(messages, at + 1, ends)
    kinds = messages.buffer[at]
    present = kinds == TEXT
    if present.all():
        starts = at + 5
        expect_within(messages, starts, ends)
        lengths = messages.unsigned(at + 1, width=4)
        return Field(kinds, starts, lengths), starts + lengths
    if (unknown := ~(present | (kinds == NULL) | (kinds == UNCHANGED))).any():
        row = int(unknown.argmax())
        raise messages.malformed(
            f"unknown column kind {chr(kinds[row])!r}", end=int(ends[row]), offset=int(at[row])
        )
    starts = np.where(present, at + 5, at + 1)
    expect_within(messages, starts, ends)
    lengths = np.zeros(len(at), dtype=np.int64)
    lengths[present] = messages.unsigned(at[present] + 1, width=4)
    return Field(kinds, starts, lengths), starts + lengths
