"""Tables that are made anew of their change tables in a DuckDB file, beside what they are to be.

Rows that were copied, and not changed, stand behind all changes of their LSN (`FIRST_COPIED`), so a
change table is read as what the stream has brought, in order, up to a place at which rows were
copied; then these; and so on. Of several rows of one key that were copied at one LSN the later
ones count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from cdc_assets.changes.record import (
    BEFORE_COLUMN,
    FIRST_COPIED,
    OP_COLUMN,
    SEQ_COLUMN,
    SNAPSHOT,
    UNCHANGED_COLUMN,
)
from cdc_assets.changes.replay import HAS_OLD_COLUMN, OLD_KEY_COLUMN
from cdc_assets.changes.rows import COMMIT_COLUMN, DELETED_COLUMN, LSN_COLUMN
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName, quote, quote_literal
from cdc_assets.lsn import LSN
from cdc_assets.warehouse.change_tables import ChangeTables
from cdc_assets.warehouse.lookups import as_kept
from cdc_assets.warehouse.mirrors import DuckDBMirrors

# How many changes are sorted at once, about, and of which size they are given
PART_ROWS = 200_000
SLICE_BYTES = 64 * 1024 * 1024
_BATCH_ROWS = 2048
_IS_COPIED = f"{SEQ_COLUMN} >= {FIRST_COPIED}"
_IS_SNAPSHOT = f"{OP_COLUMN} = '{SNAPSHOT}'"


class Rebuilds:
    """One pipeline's tables that are made anew; what writes belongs into a transaction."""

    def __init__(self, mirrors: DuckDBMirrors, pipeline: str, change_tables: ChangeTables) -> None:
        self._mirrors, self._pipeline, self._change_tables = mirrors, pipeline, change_tables
        self._noted = f"{mirrors.catalog}._cdc.rebuilt"
        self._noted_rows = f"{mirrors.catalog}._cdc.copied_rows"

    def begin(self, table: TableName, stage: TableName, shape: TableShape) -> None:
        """Make an empty mirror, in place of one that was left."""
        self._mirrors.drop(stage)
        self._mirrors.create(stage, shape)
        self._note(table, stage, None)

    def deleted_before(self, table: TableName, since: LSN) -> int:
        """Count the rows that a mirror keeps as deleted since before an LSN, or at it."""
        if self._mirrors.deleted_count(table) is None:
            return 0
        ((count,),) = self._rows(
            f"SELECT count(*) FROM {self._mirrors.name(table)}"
            f" WHERE {DELETED_COLUMN} AND {LSN_COLUMN} <= {int(since)}"
        )
        return int(count)

    def copied_at(self, table: TableName, since: LSN, upto: LSN) -> list[LSN]:
        """Give where rows were copied: where the change table begins, and places behind that."""
        rows = self._rows(
            f"SELECT DISTINCT {LSN_COLUMN} FROM {self._changes(table)} WHERE {_IS_COPIED}"
            f" AND {LSN_COLUMN} > {int(since)} AND {LSN_COLUMN} <= {int(upto)} ORDER BY 1"
        )
        return [since, *(LSN(lsn) for (lsn,) in rows)]

    def put_first(self, table: TableName, stage: TableName, shape: TableShape, since: LSN) -> None:
        """Put the rows in with which the change table begins.

        Args:
            table: Whose.
            stage: The mirror that is made, which is empty.
            shape: The kept one.
            since: Where it begins.
        """
        first = self._copied(
            table, shape, f"change.{LSN_COLUMN} <= {int(since)} AND {_IS_SNAPSHOT}"
        )
        self._insert(stage, shape, first)

    def put_copied(
        self, table: TableName, stage: TableName, shape: TableShape, at: LSN, *, since: LSN
    ) -> None:
        """Put the rows in that were copied at an LSN, but for those that `put_first` has put in.

        Args:
            table: Whose.
            stage: The mirror that is made, which is as of `at` but for these rows.
            shape: The kept one.
            at: As of which they are.
            since: Where the change table begins.
        """
        which = f"change.{LSN_COLUMN} = {int(at)}"
        if at == since:
            which += f" AND NOT {_IS_SNAPSHOT}"
        named = ", ".join(map(quote, shape.key))
        self._execute("DROP TABLE IF EXISTS temp._cdc_copied")
        self._execute(
            f"CREATE TEMP TABLE _cdc_copied AS FROM {self._copied(table, shape, which)}"
            f" QUALIFY row_number() OVER (PARTITION BY {named} ORDER BY {SEQ_COLUMN} DESC) = 1"
        )
        same = " AND ".join(f"mirror.{key} = copied.{key}" for key in map(quote, shape.key))
        into = self._mirrors.name(stage)
        self._execute(f"DELETE FROM {into} AS mirror USING _cdc_copied AS copied WHERE {same}")
        self._insert(stage, shape, f"_cdc_copied WHERE {OP_COLUMN} <> 'delete'")
        if shape.keeps_deleted:
            old = ", ".join(f"{BEFORE_COLUMN}.{quote(name)}" for name in shape.names)
            self._execute(
                f"INSERT INTO {into} SELECT {old}, {LSN_COLUMN}, {COMMIT_COLUMN}, true"
                f" FROM _cdc_copied WHERE {OP_COLUMN} = 'delete'"
            )
        self._execute("DROP TABLE _cdc_copied")

    def _copied(self, table: TableName, shape: TableShape, which: str) -> str:
        """Write copied rows as a relation, with their keys, gone or not.

        LSN and commit time are those that the mirror has of the row, not of the copying.
        """
        keys = ", ".join(
            f"coalesce(change.{key}, change.{BEFORE_COLUMN}.{key}) AS {key}"
            for key in map(quote, shape.key)
        )
        return (
            f"(SELECT change.* REPLACE ({keys},"
            f" coalesce(noted.lsn, change.{LSN_COLUMN}) AS {LSN_COLUMN},"
            f" coalesce(noted.commit_ts, change.{COMMIT_COLUMN}) AS {COMMIT_COLUMN})"
            f" FROM {self._changes(table)} AS change LEFT JOIN {self._noted_rows} AS noted"
            f" ON noted.seq = change.{SEQ_COLUMN} WHERE {_IS_COPIED} AND {which})"
        )

    def _insert(self, stage: TableName, shape: TableShape, rows: str) -> None:
        own = ", ".join(map(quote, shape.names))
        live = ", false" if shape.keeps_deleted else ""
        self._execute(
            f"INSERT INTO {self._mirrors.name(stage)}"
            f" SELECT {own}, {LSN_COLUMN}, {COMMIT_COLUMN}{live} FROM {rows}"
        )

    def parts(self, table: TableName, after: LSN, upto: LSN) -> list[LSN]:
        """Cut what the stream has brought, by LSNs, into parts of about as many changes each.

        Returns:
            Their ends, the last one is `upto`; empty where there is nothing.
        """
        of_stream = f"FROM {self._changes(table)} WHERE {_of_stream(after, upto)}"
        ((count,),) = self._rows(f"SELECT count(*) {of_stream}")
        if not count:
            return []
        number = -(-int(count) // PART_ROWS)
        cuts = set[int]()
        if number > 1:
            shares = ", ".join(str(at / number) for at in range(1, number))
            ((found,),) = self._rows(
                f"SELECT approx_quantile({LSN_COLUMN}::DOUBLE, [{shares}]) {of_stream}"
            )
            cuts = {int(lsn) for lsn in found}
        return [*(LSN(cut) for cut in sorted(cuts) if after < cut < upto), upto]

    def changes(
        self, table: TableName, shape: TableShape, after: LSN, upto: LSN
    ) -> Iterator[pa.Table]:
        """Read what the stream has brought behind an LSN, up to another, in order.

        It is read by a connection of its own, which is in nobody's way.

        Yields:
            Rows as `changes.replay` takes them, of bounded size.
        """
        own = ", ".join(map(quote, shape.names))
        old = ", ".join(
            f"{BEFORE_COLUMN}.{quote(name)} AS {OLD_KEY_COLUMN.format(at)}"
            for at, name in enumerate(shape.key)
        )
        kinds = {
            **dict(zip(shape.names, shape.types, strict=True)),
            **{
                OLD_KEY_COLUMN.format(at): one.type.arrow
                for at, one in enumerate(shape.key_columns)
            },
            COMMIT_COLUMN: pa.timestamp("us", "UTC"),
        }
        cursor = self._mirrors.connection.cursor()
        try:
            reader = cursor.sql(
                f"SELECT {own}, {old}, {OP_COLUMN}, {LSN_COLUMN}, {COMMIT_COLUMN},"
                f" {UNCHANGED_COLUMN}, {BEFORE_COLUMN} IS NOT NULL AS {HAS_OLD_COLUMN}"
                f" FROM {self._changes(table)} WHERE {_of_stream(after, upto)}"
                f" ORDER BY {LSN_COLUMN}, {SEQ_COLUMN}"
            ).to_arrow_reader(_BATCH_ROWS)
            pending, size = list[pa.RecordBatch](), 0
            for batch in reader:
                pending.append(batch)
                size += batch.nbytes
                if size >= SLICE_BYTES:
                    yield _as_kept(pending, kinds)
                    pending, size = [], 0
            if pending:
                yield _as_kept(pending, kinds)
        finally:
            cursor.close()

    def put_in_place(self, table: TableName, stage: TableName) -> None:
        """Make what was made anew a table's mirror, whatever that is now."""
        self._mirrors.drop(table)
        self._mirrors.rename(stage, table)
        self._forget(stage)

    def leave(self, table: TableName, stage: TableName, into: TableName, lsn: LSN) -> None:
        """Give what was made anew a name of its own, instead of what a rebuild left there."""
        self._mirrors.drop(into)
        self._mirrors.rename(stage, into)
        self._forget(stage)
        self._note(table, into, lsn)

    def has_left(self, name: TableName) -> bool:
        """Whether a rebuild has left a table of this name."""
        names = self._rows(f"SELECT name FROM {self._noted} WHERE lsn IS NOT NULL")
        return name.folded in {TableName.parse(one).folded for (one,) in names}

    def drop(self, table: TableName) -> None:
        """Drop what a rebuild of a table was killed over; what it has left has its own name."""
        if not self._mirrors.exists(TableName("_cdc", "rebuilt")):
            return
        for (name,) in self._rows(
            f"SELECT name FROM {self._noted} WHERE lsn IS NULL"
            f" AND pipeline = {quote_literal(self._pipeline)}"
            f" AND source_table = {quote_literal(str(table))}"
        ):
            self._mirrors.drop(TableName.parse(name))
            self._forget(TableName.parse(name))

    def _note(self, table: TableName, name: TableName, lsn: LSN | None) -> None:
        """Note that a table is a rebuild's, as of an LSN; None while it is made."""
        self._forget(name)
        self._execute(
            f"INSERT INTO {self._noted} VALUES (?, ?, ?, ?)",
            (self._pipeline, str(table), str(name), None if lsn is None else int(lsn)),
        )

    def _forget(self, name: TableName) -> None:
        self._execute(f"DELETE FROM {self._noted} WHERE name = ?", (str(name),))

    def _changes(self, table: TableName) -> str:
        return self._change_tables.sql_name(table)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._mirrors.connection.execute(sql).fetchall()

    def _execute(self, sql: str, parameters: tuple[object, ...] = ()) -> None:
        self._mirrors.connection.execute(sql, parameters).fetchall()


def _of_stream(after: LSN, upto: LSN) -> str:
    return f"{LSN_COLUMN} > {int(after)} AND {LSN_COLUMN} <= {int(upto)} AND NOT {_IS_COPIED}"


def _as_kept(batches: list[pa.RecordBatch], kinds: dict[str, pa.DataType]) -> pa.Table:
    rows = pa.Table.from_batches(batches)
    columns = [
        as_kept(rows[name].combine_chunks(), kinds.get(name, rows.schema.field(name).type))
        for name in rows.column_names
    ]
    return pa.table(columns, rows.column_names)
