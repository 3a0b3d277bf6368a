"""How much memory DuckDB is given: little, and twice as much whenever it lacks some.

DuckDB fills its limit with cache, so a low one keeps a run small, whatever the size of its windows
and of the mirrors. What it can't do without is room for a vector: 2048 values of a column at once,
when it writes, commits, checkpoints or opens a file whose log holds them. Values of 200 kB need
800 MB so. No limit that suits those suits everybody, and DuckDB says when it was too low.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

FIRST_BYTES = 128 * 1024 * 1024

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@dataclass(slots=True)
class MemoryLimit:
    """The limit of one open file.

    Attributes:
        limit_bytes: As it is now.
        most_bytes: What it may become; None: DuckDB's own default, four fifths of the machine's or
            the container's memory.
    """

    limit_bytes: int
    most_bytes: int | None

    def __post_init__(self) -> None:
        if self.most_bytes is not None:
            self.limit_bytes = min(self.limit_bytes, self.most_bytes)

    @property
    def sql(self) -> str:
        """The limit as DuckDB reads it."""
        return f"{self.limit_bytes}B"

    def next_bytes(self) -> int | None:
        """Give the next larger limit, or None where there is none."""
        if self.most_bytes is None:
            self.most_bytes = _default_bytes()
        larger = min(2 * self.limit_bytes, self.most_bytes)
        return larger if larger > self.limit_bytes else None


def lacks_memory(error: duckdb.Error) -> bool:
    """Whether the limit was too low; a failed commit says so in its text alone."""
    return isinstance(error, duckdb.OutOfMemoryException) or "memory limit" in str(error)


def _default_bytes() -> int:
    with duckdb.connect() as connection:
        ((text,),) = connection.execute("SELECT current_setting('memory_limit')").fetchall()
    number, unit = text.split()
    return int(float(number) * _UNITS[unit])
