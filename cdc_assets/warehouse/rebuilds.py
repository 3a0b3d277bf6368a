"""Tables that are made anew of their change tables in a DuckDB file, beside what they are to be.

Rows that were copied, and not changed, stand behind all changes of their LSN (`FIRST_COPIED`), so a
change table is read as what the stream has brought, in order, up to a place at which rows were
copied; then these; and so on. Of several rows of one key that were copied at one LSN each follows
the one before.
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
    SOURCE_COLUMN,
    UNCHANGED_COLUMN,
)
from cdc_assets.changes.replay import HAS_OLD_COLUMN, OLD_KEY_COLUMN
from cdc_assets.changes.rows import COMMIT_COLUMN, DELETED_COLUMN, LSN_COLUMN
from cdc_assets.changes.shape import TableShape
from cdc_assets.config.tables import HISTORY
from cdc_assets.identifiers import TableName, quote, quote_literal, record_table
from cdc_assets.lsn import LSN
from cdc_assets.warehouse.change_tables import ChangeTables
from cdc_assets.warehouse.histories import Histories
from cdc_assets.warehouse.lookups import as_kept
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.records import time_sql
from cdc_assets.warehouse.values import Moment, Rebuild

# How many changes are sorted at once, about, and of which size they are given
PART_ROWS = 200_000
SLICE_BYTES = 64 * 1024 * 1024
_BATCH_ROWS = 2048
_IS_COPIED = f"{SEQ_COLUMN} >= {FIRST_COPIED}"


class Rebuilds:
    """One pipeline's tables that are made anew; what writes belongs into a transaction."""

    def __init__(
        self,
        mirrors: DuckDBMirrors,
        pipeline: str,
        change_tables: ChangeTables,
        histories: Histories,
    ) -> None:
        self._mirrors, self._pipeline = mirrors, pipeline
        self._change_tables, self._histories = change_tables, histories
        self._noted = f"{mirrors.catalog}._cdc.rebuilt"
        self._noted_rows = f"{mirrors.catalog}._cdc.copied_rows"

    def begin(self, of: Rebuild) -> None:
        """Make an empty mirror, and its history, in place of what was left."""
        self._mirrors.drop(of.stage)
        self._mirrors.create(of.stage, of.shape)
        if of.has_history:
            self._histories.stage(of.stage, of.shape)
        for name in self._made(of, of.stage):
            self._note(of.table, name, None)

    def untold_deletes(self, table: TableName, shape: TableShape, since: LSN) -> int:
        """Count the rows that a mirror keeps as deleted, and its changes since an LSN do not tell.

        Args:
            table: Whose.
            shape: The kept one.
            since: Where its change table begins.
        """
        counts = self._mirrors.row_counts([table]).get(table)
        if counts is None or counts.deleted is None:
            return 0
        same = " AND ".join(
            f"change.{BEFORE_COLUMN}.{key} = mirror.{key}" for key in map(quote, shape.key)
        )
        ((count,),) = self._rows(
            f"SELECT count(*) FROM {self._mirrors.name(table)} AS mirror"
            f" ANTI JOIN (FROM {self._change_tables.sql_name(table)}"
            f" WHERE {_is_first(since)} AND {OP_COLUMN} = 'delete') AS change ON {same}"
            f" WHERE mirror.{DELETED_COLUMN} AND mirror.{LSN_COLUMN} <= {int(since)}"
        )
        return int(count)

    def copied_at(self, of: Rebuild, upto: LSN) -> list[LSN]:
        """Give where rows were copied: where the change table begins, and places behind that."""
        since = of.since.lsn
        rows = self._rows(
            f"SELECT DISTINCT {LSN_COLUMN} FROM {self._changes(of)} WHERE {_IS_COPIED}"
            f" AND {LSN_COLUMN} > {int(since)} AND {LSN_COLUMN} <= {int(upto)} ORDER BY 1"
        )
        return [since, *(LSN(lsn) for (lsn,) in rows)]

    def put_first(self, of: Rebuild) -> None:
        """Put the rows in with which the change table begins."""
        first = self._copied(of, _is_first(of.since.lsn))
        there = f"(FROM {first} WHERE {OP_COLUMN} = '{SNAPSHOT}')"
        self._insert(of, there)
        if of.shape.keeps_deleted:
            self._insert_deleted(of, first)
        if of.has_history:
            self._histories.begin_with(of.stage, of.shape, there, of.since)

    def put_copied(self, of: Rebuild, at: LSN) -> None:
        """Put the rows in that were copied at an LSN, but for those that `put_first` has put in.

        Args:
            of: What is made, which is as of `at` but for these rows.
            at: As of which they are.
        """
        which = f"{_IS_COPIED} AND change.{LSN_COLUMN} = {int(at)}"
        if at == of.since.lsn:
            which += f" AND NOT ({_is_first(at)})"
        named = ", ".join(map(quote, of.shape.key))
        self._execute("DROP TABLE IF EXISTS temp._cdc_copied")
        self._execute(
            "CREATE TEMP TABLE _cdc_copied AS SELECT *,"
            f" row_number() OVER (PARTITION BY {named} ORDER BY {SEQ_COLUMN}) AS _cdc_round"
            f" FROM {self._copied(of, which)}"
        )
        groups = self._rows(
            f"SELECT DISTINCT _cdc_round, {SOURCE_COLUMN}, epoch_us(_cdc_as_of) FROM _cdc_copied"
            " ORDER BY ALL"
        )
        for number, source, micros in groups:
            self._execute(
                "CREATE TEMP TABLE _cdc_round AS FROM _cdc_copied WHERE _cdc_round = ?"
                f" AND {SOURCE_COLUMN} = ? AND epoch_us(_cdc_as_of) = ?",
                (number, source, micros),
            )
            self._put_round(of, source, Moment(at, micros))
            self._execute("DROP TABLE _cdc_round")
        self._execute("DROP TABLE _cdc_copied")

    def _put_round(self, of: Rebuild, source: str, moment: Moment) -> None:
        """Put in what lies in `_cdc_round`: rows of one moment, each key once."""
        same = " AND ".join(f"mirror.{key} = copied.{key}" for key in map(quote, of.shape.key))
        into = self._mirrors.name(of.stage)
        self._execute(f"DELETE FROM {into} AS mirror USING _cdc_round AS copied WHERE {same}")
        there = f"(FROM _cdc_round WHERE {OP_COLUMN} <> 'delete')"
        self._insert(of, there)
        if of.shape.keeps_deleted:
            self._insert_deleted(of, "_cdc_round")
        if of.has_history:
            self._histories.become(
                of.stage, of.shape, "_cdc_round", there, moment=moment, source=source
            )

    def _copied(self, of: Rebuild, which: str) -> str:
        """Write copied rows as a relation, with their keys, gone or not.

        LSN and commit time are those that the mirror has of the row, not of the copying.
        """
        keys = ", ".join(
            f"coalesce(change.{key}, change.{BEFORE_COLUMN}.{key}) AS {key}"
            for key in map(quote, of.shape.key)
        )
        return (
            f"(SELECT change.* REPLACE ({keys},"
            f" coalesce(noted.lsn, change.{LSN_COLUMN}) AS {LSN_COLUMN},"
            f" coalesce(noted.commit_ts, change.{COMMIT_COLUMN}) AS {COMMIT_COLUMN}),"
            f" coalesce(noted.as_of, {time_sql(of.since.micros)}) AS _cdc_as_of"
            f" FROM {self._changes(of)} AS change LEFT JOIN {self._noted_rows} AS noted"
            f" ON noted.seq = change.{SEQ_COLUMN} WHERE {which})"
        )

    def _insert(self, of: Rebuild, rows: str) -> None:
        own = ", ".join(map(quote, of.shape.names))
        live = ", false" if of.shape.keeps_deleted else ""
        self._execute(
            f"INSERT INTO {self._mirrors.name(of.stage)}"
            f" SELECT {own}, {LSN_COLUMN}, {COMMIT_COLUMN}{live} FROM {rows}"
        )

    def _insert_deleted(self, of: Rebuild, rows: str) -> None:
        """Put in rows that are kept as deleted."""
        old = ", ".join(f"{BEFORE_COLUMN}.{quote(name)}" for name in of.shape.names)
        self._execute(
            f"INSERT INTO {self._mirrors.name(of.stage)}"
            f" SELECT {old}, {LSN_COLUMN}, {COMMIT_COLUMN}, true"
            f" FROM {rows} WHERE {OP_COLUMN} = 'delete'"
        )

    def parts(self, of: Rebuild, after: LSN, upto: LSN) -> list[LSN]:
        """Cut what the stream has brought, by LSNs, into parts of about as many changes each.

        Returns:
            Their ends, the last one is `upto`; empty where there is nothing.
        """
        of_stream = f"FROM {self._changes(of)} WHERE {_of_stream(after, upto)}"
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

    def changes(self, of: Rebuild, after: LSN, upto: LSN) -> Iterator[pa.Table]:
        """Read what the stream has brought behind an LSN, up to another, in order.

        It is read by a connection of its own, which is in nobody's way.

        Yields:
            Rows as `changes.replay` takes them, of bounded size.
        """
        shape = of.shape
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
                f" FROM {self._changes(of)} WHERE {_of_stream(after, upto)}"
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

    def put_in_place(self, of: Rebuild) -> None:
        """Make what was made anew a table's, whatever is there now."""
        self._mirrors.drop(of.table)
        self._mirrors.rename(of.stage, of.table)
        if of.has_history:
            self._histories.put_in_place(of.table, of.stage, of.since)
        for name in self._made(of, of.stage):
            self._forget(name)

    def leave(self, of: Rebuild, into: TableName, lsn: LSN) -> None:
        """Give what was made anew a name of its own, instead of what a rebuild left there."""
        for made, name in zip(self._made(of, of.stage), self._made(of, into), strict=True):
            self._mirrors.drop(name)
            self._mirrors.rename(made, name)
            self._forget(made)
            self._note(of.table, name, lsn)

    def discard(self, of: Rebuild) -> None:
        """Drop what was made; it has served."""
        for name in self._made(of, of.stage):
            self._mirrors.drop(name)
            self._forget(name)

    def _made(self, of: Rebuild, name: TableName) -> list[TableName]:
        """Give all tables that are made, where the mirror has a name."""
        return [name, *([record_table(name, HISTORY)] if of.has_history else [])]

    def has_left(self, name: TableName) -> bool:
        """Whether a rebuild has left a table of this name."""
        names = self._rows(f"SELECT name FROM {self._noted} WHERE lsn IS NOT NULL")
        return name.folded in {TableName.parse(one).folded for (one,) in names}

    def drop(self, table: TableName) -> None:
        """Drop what a rebuild of a table was killed over; what it has left has its own name."""
        if not self._mirrors.has_state("rebuilt"):
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

    def _changes(self, of: Rebuild) -> str:
        return self._change_tables.sql_name(of.table)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._mirrors.connection.execute(sql).fetchall()

    def _execute(self, sql: str, parameters: tuple[object, ...] = ()) -> None:
        self._mirrors.connection.execute(sql, parameters).fetchall()


def _is_first(since: LSN) -> str:
    """Write that a row is one with which a change table begins: of a copy, or of a retention."""
    return f"{LSN_COLUMN} <= {int(since)} AND {SOURCE_COLUMN} = '{SNAPSHOT}'"


def _of_stream(after: LSN, upto: LSN) -> str:
    return f"{LSN_COLUMN} > {int(after)} AND {LSN_COLUMN} <= {int(upto)} AND NOT {_IS_COPIED}"


def _as_kept(batches: list[pa.RecordBatch], kinds: dict[str, pa.DataType]) -> pa.Table:
    rows = pa.Table.from_batches(batches)
    columns = [
        as_kept(rows[name].combine_chunks(), kinds.get(name, rows.schema.field(name).type))
        for name in rows.column_names
    ]
    return pa.table(columns, rows.column_names)
