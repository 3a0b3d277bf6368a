"""Positions in the write-ahead log."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TEXT = re.compile(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}")


class LSN(int):
    """A byte position in the WAL, ordered as Postgres orders `pg_lsn`; prints as `16/B374D848`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> LSN:
        """Read `16/B374D848`.

        Raises:
            ValueError: `text` is not an LSN.
        """
        if not _TEXT.fullmatch(text):
            raise ValueError(f"expected an LSN like 16/B374D848, got {text!r}")
        high, low = text.split("/")
        return cls(int(high, 16) << 32 | int(low, 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"LSN({str(self)!r})"


@dataclass(frozen=True, slots=True)
class WalIdentity:
    """The write-ahead log that an LSN is a position in, and the slot that reads it."""

    system_identifier: str
    timeline: int
    database: str
    slot: str
