"""What the use cases need of a warehouse, and what it promises them.

The contract:

- The checkpoint is the only truth about what was applied. It is written in the same transaction as
  the rows that it speaks of, so both are durable or neither is.
- A table's mirror has at most one row per key. Writing a batch deletes every key that it touches
  and inserts the rows that remain; doing it again changes nothing. Where deleted rows are kept, a
  key that has no row in the end keeps its last one, marked; nobody but a reader sees it.
- A fence is committed with the rows that it protects, and removed with the checkpoint that has
  passed it.
- A copy's stage moves with the table's checkpoint, in the same transactions. What is read goes into
  the stage alone; the mirror changes at once, when both are as of one LSN.
- One pipeline owns a table. Another pipeline, or a table that nobody here made, is refused.
- What is opened is closed; an open warehouse may lock others out, so it is not held for longer than
  a run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa

from cdc_assets.changes.batch import Mask
from cdc_assets.changes.buckets import Bucket, BucketPlan
from cdc_assets.changes.fence import Fence, KeyText, Snapshot
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import Ints
from cdc_assets.warehouse.base_copies import Copies as Copies
from cdc_assets.warehouse.base_enriched import Enriched as Enriched
from cdc_assets.warehouse.base_evolutions import Evolutions as Evolutions
from cdc_assets.warehouse.base_rebuilds import Rebuilds as Rebuilds
from cdc_assets.warehouse.base_records import ChangeTables as ChangeTables
from cdc_assets.warehouse.base_records import Histories as Histories
from cdc_assets.warehouse.base_records import Moments as Moments
from cdc_assets.warehouse.base_records import Records as Records
from cdc_assets.warehouse.base_retention import Retention as Retention
from cdc_assets.warehouse.base_traces import Traces as Traces
from cdc_assets.warehouse.values import (
    Checkpoint,
    Copy,
    Differences,
    LastTransaction,
    RowCounts,
    Write,
    Written,
)

# Of the copy for readers; foreign: what is there is no copy of this warehouse
Published = Literal["absent", "current", "behind", "foreign"]


class Mirrors(Protocol):
    """The tables of current rows; whatever writes belongs into a transaction.

    What a mirror refuses because somebody altered it is a MirrorRefusedError.
    """

    def column_type(self, arrow_type: pa.DataType) -> str:
        """Name the type of a column that keeps every value of an Arrow type."""

    def exists(self, table: TableName) -> bool:
        """Whether there is a table or view of this name, whatever its case."""

    def there(self) -> frozenset[tuple[str, str]]:
        """Give the folded names of all tables and views: one question for many of them."""

    def altered(self, mirrors: Mapping[TableName, TableShape]) -> dict[TableName, str]:
        """Find mirrors that are not what they were made, and say what they are instead."""

    def row_counts(self, tables: Collection[TableName]) -> dict[TableName, RowCounts]:
        """Count the rows of those tables that are there, and no views: one question for many."""

    def row_count(self, table: TableName) -> int:
        """Count one table's live rows; none where it is gone, or a view."""

    def write(self, table: TableName, shape: TableShape, write: Write) -> Written:
        """Apply one batch to a mirror.

        Returns:
            In how far the mirror was not what the batch supposes. Then the caller must not commit,
            or make up for it.
        """

    def delete(self, table: TableName, shape: TableShape, keys: Sequence[pa.Array]) -> int:
        """Delete the rows of some keys, and say how many there were."""

    def retire(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], lsn: LSN
    ) -> None:
        """Delete the rows of some keys, or mark them as deleted, at or before an LSN."""

    def look_up(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], names: Sequence[str]
    ) -> pa.Table:
        """Give columns of the rows of n keys: n rows in their order, null where there is none."""

    def insert(self, table: TableName, rows: pa.Table) -> None:
        """Append rows with all columns of the mirror, in its order.

        Raises:
            ValueConversionError: The warehouse would not keep a value as it is.
        """

    def add_missing_columns(self, table: TableName, shape: TableShape, lsn: LSN) -> None:
        """Give a table that somebody else made the columns that a mirror has besides its own."""

    def drop(self, table: TableName) -> None:
        """Drop a mirror, or the view that somebody put in its place, if it is there."""


