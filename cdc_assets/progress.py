"""What a run says while it goes and when it ends; the command line and Dagster both show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import uuid4

from cdc_assets.errors import CdcError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN


@dataclass(frozen=True, slots=True)
class ChangeCounts:
    """How many changes of each kind; `copied` are rows of a snapshot, `truncated` truncations."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    truncated: int = 0
    copied: int = 0

    def __add__(self, other: ChangeCounts) -> ChangeCounts:
        return ChangeCounts(
            inserted=self.inserted + other.inserted,
            updated=self.updated + other.updated,
            deleted=self.deleted + other.deleted,
            truncated=self.truncated + other.truncated,
            copied=self.copied + other.copied,
        )

    @property
    def total(self) -> int:
        """All changes, without copied rows."""
        return self.inserted + self.updated + self.deleted + self.truncated


RunKind = Literal["sync", "backfill", "reconcile", "resync", "adopt"]


@dataclass(frozen=True, slots=True)
class RunMark:
    """Which run writes: it stands in the warehouse with what was written.

    Attributes:
        kind: What the run was started as.
        id: Dagster's id of the run; `cli-` and a random one where it is none of Dagster's.
    """

    kind: RunKind
    id: str = field(default_factory=lambda: f"cli-{uuid4()}")


@dataclass(frozen=True, slots=True)
class Origin:
    """One of the source's columns that a column of the warehouse is made of.

    Attributes:
        column: The warehouse's.
        table: The source's table, which is another one for what is taken of a partner.
        source_column: Its column.
        mask: How it is masked, or empty.
        joined: How a partner's rows are found, or empty.
        function: What it went through, or was made by; empty without any.
        is_made: Whether that function makes the column, and does not only get it and give it back.
        is_said: Whether the config says what it makes the column of; else it is of all columns.
    """

    column: str
    table: TableName
    source_column: str
    mask: str = ""
    joined: str = ""
    function: str = ""
    is_made: bool = False
    is_said: bool = True

    @property
    def _is_renamed(self) -> bool:
        return self.column != self.source_column and not (self.joined or self.is_made)

    @property
    def is_shaped(self) -> bool:
        """Whether it is more than a column that a function may get, and give back."""
        return bool(self.joined or self.mask or self.is_made or self._is_renamed)

    @property
    def how(self) -> str:
        """What becomes of it on its way, in words."""
        said = [f"taken where {self.joined}"] if self.joined else []
        if self._is_renamed:
            said.append("renamed")
        if self.mask:
            said.append(f"masked by {self.mask}")
        if self.is_made:
            said.append(f"made by {self.function}" + ("" if self.is_said else ", of all columns"))
        elif self.function:
            said.append(f"through {self.function}")
        return ", ".join(said) or "as it is"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a kept table, in the source's type and the warehouse's.

    Attributes:
        source_type: Of the source's column; the function where one has made it.
        comment: Of the source.
        origins: What it is made of; empty for a column of the source.
        is_widened: Whether it is text since a value did not fit its type.
    """

    name: str
    source_type: str
    warehouse_type: str
    nullable: bool
    is_key: bool
    comment: str = ""
    origins: tuple[Origin, ...] = ()
    is_widened: bool = False


@dataclass(frozen=True, slots=True)
class ChunkCopied:
    """A chunk of a snapshot is durable in the warehouse."""

    table: TableName
    chunk: int  # from 1
    rows: int
    seconds: float


@dataclass(frozen=True, slots=True)
class WindowApplied:
    """A window is durable in the warehouse and confirmed on the slot."""

    start_lsn: LSN
    end_lsn: LSN
    tables: Mapping[TableName, ChangeCounts]  # tables with changes only
    transactions: int
    remaining_bytes: int  # of WAL up to where the run stops
    seconds: float

    @property
    def changes(self) -> int:
        """Changes of all tables."""
        return sum(counts.total for counts in self.tables.values())


@dataclass(frozen=True, slots=True)
class TableFailed:
    """A table was left behind at its checkpoint; the others go on."""

    table: TableName
    error: CdcError


@dataclass(frozen=True, slots=True)
class TableResult:
    """What a run did to one table."""

    table: TableName
    start_lsn: LSN  # the checkpoint before the run
    confirmed_lsn: LSN  # the checkpoint after it
    counts: ChangeCounts
    lag_bytes: int  # WAL between the checkpoint and the source's end when the run stopped
    row_count: int  # of the mirror, or of the change table where there is none
    columns: tuple[Column, ...]
    warehouse_table: str  # "schema.table"
    first_commit: datetime | None = None  # of the changes that this run applied, UTC
    last_commit: datetime | None = None
    # missing before its copy, waiting where a backfill is to make it, copying until it is in place
    phase: str = "streaming"
    error: CdcError | None = None
    source_columns: tuple[Column, ...] = ()  # those of the source that are read
    left_out: tuple[str, ...] = ()  # generated columns of the source that the stream does not bring
    comment: str = ""  # on the source's table
    source_rows: int | None = None  # about how many it has; None before its first ANALYZE
    deleted_rows: int | None = None  # that the mirror keeps besides; None where it keeps none
    renewed: int = 0  # rows that other tables have brought up to date, whose columns they take
    altered: bool = False  # whether its columns became other ones
    # of change table and history, by what is kept
    record_rows: Mapping[str, int] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether the run wrote any row of the table, or gave it other columns."""
        return bool(self.counts.total or self.counts.copied or self.renewed or self.altered)


