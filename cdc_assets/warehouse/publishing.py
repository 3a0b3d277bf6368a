"""A copy of the warehouse for readers, who never meet a run there.

DuckDB lets nobody open a file that a writer holds. So after a run that changed something a copy is
put in the published one's place, whole or not at all: written beside it under another name, by
reflink where the filesystem can, made durable, and renamed. Who has the old copy open keeps it.

The copy is of a file whose log is written and that this process still holds: no other one can write
it meanwhile. The warehouse's content has a stamp, renewed in every transaction that changes rows,
so the copy itself says whether it is of now; nothing else is to be remembered, or can be wrong
after a crash.

A copy allows nobody to write it: who opened it for writing would shut other readers out. What is
not a copy of this very warehouse is somebody else's, and never replaced.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import duckdb

from cdc_assets.steps import reached
from cdc_assets.warehouse.base import Published

_FICLONE = 0x40049409  # linux/fs.h: share the blocks of another file
_PART_BYTES = 4 * 1024 * 1024
_WRITABLE = 0o222


def published_state(
    target: Path, *, source: Path, warehouse: str | None, stamp: str | None
) -> Published:
    """Compare a published copy with what the warehouse holds.

    Args:
        target: Where the copy lies.
        source: The warehouse's file.
        warehouse: The warehouse's id.
        stamp: Its content's stamp.

    Returns:
        `foreign` where there is something that is not known as a copy of this warehouse.
    """
    if not target.exists():
        return "absent"
    # opened and closed as a copy, the warehouse itself would lose this process's lock
    if not target.is_file() or (source.exists() and target.samefile(source)):
        return "foreign"
    found_warehouse, found_stamp = _read_copy(target)
    if found_warehouse is None or found_warehouse != warehouse:
        return "foreign"
    return "current" if found_stamp == stamp else "behind"


def _read_copy(target: Path) -> tuple[str | None, str | None]:
    """Read a copy's id and stamp; what can't be read has none."""
    with (
        suppress(duckdb.Error),
        # with no setting of its own, so that it may be open in this process already
        duckdb.connect(str(target), read_only=True) as copy,
    ):
        rows = copy.execute(
            "SELECT id::VARCHAR, stamp::VARCHAR FROM _cdc.warehouse, _cdc.content"
        ).fetchall()
        if rows:
            return str(rows[0][0]), str(rows[0][1])
    return None, None


def publish(source: int, target: Path) -> None:
    """Put a copy of an open file in a target's place.

    Args:
        source: File descriptor; who calls closes it once DuckDB has closed the file, because that
            releases this process's lock on it.
        target: A link is followed.

    Raises:
        OSError: The folder is not there, is full or not writable; the target is as it was.
    """
    target = Path(os.path.realpath(target))
    beside = target.with_name(f".{target.name}.publishing")
    beside.unlink(missing_ok=True)  # of a run that was killed
    try:
        copy = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _copy(source, copy)
            os.fchmod(copy, os.fstat(source).st_mode & ~_WRITABLE & 0o777)
            os.fsync(copy)
        finally:
            os.close(copy)
        reached("copy_written")
        # the log of one who wrote the old copy all the same is not the new one's
        target.with_name(target.name + ".wal").unlink(missing_ok=True)
        beside.replace(target)
        _sync_folder(target.parent)
    finally:
        beside.unlink(missing_ok=True)
    reached("copy_published")


def _copy(source: int, copy: int) -> None:
    try:
        fcntl.ioctl(copy, _FICLONE, source)
    except OSError:  # another filesystem, or one that can't
        at, size = 0, os.fstat(source).st_size
        while at < size:
            part = os.pread(source, min(_PART_BYTES, size - at), at)
            if not part:
                raise OSError("the file became shorter while it was copied") from None
            at += _write(copy, part)


def _write(copy: int, part: bytes) -> int:
    left = memoryview(part)
    while left:
        left = left[os.write(copy, left) :]
    return len(part)


def _sync_folder(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