class Stages(Protocol):
    """Copies of tables, kept up by the stream until they are put in place.

    All but the questions belong into a transaction.
    """

    def create(self, stage: TableName, shape: TableShape) -> None:
        """Make an empty stage, in place of one that was left."""

    def drop(self, stage: TableName) -> None:
        """Drop a stage, if it is there."""

    def take_over(self, made: TableName, stage: TableName) -> None:
        """Put one in the place of another."""

    def put(self, stage: TableName, shape: TableShape, rows: pa.Table) -> None:
        """Put rows of a chunk in, each in place of the one with its key.

        Raises:
            ValueConversionError: The warehouse would not keep a value as it is.
        """

    def brought(
        self, stage: TableName, shape: TableShape, keys: Sequence[pa.Array], lsns: Collection[LSN]
    ) -> tuple[Ints, Ints]:
        """Find which of n keys have a row that a chunk of these LSNs brought.

        Returns:
            Places among the keys, and the LSN of each.
        """

    def write(self, stage: TableName, shape: TableShape, write: Write) -> Mask:
        """Apply one batch, whatever is there.

        Returns:
            Per row of `looked_up` whether it found no old row, and was not written.
        """

    def pages(self, stage: TableName, shape: TableShape) -> Iterator[pa.Table]:
        """Give all rows of a stage, so many at a time as fit in some memory."""

    def within(self, shape: TableShape, bucket: Bucket, keys: Sequence[pa.Array]) -> Mask:
        """Find which of n keys are in a bucket."""

    def compare(
        self,
        copy: Copy,
        shape: TableShape,
        *,
        lsn: LSN,
        plan: Sequence[Bucket] = (),
        write: bool,
        before_write: Callable[[], None] = lambda: None,
    ) -> Differences:
        """Compare a mirror's part with its copy, both as of one LSN.

        Args:
            copy: The copy.
            shape: Of both.
            lsn: As of which both are; where deleted rows are kept, rows too many are gone by then.
            plan: The table's buckets, where numbers are wanted for each.
            write: Whether the mirror is made what the copy is; only what differs is written.
            before_write: Called then, before anything is written.
        """

    def replace(
        self, copy: Copy, shape: TableShape, *, lsn: LSN, carried: Sequence[str] = ()
    ) -> Differences:
        """Put the copy in the mirror's place, whatever that is.

        Args:
            copy: The copy.
            shape: Of it.
            lsn: As of which it is.
            carried: Columns that the mirror's deleted rows keep, and its rows that are not in the
                copy, which are deleted ones then; empty: none of them stays.
        """

    def newest_lsn(self, table: TableName) -> LSN:
        """Give the highest LSN that a row of a mirror carries, or 0."""


class State(Protocol):
    """One pipeline's checkpoints and fences; writes belong into the rows' transaction."""

    def warehouse_id(self) -> str | None:
        """Give what tells this warehouse from every other; None before it is prepared."""

    def renew_stamp(self) -> None:
        """Say that rows have changed, in the transaction that changes them."""

    def read(self) -> dict[TableName, Checkpoint]:
        """Read every table's checkpoint; empty when the warehouse has no state yet."""

    def refuse_other_owners(self, tables: Collection[TableName]) -> None:
        """Check that no other pipeline keeps one of these tables here.

        Raises:
            CheckpointConflictError: One does.
        """

    def write(self, checkpoint: Checkpoint) -> None:
        """Set one table's checkpoint, its first or another phase."""

    def advance(
        self, before: Collection[Checkpoint], lsn: LSN, last: LastTransaction | None
    ) -> None:
        """Move tables on to the end of a window.

        Raises:
            CheckpointConflictError: A checkpoint is not where this run left it.
        """

    def note_reached(self, tables: Collection[TableName], micros: int) -> None:
        """Say that tables have all that committed up to a time, in Unix microseconds."""

    def forget(self, table: TableName) -> None:
        """Remove all that is kept of a table."""

    def note_placed(self, table: TableName, shape: TableShape) -> None:
        """Keep the source's shape of which a mirror is now, where it keeps deleted rows."""

    def placed_shape(self, table: TableName) -> TableShape | None:
        """Give the shape of which a mirror with deleted rows is; None where it has none."""

    def read_fences(self) -> dict[TableName, list[Fence]]:
        """Read the fences of all tables that have any."""

    def add_fences(
        self, table: TableName, keys: Sequence[KeyText], snapshot: Snapshot, lsn: LSN
    ) -> None:
        """Put up a fence for each of some keys."""

    def drop_fences(self, table: TableName, passed: LSN | None = None) -> None:
        """Remove a table's fences, or those that the stream has passed."""

    def read_ahead(self, table: TableName) -> list[tuple[LSN, LSN | None]]:
        """Give between which LSNs some rows of a table were not known; None: they are not yet.

        They were read by themselves, ahead of the stream.
        """


