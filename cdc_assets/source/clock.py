"""The source's clock, and whether all that committed up to a reading of it is on its WAL."""

from __future__ import annotations

from dataclasses import dataclass

from cdc_assets.source.connection import Connection, fetch_one


@dataclass(frozen=True, slots=True)
class Reading:
    """What the clock showed.

    Attributes:
        micros: Unix microseconds.
        next_transaction: The first transaction that had not begun then.
    """

    micros: int
    next_transaction: int

    def is_past(self, connection: Connection) -> bool:
        """Whether every transaction with a commit time up to then has committed by now.

        A transaction takes its time before its commit is written, and is open until that is.
        """
        row = fetch_one(connection, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        return int(row[0]) >= self.next_transaction


def read_clock(connection: Connection) -> Reading:
    """Read the clock, and then which transactions have begun."""
    micros = clock_micros(connection)
    row = fetch_one(connection, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint")
    return Reading(micros, int(row[0]))


def clock_micros(connection: Connection) -> int:
    """Read the clock alone, in Unix microseconds."""
    row = fetch_one(connection, "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
    return int(row[0])
