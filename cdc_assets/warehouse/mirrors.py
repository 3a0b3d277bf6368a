"""Mirrors in a DuckDB file.

They have no primary key: delete and insert from a deduplicated batch is thirty times as fast as an
index that checks every row, and one row per key holds by construction (`warehouse.base`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import duckdb
import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import Mask
from cdc_assets.changes.rows import (
    COMMIT_COLUMN,
    DELETED_COLUMN,
    LSN_COLUMN,
    Lookup,
    added_columns,
)
from cdc_assets.changes.shape import TableShape
from cdc_assets.errors import CheckpointConflictError, MirrorRefusedError
from cdc_assets.identifiers import TableName, quote
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import Ints
from cdc_assets.warehouse.layout import difference, mirror_columns, read_stored
from cdc_assets.warehouse.liveness import endings, is_live, live_rows, mark_sql
from cdc_assets.warehouse.lookups import (
    PLACE,
    as_kept,
    asking,
    filling,
    key_matches,
    key_names,
)
from cdc_assets.warehouse.tables import DuckDBTables
from cdc_assets.warehouse.types import column_type
from cdc_assets.warehouse.values import Write, Written
from cdc_assets.warehouse.zeros import refuse_lost_zeros

_OF_THE_MIRROR = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConstraintException,
    duckdb.ConversionException,
)


class DuckDBMirrors(DuckDBTables):
    """The mirrors in an open file."""

    def create(self, table: TableName, shape: TableShape) -> None:
        """Make an empty mirror.

        Raises:
            CheckpointConflictError: There is a table of this name already.
        """
        if self.exists(table):
            raise CheckpointConflictError(
                f"table {table.sql} exists in the warehouse without a checkpoint of this pipeline",
                hint="rename or drop it, then run 'cdc-assets sync' again",
            )
        listed = ", ".join(f"{quote(name)} {kind}" for name, kind in mirror_columns(shape))
        self.create_schema(table)
        self.connection.execute(f"CREATE TABLE {self.name(table)} ({listed})")

    def live_rows(self, table: TableName, shape: TableShape) -> str:
        """Write the rows that a table has as a relation in SQL, without deleted ones."""
        return live_rows(shape, self.name(table))

    def altered(self, mirrors: Mapping[TableName, TableShape]) -> dict[TableName, str]:
        """Find mirrors that are not what they were made, and say what they are instead."""
        stored = read_stored(self.connection)
        found = {
            table: difference(stored.get(table.folded), mirror_columns(shape))
            for table, shape in mirrors.items()
        }
        return {table: what for table, what in found.items() if what}

    @contextmanager
    def _blamed_on(self, table: TableName) -> Iterator[None]:
        """Blame a mirror for what DuckDB refuses because of what the mirror is.

        Raises:
            MirrorRefusedError: It lacks a column, say, or has a constraint that a row breaks.
        """
        try:
            yield
        except _OF_THE_MIRROR as error:
            # the message may quote a value
            raise MirrorRefusedError(
                f"the mirror of {str(table)!r} does not take what the source has: "
                f"{type(error).__name__}"
            ) from error

    def write(self, table: TableName, shape: TableShape, write: Write) -> Written:
        """Apply one batch to a mirror, inside a transaction.

        Raises:
            MirrorRefusedError: The mirror was altered and does not take it.
        """
        with self._blamed_on(table):
            return self._write(table, shape, write)

    def _write(self, table: TableName, shape: TableShape, write: Write) -> Written:
        wrong, lacking = 0, np.zeros(0, dtype=bool)
        if write.truncated_at is not None:
            self._truncate(table, shape, write, write.truncated_at)
        if write.looked_up is not None:
            refuse_lost_zeros(table, write.looked_up.rows)
            lacking = np.ones(write.looked_up.rows.num_rows, dtype=bool)
            lacking[self.fill(table, shape, write.looked_up)] = False
        for chosen, rows in write.by_standing():
            found = self._end(table, shape, write, chosen)
            wrong += 0 if rows is None else abs(found - rows)
        if shape.keeps_deleted:
            self._delete(table, shape, _keys_of(write.inserted, shape))
        self._insert(table, write.inserted)
        if write.looked_up is not None:
            self.insert_filled(table, shape)
        return Written(wrong, lacking)

    def _truncate(self, table: TableName, shape: TableShape, write: Write, at: LSN) -> None:
        if not shape.keeps_deleted:
            self.truncate(table, at)
            return
        ended = endings([int(at)], [write.truncated_micros])
        marked = mark_sql(shape, self.name(table), _older(at))
        self._count(marked, ended)

    def _end(self, table: TableName, shape: TableShape, write: Write, chosen: Mask) -> int:
        """Delete the live rows of chosen keys, or mark them, and say how many there were."""
        if write.marks is None:
            return self._delete(table, shape, _chosen(write.deleted, chosen))
        marks, kept = write.marks, chosen & write.marks.chosen
        ended = endings(marks.end_lsn[kept], marks.commit_micros[kept])
        marked = self._mark_keys(table, shape, _chosen(write.deleted, kept), ended)
        gone = _chosen(write.deleted, chosen & ~marks.chosen)
        return marked + self._delete(table, shape, gone, live=True)

    def _mark_keys(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], ended: pa.Table
    ) -> int:
        """Mark the live rows of some keys as deleted, and say how many there were."""
        if not ended.num_rows:
            return 0
        for name, key in zip(key_names(shape), keys, strict=True):
            ended = ended.append_column(name, key)
        marked = mark_sql(shape, self.name(table), key_matches(shape))
        return self._count(marked, ended)

    def retire(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], lsn: LSN
    ) -> None:
        """Delete the rows of some keys, or mark them deleted as of an LSN.

        Raises:
            MirrorRefusedError: The mirror was altered and does not take it.
        """
        with self._blamed_on(table):
            if shape.keeps_deleted:
                count = len(keys[0])
                self._mark_keys(table, shape, keys, endings([int(lsn)] * count, [None] * count))
            else:
                self._delete(table, shape, keys)

    def truncate(self, table: TableName, truncated_at: LSN) -> None:
        """Delete the rows of transactions up to a truncation.

        What a chunk brought that was read after the truncation is there already. Its LSN is at or
        past the truncation's, and it has no commit time, unlike rows of the stream.
        """
        self.connection.execute(
            f"DELETE FROM {self.name(table)} AS mirror WHERE {_older(truncated_at)}"
        )

    def delete(self, table: TableName, shape: TableShape, keys: Sequence[pa.Array]) -> int:
        """Delete the rows of some keys, and say how many there were.

        Raises:
            MirrorRefusedError: The mirror was altered and does not take it.
        """
        with self._blamed_on(table):
            return self._delete(table, shape, keys)

    def _delete(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], *, live: bool = False
    ) -> int:
        if not keys or not len(keys[0]):
            return 0
        named = pa.table(list(keys), names=key_names(shape))
        matches = key_matches(shape)
        if live:
            matches += f" AND {is_live(shape, 'mirror')}"
        return self._count(
            f"DELETE FROM {self.name(table)} AS mirror USING _cdc_batch WHERE {matches}", named
        )

    def look_up(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], names: Sequence[str]
    ) -> pa.Table:
        """Give columns of the live rows of n keys: n rows in their order, null where there is none.

        Raises:
            MirrorRefusedError: The mirror was altered and does not give it.
        """
        count = len(keys[0])
        named = pa.table([*keys, np.arange(count)], names=[*key_names(shape), PLACE])
        columns = ", ".join(f"mirror.{quote(name)}" for name in names)
        with self._blamed_on(table):
            found = self.query(
                f"SELECT {columns} FROM _cdc_batch"
                f" LEFT JOIN {self.live_rows(table, shape)} AS mirror ON {key_matches(shape)}"
                f" ORDER BY _cdc_batch.{PLACE}",
                named,
            )
        if found.num_rows != count:
            raise MirrorRefusedError(f"the mirror of {str(table)!r} has several rows of one key")
        kinds = dict(zip(shape.names, shape.types, strict=True))
        arrays = [
            as_kept(column.combine_chunks(), kinds[name])
            for name, column in zip(names, found.columns, strict=True)
        ]
        return pa.table(arrays, names=list(names))

    def insert(self, table: TableName, rows: pa.Table) -> None:
        """Append rows with all columns of the mirror, in its order.

        Raises:
            MirrorRefusedError: The mirror was altered and does not take it.
            ValueConversionError: DuckDB would not keep a value as it is.
        """
        with self._blamed_on(table):
            self._insert(table, rows)

    def _insert(self, table: TableName, rows: pa.Table) -> None:
        refuse_lost_zeros(table, rows)
        if rows.num_rows:
            self._count(f"INSERT INTO {self.name(table)} SELECT * FROM _cdc_batch", rows)

    def fill(self, table: TableName, shape: TableShape, lookup: Lookup) -> Ints:
        """Fill rows with what the old ones have, for `insert_filled`.

        Returns:
            Places of the rows that found an old one.
        """
        query = filling(self.live_rows(table, shape), shape, lookup)
        self._count(f"CREATE TEMP TABLE _cdc_filled AS {query}", asking(shape, lookup))
        found = self.connection.execute(f"SELECT DISTINCT {PLACE} FROM _cdc_filled").fetchall()
        return np.array(found, dtype=np.int64).reshape(-1)

    def filled(self, relation: str, shape: TableShape, lookup: Lookup) -> tuple[pa.Table, Ints]:
        """Fill rows with what those of a relation have, and give them with their places."""
        found = self.query(filling(relation, shape, lookup), asking(shape, lookup))
        arrays = [
            as_kept(found[field.name].combine_chunks(), field.type) for field in lookup.rows.schema
        ]
        places: Ints = found[PLACE].to_numpy()
        return pa.table(arrays, schema=lookup.rows.schema), places

    def insert_filled(self, table: TableName, shape: TableShape) -> None:
        """Write what `fill` has filled; where deleted rows are kept, in place of such ones."""
        if shape.keeps_deleted:
            same = " AND ".join(f"mirror.{key} = filled.{key}" for key in map(quote, shape.key))
            self.connection.execute(
                f"DELETE FROM {self.name(table)} AS mirror USING _cdc_filled AS filled WHERE {same}"
            ).fetchall()
        self.connection.execute(
            f"INSERT INTO {self.name(table)} SELECT * EXCLUDE ({PLACE}) FROM _cdc_filled"
        )
        self.connection.execute("DROP TABLE _cdc_filled")

    def add_missing_columns(self, table: TableName, shape: TableShape, lsn: LSN) -> None:
        """Give a table that somebody else made the columns that a mirror has besides its own."""
        stored = read_stored(self.connection).get(table.folded)
        known = dict(stored.columns) if stored is not None else {}
        lacking = [added for added in added_columns(shape) if added.name not in known]
        for added in lacking:
            self.connection.execute(
                f"ALTER TABLE {self.name(table)} ADD COLUMN {quote(added.name)}"
                f" {column_type(added.type)}"
            )
        # Behind them all: DuckDB 1.5 alters no table whose rows the transaction has written
        first = {LSN_COLUMN: str(int(lsn)), DELETED_COLUMN: "false"}
        for added in lacking:
            if added.name in first:
                self.connection.execute(
                    f"UPDATE {self.name(table)} SET {quote(added.name)} = {first[added.name]}"
                )

    def _count(self, sql: str, batch: pa.Table | None = None) -> int:
        """Run a statement, and give the one number that it returns."""
        ((count,),) = self.rows_with(sql, batch)
        return count


def _chosen(keys: Sequence[pa.Array], mask: Mask) -> Sequence[pa.Array]:
    return keys if mask.all() else [key.filter(pa.array(mask)) for key in keys]


def _keys_of(rows: pa.Table, shape: TableShape) -> list[pa.Array]:
    return [rows[name].combine_chunks() for name in shape.key]


def _older(truncated_at: LSN) -> str:
    """Write that a row is of a transaction up to a truncation."""
    lsn, at = f"mirror.{quote(LSN_COLUMN)}", int(truncated_at)
    return f"({lsn} < {at} OR {lsn} = {at} AND mirror.{quote(COMMIT_COLUMN)} IS NOT NULL)"
