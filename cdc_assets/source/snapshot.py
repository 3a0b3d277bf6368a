"""Reads parts of a table as they are now.

A part is read in one REPEATABLE READ transaction that first gives its snapshot S and then an LSN L:
whatever S does not see commits past the stream's transactions that S sees, and nothing that S sees
commits past L. These two make the fence with which the part and the stream agree.

A table is read in ranges of places: in the order of the disk, whatever its key, and each range
once. Places are counted through: every block has `PLACES` of them, more than it can hold rows. A
row that moves to another place meanwhile is on the stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Self

import adbc_driver_manager
import pyarrow as pa

from cdc_assets import waits
from cdc_assets.changes.fence import Snapshot
from cdc_assets.changes.shape import TableShape
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName, quote, quote_literal
from cdc_assets.lsn import LSN
from cdc_assets.source.arrow import ArrowSession
from cdc_assets.source.catalog import SourceTable
from cdc_assets.source.connection import LOCK_TIMEOUT_SECONDS, table_errors, translated
from cdc_assets.source.native import select
from cdc_assets.source.ordering import compare, compared_as, key_columns
from cdc_assets.source.published import below
from cdc_assets.source.texts import text_of

_LOCK_NOT_AVAILABLE = "55P03"
PLACES = 2048  # a block of 32 kB, the largest, holds 1,200 rows at the most
_LARGER_BATCHES = 4  # than the stream's: the warehouse takes them as they are
_SOURCE = "source"  # the table's alias


@dataclass(slots=True)
class Chunk:
    """Rows of one part of a table, valid inside `SnapshotReader.read_*`.

    Attributes:
        snapshot: What the read sees, as `pg_current_snapshot()` prints it.
        lsn: Taken after it.
        files: Those that hold the table's rows now.
        batches: A column per column of the shape, for `pgoutput.native.decode_read`; read once.
        rows: Rows given out so far.
        nbytes: Their size as read.
        keys: Keys of all rows given out, where the read was for keys.
        is_altered: Whether the table is not the one of the shape any more, or its row filter left.
    """

    snapshot: str
    lsn: LSN
    files: str
    batches: Iterator[pa.RecordBatch] = field(default_factory=lambda: iter(()))
    rows: int = 0
    nbytes: int = 0
    keys: set[tuple[str, ...]] = field(default_factory=set)
    is_altered: bool = False


class SnapshotReader:
    """A session that reads chunks, one at a time."""

    def __init__(self, *, conninfo: str, slot: str) -> None:
        self._conninfo, self._slot = conninfo, slot

    def __enter__(self) -> Self:
        with translated(self._slot):
            self._session = ArrowSession(self._conninfo).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._session.__exit__()

    def cancel(self) -> None:
        """End what is being read, from another thread; the reader is of no use after that."""
        self._session.cancel()

    @contextmanager
    def refusals(self, table: TableName) -> Iterator[None]:
        """Name what the source refuses while a chunk of a table is read."""
        with translated(self._slot), table_errors(table):
            yield

    def survey(self, table: SourceTable) -> tuple[Snapshot, str, int]:
        """Give what is seen now, the files that hold the table's rows, and how many places.

        Every row that is seen lies in one of these places, of the largest file if it has
        partitions; blocks that are added later hold later rows.

        Raises:
            CdcError: The source refuses, or the table is locked.
        """
        with translated(self._slot), table_errors(table.name):
            try:
                self._begin_with_lock(relation_of(table), table.name, table.shape.oid)
                (snapshot,) = self._session.row("SELECT pg_current_snapshot()::text")
                files, blocks = self._session.row(
                    f"SELECT {_FILES}, coalesce(max(pg_relation_size(part.relid)"
                    " / current_setting('block_size')::bigint), 0)::bigint"
                    f" FROM {parts_of(table)} AS part"
                )
            finally:
                self._session.execute("ROLLBACK")
        return Snapshot.parse(snapshot), str(files or ""), PLACES * max(1, blocks)

    @contextmanager
    def read_places(
        self, table: SourceTable, shape: TableShape, places: range, *, condition: str = ""
    ) -> Iterator[Chunk]:
        """Read the rows in some places, of every partition if there are any.

        Args:
            table: The table.
            shape: What its columns were.
            places: Their numbers.
            condition: SQL over the row, or empty: which rows.

        Raises:
            CdcError: The source refuses, or the connection is lost.
        """
        start, stop = (
            "'({},{})'".format(*divmod(at, PLACES)) for at in (places.start, places.stop)
        )
        conditions = [f"{_SOURCE}.ctid >= {start} AND {_SOURCE}.ctid < {stop}", condition]
        with self._read(table, shape, conditions, keep_keys=False) as chunk:
            yield chunk

    @contextmanager
    def read_all(self, table: SourceTable, shape: TableShape) -> Iterator[Chunk]:
        """Read all rows of a table, of every partition if there are any.

        Raises:
            CdcError: The source refuses, or the connection is lost.
        """
        with self._read(table, shape, [], keep_keys=False) as chunk:
            yield chunk

    @contextmanager
    def read_keys(
        self,
        table: SourceTable,
        shape: TableShape,
        keys: Sequence[tuple[str, ...]],
        *,
        condition: str = "",
    ) -> Iterator[Chunk]:
        """Read the rows of some keys.

        Raises:
            CdcError: The source refuses, or the connection is lost.
        """
        names = [f"k{at}" for at in range(len(shape.key))]
        asked = [
            compared_as(column, f"asked.{name}")
            for column, name in zip(shape.key_columns, names, strict=True)
        ]
        values = ", ".join(f"({', '.join(_bound(shape, key))})" for key in keys)
        is_asked = (
            f"EXISTS (SELECT FROM (VALUES {values}) AS asked ({', '.join(names)})"
            f" WHERE {compare(shape, key_columns(shape, _SOURCE), '=', asked)})"
        )
        with self._read(table, shape, [is_asked, condition], keep_keys=True) as chunk:
            yield chunk

    @contextmanager
    def _read(
        self,
        table: SourceTable,
        shape: TableShape,
        conditions: Sequence[str],
        *,
        keep_keys: bool,
    ) -> Iterator[Chunk]:
        columns = ", ".join(
            text_of(column, quote(column.name))
            if keep_keys and column.name in shape.key
            else select(column)
            for column in shape.columns
        )
        relation = relation_of(table)
        with translated(self._slot), table_errors(table.name):
            try:
                # Before the snapshot: to an older one a rewritten table would look empty
                self._begin_with_lock(relation, table.name, shape.oid)
                snapshot, lsn, declared, files = self._session.row(
                    "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, "
                    f"{_declared(table.called, shape)},"
                    f" (SELECT {_FILES} FROM {parts_of(table)} AS part)"
                )
                row_filter = self._row_filter(table)
                chunk = Chunk(
                    snapshot,
                    LSN.parse(lsn),
                    str(files or ""),
                    is_altered=declared != _declaration(shape) or row_filter is None,
                )
                chosen = [f"({part}\n)" for part in (*conditions, row_filter) if part]
                where = " AND ".join(chosen) or "true"
                rows = self._session.batches(
                    f"SELECT {columns} FROM {relation} AS {_SOURCE} WHERE {where}",
                    larger=_LARGER_BATCHES,
                )
                with closing(rows):  # a statement that is not read to its end blocks the session
                    chunk.batches = _counted(chunk, shape, rows, keep_keys)
                    yield chunk
            finally:
                self._session.execute("ROLLBACK")

    def _begin_with_lock(self, relation: str, table: TableName, oid: int) -> None:
        """Begin a transaction in which nobody alters the table; wait a little for who does so now.

        Raises:
            TableError: Somebody keeps it locked.
        """
        try:
            self._begin(f"LOCK TABLE {relation} IN ACCESS SHARE MODE NOWAIT")
        except adbc_driver_manager.Error as error:
            if error.sqlstate != _LOCK_NOT_AVAILABLE:
                raise
        else:
            return
        self._session.execute("ROLLBACK")
        holder = self._holder(oid)
        waits.say(
            f"waiting for {holder} to let go of table {str(table)!r}, "
            f"up to {LOCK_TIMEOUT_SECONDS:.0f} s"
        )
        try:
            self._begin(
                f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'",
                f"LOCK TABLE {relation} IN ACCESS SHARE MODE",
            )
        except adbc_driver_manager.Error as error:
            if error.sqlstate != _LOCK_NOT_AVAILABLE:
                raise
            raise TableError(
                f"table {str(table)!r} can't be read: {holder} keeps it locked",
                table=str(table),
                hint="the next sync tries it again; let that transaction end, or end it with "
                "pg_terminate_backend",
            ) from error
        waits.over()

    def _row_filter(self, table: SourceTable) -> str | None:
        """Give the publication's WHERE, or empty; None where the entry that has it is gone."""
        published = table.shape.publication
        if not published.row_filter:
            return ""
        (row_filter,) = self._session.row(
            "SELECT (SELECT pg_get_expr(prqual, prrelid) FROM pg_publication_rel"
            f" WHERE oid = {published.entry})"
        )
        return None if row_filter is None else str(row_filter)

    def _begin(self, *statements: str) -> None:
        for sql in ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", *statements):
            self._session.execute(sql)

    def _holder(self, oid: int) -> str:
        """Name who locks a table, or a part of it, against reading."""
        (pid,) = self._session.row(
            "SELECT (SELECT coalesce(pid, 0) FROM pg_locks WHERE locktype = 'relation'"
            " AND mode = 'AccessExclusiveLock' AND database ="
            " (SELECT oid FROM pg_database WHERE datname = current_database())"
            f" AND relation IN {below(f'{oid}::oid')} ORDER BY granted DESC LIMIT 1)"
        )
        if pid is None:
            return "another session"
        return f"pid {pid} on the source" if pid else "a prepared transaction"


