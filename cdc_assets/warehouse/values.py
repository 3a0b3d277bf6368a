"""What is said to a warehouse, and what it says: checkpoints, copies, batches, differences."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import Mask
from cdc_assets.changes.buckets import Bucket
from cdc_assets.changes.fence import KeyText, Snapshot
from cdc_assets.changes.rows import Lookup
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN, WalIdentity
from cdc_assets.pgoutput.messages import Ints
from cdc_assets.progress import RunMark

MadeBy = Literal["sync", "backfill"]


@dataclass(frozen=True, slots=True)
class LastTransaction:
    """The last transaction that a checkpoint covers: if it is read again, it must be the same."""

    xid: int
    commit_micros: int
    commit_lsn: LSN
    end_lsn: LSN


@dataclass(frozen=True, slots=True)
class Moment:
    """A place in the stream, and the source's clock there.

    Attributes:
        lsn: Everything that committed at or before it has happened.
        micros: Unix microseconds: when the last of that was committed, as far as is known.
    """

    lsn: LSN
    micros: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """Between which places of the stream a change table or a history has everything.

    Attributes:
        since: Where it begins.
        until: Where it has ended; None while it goes on.
    """

    since: Moment
    until: LSN | None


@dataclass(frozen=True, slots=True)
class Rebuild:
    """What is made anew of a change table.

    Attributes:
        table: Whose.
        stage: The mirror's name while it is made.
        shape: The kept one.
        since: Where the change table begins.
        has_history: Whether the history is made beside the mirror.
    """

    table: TableName
    stage: TableName
    shape: TableShape
    since: Moment
    has_history: bool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far one table is.

    Attributes:
        lsn: Everything that committed at or before it is applied; compared as it is, never +1.
        phase: `copying` until a copy of the table is in its place; the mirror of before, if there
            is one, stays as it is so long.
        shape: The mirror's columns as of `lsn`, or those of the copy.
        last: None until a transaction was seen.
        error: Why the table was left behind, or empty.
    """

    table: TableName
    lsn: LSN
    phase: Literal["copying", "streaming"]
    shape: TableShape
    identity: WalIdentity
    last: LastTransaction | None = None
    error: str = ""
    updated_at: datetime | None = None

    @property
    def known_moment(self) -> Moment:
        """Where it is, and when the last transaction up to there committed; 0 for none."""
        return Moment(self.lsn, self.last.commit_micros if self.last else 0)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy of a table, or of a part of it, under way: a stage beside the mirror.

    The stage has what was read of the source, and every change since, up to the table's checkpoint.

    Attributes:
        part: Which part of the table: empty for the whole, a bucket's name, or `WHERE`.
        stage: The table in the warehouse.
        made_by: Who reads it; a sync leaves a backfill's copies to that while it goes on.
        bucket: The part's range of keys, if it is one.
        predicate: SQL of the source that chooses the part's rows, or empty.
        baseline: What was seen before the first chunk: every chunk has it.
        files: Those that held the table's rows then; in others, its rows stand elsewhere.
        next_place: Where the next chunk starts, in places for rows (`source.snapshot`).
        end_place: Rows past it were written since, and are on the stream.
        rows: Rows read so far.
        nbytes: And their size.
    """

    table: TableName
    part: str
    stage: TableName
    made_by: MadeBy
    bucket: Bucket | None
    predicate: str
    baseline: Snapshot
    files: str
    next_place: int
    end_place: int
    rows: int = 0
    nbytes: int = 0

    @property
    def is_read(self) -> bool:
        """Whether the last chunk was read."""
        return self.next_place >= self.end_place


@dataclass(frozen=True, slots=True)
class Differences:
    """How a mirror's part differs from a copy of it at the same LSN.

    Attributes:
        rows: Of the copy's part.
        missing: Rows that the mirror lacks.
        different: Rows that are other ones there.
        extra: Rows that only the mirror has.
        columns: Names of columns that differ somewhere.
        keys: Of some rows that differ, as text.
        parts: The same numbers per bucket of a plan, where one was given.
        read_lsns: What those rows that were written carry, as far as no transaction brought them.
    """

    rows: int
    mirror_rows: int
    missing: int
    different: int
    extra: int
    columns: tuple[str, ...] = ()
    keys: tuple[KeyText, ...] = ()
    parts: tuple[Differences, ...] = ()
    read_lsns: frozenset[LSN] = frozenset()

    @property
    def count(self) -> int:
        """How many rows differ."""
        return self.missing + self.different + self.extra


@dataclass(frozen=True, slots=True)
class Marks:
    """What becomes of the rows of n keys that are deleted, where these are kept.

    Attributes:
        chosen: Whose row in the mirror, if there is one, is marked deleted. The others' goes, as
            another one is written.
        end_lsn: Of the transaction that deleted it,
        commit_micros: and when that committed.
    """

    chosen: Mask
    end_lsn: Ints
    commit_micros: Ints


@dataclass(frozen=True, slots=True)
class Write:
    """What a batch does to one mirror, in this order.

    Attributes:
        truncated_at: Rows of transactions up to this LSN go first; None: none do.
        deleted: Keys that lose their row, one array per key column.
        standing: Which of these have one; the others have none.
        is_told: Of which of them that is certain; None: of all.
        inserted: Rows that are written then, complete.
        looked_up: Rows that are written too, once the mirror's old values are in.
        marks: Which rows are marked deleted instead; None where deleted rows are not kept.
        truncated_micros: When the truncation committed.
    """

    truncated_at: LSN | None
    deleted: Sequence[pa.Array]
    standing: Mask
    is_told: Mask | None
    inserted: pa.Table
    looked_up: Lookup | None = None
    marks: Marks | None = None
    truncated_micros: int = 0

    def by_standing(self) -> Iterator[tuple[Mask, int | None]]:
        """Choose keys with how many rows they have: those with a row, without, and untold ones."""
        standing = self.standing
        is_told = np.ones(len(standing), dtype=bool) if self.is_told is None else self.is_told
        for mask, rows in (
            (standing & is_told, int((standing & is_told).sum())),
            (~standing & is_told, 0),
            (~is_told, None),
        ):
            if mask.any():
                yield mask, rows


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many rows a table of the warehouse has.

    Attributes:
        live: Those that are not marked as deleted.
        deleted: And those that are; None where it is a table that keeps none.
    """

    live: int
    deleted: int | None