@dataclass(frozen=True, slots=True)
class SyncFinished:
    """The last event of a run: everything that was asked for is durable, or a table failed."""

    pipeline: str
    start_lsn: LSN  # the slot's confirmed_flush_lsn before the run
    confirmed_lsn: LSN  # and after it
    target_lsn: LSN  # everything committed up to here was to be read
    lag_bytes: int
    windows: int
    seconds: float
    tables: tuple[TableResult, ...] = ()
    notes: tuple[str, ...] = field(default=())
    published: str = ""  # where a copy of the warehouse was put, if one was

    @property
    def counts(self) -> ChangeCounts:
        """Changes of all tables."""
        return sum((table.counts for table in self.tables), ChangeCounts())

    @property
    def failed(self) -> tuple[TableResult, ...]:
        """The tables that were left behind."""
        return tuple(table for table in self.tables if table.error is not None)


@dataclass(frozen=True, slots=True)
class BucketBackfilled:
    """A part of a table is in the warehouse as it is on the source, and durable.

    Attributes:
        bucket: Its name; empty for a whole table, or a part that a predicate chose.
        low: The key behind which the range starts, one text per key column, where the key may be
            shown (no column of it is text) and the range has a start.
        high: The key with which the range ends, likewise.
        rows_inserted: Rows that the warehouse lacked.
        rows_changed: Rows that were other ones there.
        rows_removed: Rows that the source does not have any more.
        lsn: The mirror equals the source at it.
        nbytes: What was read, in the source's text or binary form.
        in_place_of_part: The whole table was copied though a part was asked for, as its mirror was
            not there or could not go on.
        notes: What has to be said of it.
    """

    table: TableName
    bucket: str
    low: tuple[str, ...] | None
    high: tuple[str, ...] | None
    rows_read: int
    rows_inserted: int
    rows_changed: int
    rows_removed: int
    lsn: LSN
    seconds: float
    nbytes: int
    in_place_of_part: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BucketCompared:
    """How a part of a mirror differs from the source at one LSN."""

    bucket: str
    at_lsn: LSN
    source_rows: int
    warehouse_rows: int
    missing: int = 0  # rows that the warehouse lacks
    extra: int = 0  # rows that the source does not have
    different: int = 0  # rows that are other ones

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.extra or self.different)


@dataclass(frozen=True, slots=True)
class TableCompared:
    """Whether a mirror equals its source.

    Attributes:
        at_lsn: From each bucket's own LSN up to this one, both ends had the same changes.
        columns: Names of columns that differ somewhere.
        keys: Of up to 20 rows that differ, only where no column of the key is text.
        repaired: Whether what differed was made right, or the whole table where that was needed.
        not_compared: Why it could not be compared, or empty.
        hint: The way out of that.
        no_mirror: Whether nobody has asked for it by its name, and there is nothing to compare.
    """

    table: TableName
    at_lsn: LSN
    buckets: tuple[BucketCompared, ...]
    columns: tuple[str, ...] = ()
    keys: tuple[tuple[str, ...], ...] = ()
    repaired: bool = False
    not_compared: str = ""
    hint: str = ""
    seconds: float = 0.0
    no_mirror: bool = False

    @property
    def equal(self) -> bool:
        """Whether it was compared, and no bucket differs."""
        return not self.not_compared and all(bucket.equal for bucket in self.buckets)


@dataclass(frozen=True, slots=True)
class ChangesReplayed:
    """A part of a table's changes was applied to what is made anew of them."""

    table: TableName
    changes: int  # so far
    upto: LSN


@dataclass(frozen=True, slots=True)
class TableRebuilt:
    """A table was made anew from its change table, and is durable.

    Attributes:
        into: The name that it has got; None: it has taken the mirror's place.
        since_lsn: Where the change table begins.
        lsn: As of which it is.
        rows: Live ones.
        versions: Of the history; None where none was made.
        changes: That the stream has brought and were applied.
    """

    table: TableName
    into: TableName | None
    since_lsn: LSN
    lsn: LSN
    rows: int
    versions: int | None
    changes: int
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SchemaChanged:
    """A table was altered on the source, and what is kept of it follows, or is made anew.

    Attributes:
        lsn: Of the first transaction behind it, or where nothing had been changed since.
        what: In words.
        how: `in place`: durable; `copied anew`: begins now; `as it is`: the table has another name.
        before: The warehouse's types, by the columns' names.
        after: Likewise.
    """

    table: TableName
    lsn: LSN
    what: str
    how: Literal["in place", "copied anew", "as it is"]
    before: Mapping[str, str]
    after: Mapping[str, str]


BackfillEvent = ChunkCopied | WindowApplied | SchemaChanged | TableFailed | BucketBackfilled


@dataclass(frozen=True, slots=True)
class TableRetained:
    """Changes that are older than they are kept were removed, if there were any.

    Attributes:
        before_lsn: Where the change table began before.
        since_lsn: And begins now: from there on the table can be rebuilt, and shown as of an LSN.
        removed: Changes that are gone.
        rows: Rows as of `since_lsn` with which it begins now; None where nothing was removed, or
            no key tells rows apart.
        notes: What has to be said of it.
    """

    table: TableName
    before_lsn: LSN
    since_lsn: LSN
    removed: int
    rows: int | None
    seconds: float
    notes: tuple[str, ...] = ()


RebuildEvent = ChangesReplayed | TableRebuilt
RetainEvent = ChangesReplayed | TableRetained
ReconcileEvent = ChunkCopied | WindowApplied | BucketBackfilled | TableCompared
SyncEvent = ChunkCopied | WindowApplied | SchemaChanged | TableFailed | SyncFinished