class Plans(Protocol):
    """How one pipeline's tables are cut into buckets; writes belong into a transaction."""

    def read(self, table: TableName) -> BucketPlan | None:
        """Read a table's plan, if it has one."""

    def write(self, table: TableName, plan: BucketPlan) -> None:
        """Set a table's plan."""


class Warehouse(Protocol):
    """One pipeline's warehouse, open until `close`."""

    @property
    def mirrors(self) -> Mirrors:
        """The tables."""

    @property
    def stages(self) -> Stages:
        """Copies of them that are under way."""

    @property
    def state(self) -> State:
        """How far they are."""

    @property
    def copies(self) -> Copies:
        """How far the copies are."""

    @property
    def enriched(self) -> Enriched:
        """What rows take of other tables."""

    @property
    def change_tables(self) -> ChangeTables:
        """What happened to their rows."""

    @property
    def histories(self) -> Histories:
        """Which versions their rows had."""

    @property
    def moments(self) -> Moments:
        """What shows tables as they were."""

    @property
    def retention(self) -> Retention:
        """Change tables whose oldest changes go."""

    @property
    def rebuilds(self) -> Rebuilds:
        """Tables that are made anew of their change tables."""

    @property
    def records(self) -> Mapping[str, Records]:
        """All that is kept beside mirrors, by its name in `keep`."""

    @property
    def evolutions(self) -> Evolutions:
        """Tables whose columns become other ones."""

    @property
    def traces(self) -> Traces:
        """Where rows come from."""

    @property
    def plans(self) -> Plans:
        """How tables are cut."""

    @property
    def spool(self) -> Path:
        """A folder for what a window does not hold in memory."""

    def transaction(self) -> AbstractContextManager[None]:
        """Run a block in one transaction: durable when the block has ended, undone if it raised.

        Raises:
            WarehouseError: What the warehouse refused.
        """

    def prepare(self) -> None:
        """Make what the state needs, if it is not there, and give it what earlier runs needed."""

    def drop(self, table: TableName, *, with_mirror: bool) -> None:
        """Drop all that is kept of a table, inside a transaction.

        Args:
            table: Which.
            with_mirror: Whether a table of its name is its mirror, or somebody else's.
        """

    def move(self, table: TableName, to: TableName) -> None:
        """Give all that is kept of a table another name, inside a transaction.

        Copies of it that are under way are given up; its macros are for `moments` to show.
        """

    def settle(self) -> None:
        """Write what is only in a log to its place, at a run's end, and note what the run needed.

        Raises:
            WarehouseError: What the warehouse refused.
        """

    def published(self, target: Path) -> Published:
        """Compare the copy for readers with what is committed here."""

    def publish(self, target: Path) -> None:
        """Put a copy of all that is committed in a target's place, whole or not at all.

        Raises:
            OSError: It can't be written; the target is as it was.
            WarehouseError: What the warehouse refused.
        """

    def close(self) -> None:
        """Let go of it."""