@dataclass(frozen=True, slots=True)
class Written:
    """How a mirror was found when a batch was written.

    Attributes:
        wrong: Keys that had a row and should not, or the reverse.
        lacking: Per row of `looked_up` whether it found no old row, and was not written.
    """

    wrong: int
    lacking: Mask


@dataclass(frozen=True, slots=True)
class Loaded:
    """What one transaction of the warehouse has written of a kept table.

    Attributes:
        rows: Changes that it has taken in, or rows that were read and written.
        after_lsn: Transactions that end past it, up to the window's end, are in it.
        code_version: Of what the config makes of its rows.
        read_lsns: LSNs that rows carry which were read, and which no transaction brought.
    """

    rows: int
    after_lsn: LSN
    code_version: str
    read_lsns: Collection[LSN] = ()


@dataclass(frozen=True, slots=True)
class Trace:
    """One transaction of the warehouse that has written rows.

    Attributes:
        start_lsn: Of the window that was applied; that of its end where none was.
        end_lsn: The window's end; of what was read, as of where it was written.
        transactions: How many of the source's the window had.
        tables: By the names of kept tables.
        seconds: From the window's beginning to here, behind its last row and before the commit.
        version: Of this package.
        written_at: By the clock of the machine that runs it.
    """

    run: RunMark
    start_lsn: LSN
    end_lsn: LSN
    transactions: int
    tables: Mapping[TableName, Loaded]
    seconds: float
    version: str
    written_at: datetime


@dataclass(frozen=True, slots=True)
class Reshaping:
    """How the columns of what is kept of a table become those of another shape.

    Attributes:
        shape: The kept one that it is to have.
        was: The name that a column had, by the one that it has now; none for a new column.
        fills: What a new column has in the rows that are there: one value each; else null.
        texts: The types that columns had which become Postgres' text of the same values.
    """

    table: TableName
    shape: TableShape
    was: Mapping[str, str]
    fills: Mapping[str, pa.Array]
    texts: Mapping[str, pa.DataType] = field(default_factory=dict)