_FILES = "string_agg(pg_relation_filenode(part.relid)::text, ' ' ORDER BY part.relid)"


def relation_of(table: SourceTable) -> str:
    """Name what is read: a plain table's children are tables of their own in a publication."""
    return table.called.sql if table.is_partitioned else f"ONLY {table.called.sql}"


def parts_of(table: SourceTable) -> str:
    """Write a relation of what holds its rows: `relid`, of each leaf or of the table itself."""
    oid = f"{table.shape.oid}::oid"
    return below(oid) if table.is_partitioned else f"(SELECT {oid} AS relid)"


def _counted(
    chunk: Chunk, shape: TableShape, batches: Iterator[pa.RecordBatch], keep_keys: bool
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if not batch.num_rows:
            continue
        chunk.rows += batch.num_rows
        chunk.nbytes += batch.nbytes
        if keep_keys:
            texts = (batch.column(at).to_pylist() for at in shape.key_indexes)
            chunk.keys.update(zip(*texts, strict=True))
        yield batch


def _declared(name: TableName, shape: TableShape) -> str:
    """Give an expression for what the table of this name is now: its oid, and its columns."""
    columns = ", ".join(map(quote_literal, shape.names))
    relation = f"{quote_literal(name.sql)}::regclass"
    return (
        f"(SELECT {relation}::oid || coalesce(string_agg(concat_ws(' ', '', attnum, atttypid,"
        f" atttypmod, attname), ',' ORDER BY attnum), '') FROM pg_attribute WHERE NOT attisdropped"
        f" AND attrelid = {relation} AND attname = ANY (ARRAY[{columns}]::name[]))"
    )


def _declaration(shape: TableShape) -> str:
    columns = (
        f" {column.attnum} {column.type_oid} {column.typmod} {column.name}"
        for column in shape.columns
    )
    return f"{shape.oid}{','.join(columns)}"


def _bound(shape: TableShape, key: tuple[str, ...]) -> list[str]:
    return [
        f"{quote_literal(text)}::{column.type.name}"
        for column, text in zip(shape.key_columns, key, strict=True)
    ]
