"""Reads parts of a table as they are now, in the stream's own text form.

A part is read in one REPEATABLE READ transaction that first gives its snapshot S and then an LSN L:
whatever S does not see commits past the stream's transactions that S sees, and nothing that S sees
commits past L. These two make the fence with which the part and the stream agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Self

import adbc_driver_manager
import pyarrow as pa

from cdc_assets import waits
from cdc_assets.changes.shape import TableShape
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName, quote, quote_literal
from cdc_assets.lsn import LSN
from cdc_assets.source.arrow import ArrowSession
from cdc_assets.source.catalog import SourceTable
from cdc_assets.source.connection import LOCK_TIMEOUT_SECONDS, table_errors, translated
from cdc_assets.source.ordering import compare, compared_as, key_columns, order_by
from cdc_assets.source.published import below
from cdc_assets.source.texts import text_of

_LOCK_NOT_AVAILABLE = "55P03"
_SOURCE = "source"  # the table's alias


@dataclass(slots=True)
class Chunk:
    """Rows of one part of a table, valid inside `SnapshotReader.read_*`.

    Attributes:
        snapshot: What the read sees, as `pg_current_snapshot()` prints it.
        lsn: Taken after it.
        batches: One text column per column of the shape, null is NULL; read once, in key order.
        rows: Rows given out so far.
        nbytes: Size of their text.
        last_key: Key of the last row given out.
        keys: Keys of all rows given out, where the read was for keys.
        is_altered: Whether the table is not the one of the shape any more, or its row filter left.
    """

    snapshot: str
    lsn: LSN
    batches: Iterator[pa.RecordBatch] = field(default_factory=lambda: iter(()))
    rows: int = 0
    nbytes: int = 0
    last_key: tuple[str, ...] | None = None
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

    @contextmanager
    def read_range(
        self, table: SourceTable, shape: TableShape, *, after: tuple[str, ...] | None, limit: int
    ) -> Iterator[Chunk]:
        """Read up to `limit` rows behind a key, in key order.

        Raises:
            CdcError: The source refuses, or the connection is lost.
        """
        condition = ""
        if after is not None:
            bound = [
                compared_as(column, value)
                for column, value in zip(shape.key_columns, _bound(shape, after), strict=True)
            ]
            condition = compare(shape, key_columns(shape, _SOURCE), ">", bound)
        tail = f"ORDER BY {order_by(shape, _SOURCE)} LIMIT {limit}"
        with self._read(table, shape, condition, tail=tail, keep_keys=False) as chunk:
            yield chunk

    @contextmanager
    def read_keys(
        self, table: SourceTable, shape: TableShape, keys: Sequence[tuple[str, ...]]
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
        condition = (
            f"EXISTS (SELECT FROM (VALUES {values}) AS asked ({', '.join(names)})"
            f" WHERE {compare(shape, key_columns(shape, _SOURCE), '=', asked)})"
        )
        with self._read(table, shape, condition, tail="", keep_keys=True) as chunk:
            yield chunk

    @contextmanager
    def _read(
        self,
        table: SourceTable,
        shape: TableShape,
        condition: str,
        *,
        tail: str,
        keep_keys: bool,
    ) -> Iterator[Chunk]:
        columns = ", ".join(text_of(column, quote(column.name)) for column in shape.columns)
        # a plain table's children are tables of their own in a publication
        relation = table.name.sql if table.is_partitioned else f"ONLY {table.name.sql}"
        with translated(self._slot), table_errors(table.name):
            try:
                # Before the snapshot: to an older one a rewritten table would look empty
                self._begin_with_lock(relation, table.name, shape.oid)
                snapshot, lsn, declared = self._session.row(
                    "SELECT pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text, "
                    + _declared(table.name, shape)
                )
                row_filter = self._row_filter(table)
                chunk = Chunk(
                    snapshot,
                    LSN.parse(lsn),
                    is_altered=declared != _declaration(shape) or row_filter is None,
                )
                conditions = [f"({part})" for part in (condition, row_filter) if part]
                where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
                rows = self._session.batches(
                    f"SELECT {columns} FROM {relation} AS {_SOURCE} {where} {tail}"
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


def _counted(
    chunk: Chunk, shape: TableShape, batches: Iterator[pa.RecordBatch], keep_keys: bool
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if not batch.num_rows:
            continue
        chunk.rows += batch.num_rows
        chunk.nbytes += batch.nbytes
        chunk.last_key = tuple(batch.column(at)[-1].as_py() for at in shape.key_indexes)
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
