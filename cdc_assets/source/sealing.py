"""A file that nobody but its writer can read: what is in it is told by a key that is nowhere else.

The key is drawn when the file is made, and is in this process's memory alone. The bytes are XORed
with SHAKE-128 of the key and a block's number. No two files share a key, and every byte is written
once, so no part of that stream is used twice. Nothing says whether the bytes were altered: the file
has no name, and lives as long as the process.

The standard library has no cipher, and one more dependency would be more to trust.
"""

from __future__ import annotations

import hashlib
import os
from itertools import pairwise
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_BLOCK = 65_536
_KEY_BYTES = 32


class SealedFile:
    """Written from its start to its end, and read again likewise.

    Args:
        file: Empty; closed with this one.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._key = file, os.urandom(_KEY_BYTES)
        self._at = 0
        self._number = -1
        self._stream: NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)

    @property
    def closed(self) -> bool:
        """Whether it is closed."""
        return self._file.closed

    def write(self, plain: object) -> int:
        """Write bytes behind those that are there."""
        view = np.frombuffer(plain, dtype=np.uint8)  # type: ignore[call-overload]
        for start, stop in self._parts(len(view)):
            self._file.write(self._turned(view[start:stop]))
        return len(view)

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, or all that are left."""
        found = np.frombuffer(self._file.read(size), dtype=np.uint8)
        return b"".join(self._turned(found[start:stop]) for start, stop in self._parts(len(found)))

    def _parts(self, count: int) -> list[tuple[int, int]]:
        """Cut the next bytes where blocks end."""
        ends = range(_BLOCK - self._at % _BLOCK, count, _BLOCK)
        cuts = [0, *ends, count]
        return list(pairwise(cuts)) if count else []

    def _turned(self, part: NDArray[np.uint8]) -> bytes:
        """Turn the next bytes, all of one block, from plain to sealed or back."""
        number, offset = divmod(self._at, _BLOCK)
        if number != self._number:
            salted = self._key + number.to_bytes(8)
            stream = hashlib.shake_128(salted).digest(_BLOCK)
            self._number, self._stream = number, np.frombuffer(stream, dtype=np.uint8)
        self._at += len(part)
        return (part ^ self._stream[offset : offset + len(part)]).tobytes()

    def rewind(self) -> None:
        """Go to the start, to read."""
        self._file.seek(0)
        self._at = 0

    def flush(self) -> None:
        """Give what is written to the system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file, which removes it."""
        self._file.close()
