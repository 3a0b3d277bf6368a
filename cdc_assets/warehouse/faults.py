"""What the operating system said, in what DuckDB says: a disk that is full, a volume that is gone.

DuckDB's messages may quote a value, so they are not shown. What the system said of a file may be.
"""

from __future__ import annotations

import errno
import os
import re

_REASONS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EIO,
    errno.ESTALE,
    errno.ENODEV,
    errno.ENXIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SAID = re.compile(
    r"""file "[^"]*": (""" + "|".join(re.escape(os.strerror(one)) for one in _REASONS) + ")"
)


def system_fault(text: str) -> str:
    """Give the system's own word on a file in one of DuckDB's messages, or nothing."""
    found = _SAID.search(text)
    return found[1] if found else ""


def way_out(fault: str) -> str:
    """Say what to do about a fault."""
    if fault in map(os.strerror, _FULL):
        return "make room on its disk; what was committed stays, the next run goes on from there"
    return "see that its volume is there and can be written; what was committed stays"
