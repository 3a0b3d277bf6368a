"""Change tables in a DuckDB file: what happened to a table's rows, appended and never altered."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from cdc_assets.changes.record import (
    BEFORE_COLUMN,
    FIRST_COPIED,
    OP_COLUMN,
    SEQ_COLUMN,
    change_schema,
)
from cdc_assets.changes.rows import COMMIT_COLUMN, LSN_COLUMN
from cdc_assets.changes.shape import TableShape
from cdc_assets.config.tables import CHANGES
from cdc_assets.identifiers import TableName, quote
from cdc_assets.lsn import LSN
from cdc_assets.warehouse.lookups import key_matches, key_names
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.records import Records
from cdc_assets.warehouse.traces import read_lsns
from cdc_assets.warehouse.types import column_type
from cdc_assets.warehouse.values import Copy, Moment
from cdc_assets.warehouse.zeros import refuse_lost_zeros

# The columns behind the kept ones, of rows that no transaction of the stream has brought
_ADDED = "{op}, {lsn}::UBIGINT, {first} + row_number() OVER (), NULL, NULL, {source}, [], {before}"


class ChangeTables(Records):
    """One pipeline's change tables; all but the questions belong into the rows' transaction."""

    def __init__(self, mirrors: DuckDBMirrors, pipeline: str) -> None:
        super().__init__(mirrors, pipeline, CHANGES)
        self._numbers = f"{mirrors.catalog}._cdc.change_numbers"
        self._copied = f"{mirrors.catalog}._cdc.copied_rows"

    def _schema(self, shape: TableShape) -> pa.Schema:
        return change_schema(shape)

    def _put_all(self, table: TableName, shape: TableShape, moment: Moment) -> None:
        rows = self._mirrors.live_rows(table, shape)
        first = self._append_query(self.name(table), shape, f"FROM {rows} AS stage", lsn=moment.lsn)
        self._note_copied(table, shape, first, rows, moment)

    def append(self, table: TableName, rows: pa.Table) -> None:
        """Append changes.

        Raises:
            MirrorRefusedError: Somebody else altered the change table, and it does not take them.
            ValueConversionError: DuckDB would not keep a value as it is.
        """
        self._mirrors.insert(self.name(table), rows)

    def stage(self, stage: TableName, shape: TableShape) -> None:
        """Make an empty one that is to take the place of a table's, instead of one that was left.

        Args:
            stage: Its name until then.
            shape: The kept one.
        """
        self._mirrors.drop(stage)
        self._mirrors.create_schema(stage)
        self._create(stage, shape)

    def append_staged(self, stage: TableName, rows: pa.Table) -> None:
        """Append changes to one that is being made.

        Raises:
            ValueConversionError: DuckDB would not keep a value as it is.
        """
        self._mirrors.insert(stage, rows)

    def append_snapshot(
        self, stage: TableName, shape: TableShape, rows: pa.Table, lsn: LSN
    ) -> None:
        """Append rows of a copy to one that is being made.

        Args:
            stage: Its name now.
            shape: The kept one.
            rows: Its columns, by their names.
            lsn: At or before the copy's moment; no change that follows the copy is at it.

        Raises:
            ValueConversionError: DuckDB would not keep a value as it is.
        """
        refuse_lost_zeros(stage, rows)
        query = "FROM _cdc_batch AS stage"
        self._append_query(stage, shape, query, lsn=lsn, batch=rows)

    def put_in_place(self, table: TableName, stage: TableName, moment: Moment) -> frozenset[LSN]:
        """Make the one that was made a table's.

        Args:
            table: Whose.
            stage: Its name until now.
            moment: From where on it has everything, and the one of before, which is set aside, has
                nothing.

        Returns:
            What its rows carry that were read.
        """
        read = read_lsns(self._mirrors, self._mirrors.name(stage))
        self._set_aside(table, moment)
        self._mirrors.rename(stage, self.name(table))
        self._note(table, moment)
        return read

    def append_read(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], moment: Moment
    ) -> None:
        """Append the mirror's rows of some keys, which were read from the source by themselves.

        Args:
            table: Whose.
            shape: The kept one.
            keys: One array per key column.
            moment: As of which these rows are.
        """
        named = pa.table(list(keys), names=key_names(shape))
        same = key_matches(shape, "stage")
        rows = self._mirrors.live_rows(table, shape)
        query = f"FROM {rows} AS stage SEMI JOIN _cdc_batch ON {same}"
        first = self._append_query(self.name(table), shape, query, lsn=moment.lsn, batch=named)
        self._note_copied(table, shape, first, rows, moment)

    def append_differing(self, copy: Copy, shape: TableShape, moment: Moment) -> None:
        """Append how a mirror's rows come to be those of a copy, before they are written.

        Args:
            copy: Compared with the mirror, whose differing keys lie in `_cdc_differing`.
            shape: The kept one.
            moment: As of which both are.
        """
        keys = [quote(name) for name in shape.key]
        named = ", ".join(keys)
        here, there = (
            " AND ".join(f"{side}.{key} IS NOT DISTINCT FROM found.{key}" for key in keys)
            for side in ("stage", "mirror")
        )
        old = ", ".join(f"{quote(name)} := mirror.{quote(name)}" for name in shape.names)
        rows = self._mirrors.name(copy.stage)
        first = self._append_query(
            self.name(copy.table),
            shape,
            f"FROM (SELECT DISTINCT {named} FROM _cdc_differing) AS found"
            f" LEFT JOIN (SELECT *, true AS _cdc_is FROM {rows}) AS stage"
            f" ON {here}"
            f" LEFT JOIN (SELECT DISTINCT ON ({named}) *, true AS _cdc_is"
            f" FROM {self._mirrors.live_rows(copy.table, shape)} AS mirror"
            f" SEMI JOIN _cdc_differing AS found ON {there}) AS mirror ON {there}",
            op="CASE WHEN stage._cdc_is IS NULL THEN 'delete'"
            " WHEN mirror._cdc_is IS NULL THEN 'insert' ELSE 'update' END",
            source="'backfill'",
            lsn=moment.lsn,
            before=f"CASE WHEN mirror._cdc_is THEN struct_pack({old}) END",
        )
        self._note_copied(copy.table, shape, first, rows, moment)

    def append_gone(self, table: TableName, shape: TableShape, moment: Moment) -> int:
        """Append deletions of rows that the last changes leave and the mirror has not.

        Args:
            table: Whose.
            shape: The kept one.
            moment: As of which the mirror is.

        Returns:
            How many.
        """
        changes, mirror = self.sql_name(table), self._mirrors.live_rows(table, shape)
        keys = [quote(name) for name in shape.key]
        named = ", ".join(keys)
        new, old = (
            ", ".join(f"{side}.{key} AS {key}" for key in keys)
            for side in ("change", f"change.{BEFORE_COLUMN}")
        )
        moved = " OR ".join(
            f"change.{key} IS DISTINCT FROM change.{BEFORE_COLUMN}.{key}" for key in keys
        )
        place = f"change.{LSN_COLUMN}::HUGEINT * {2 * FIRST_COPIED} + change.{SEQ_COLUMN}"
        is_op = f"change.{OP_COLUMN} ="
        truncated = f"SELECT max({place}) FROM {changes} AS change WHERE {is_op} 'truncate'"
        events = (
            f"SELECT {new}, {place} AS place, true AS is_row FROM {changes} AS change"
            f" WHERE NOT {is_op} 'delete' AND NOT {is_op} 'truncate'"
            f" UNION ALL SELECT {old}, {place}, false FROM {changes} AS change"
            f" WHERE {is_op} 'delete'"
            f" OR {is_op} 'update' AND change.{BEFORE_COLUMN} IS NOT NULL AND ({moved})"
        )
        gone = (
            f"SELECT {named} FROM ({events}) WHERE place > coalesce(({truncated}), -1)"
            f" GROUP BY {named} HAVING arg_max(is_row, place)"
        )
        before = ", ".join(
            f"{quote(name)} := "
            + (f"found.{quote(name)}" if name in shape.key else "NULL")
            + f"::{column_type(kind)}"
            for name, kind in zip(shape.names, shape.types, strict=True)
        )
        same = " AND ".join(f"found.{key} = stage.{key}" for key in keys)
        first = self._append_query(
            self.name(table),
            shape,
            f"FROM ({gone}) AS found LEFT JOIN {mirror} AS stage ON {same}"
            f" WHERE stage.{keys[0]} IS NULL",
            op="'delete'",
            source="'backfill'",
            lsn=moment.lsn,
            before=f"struct_pack({before})",
        )
        self._note_copied(table, shape, first, mirror, moment)
        return FIRST_COPIED + self._copied_number() - first

    def _append_query(
        self,
        into: TableName,
        shape: TableShape,
        query: str,
        *,
        lsn: LSN,
        op: str = "'snapshot'",
        source: str = "'snapshot'",
        before: str = "NULL",
        batch: pa.Table | None = None,
    ) -> int:
        """Append rows that lie in the warehouse, numbered behind all that were appended so.

        Returns:
            The number of the first one.
        """
        first = self._copied_number()
        columns = ", ".join(f"stage.{quote(name)}" for name in shape.names)
        more = _ADDED.format(
            op=op, lsn=int(lsn), first=FIRST_COPIED - 1 + first, source=source, before=before
        )
        sql = f"INSERT INTO {self._mirrors.name(into)} SELECT {columns}, {more} {query}"
        ((count,),) = self._mirrors.rows_with(sql, batch)
        self._execute(f"UPDATE {self._numbers} SET copied = copied + {count}")
        return FIRST_COPIED + first

    def _note_copied(
        self, table: TableName, shape: TableShape, first: int, rows: str, moment: Moment
    ) -> None:
        """Note what the mirror has, or will have, in its own columns of the rows just appended.

        Without it a rebuild could not tell which transactions have written them.
        """
        same = " AND ".join(f"change.{key} = mirror.{key}" for key in map(quote, shape.key))
        self._execute(
            f"INSERT INTO {self._copied} SELECT ?, ?, change.{SEQ_COLUMN}, mirror.{LSN_COLUMN},"
            f" mirror.{COMMIT_COLUMN}, make_timestamptz(?::BIGINT)"
            f" FROM {self.sql_name(table)} AS change LEFT JOIN {rows} AS mirror ON {same}"
            f" WHERE change.{SEQ_COLUMN} >= {first}",
            (self._pipeline, str(table), moment.micros),
        )

    def _set_aside(self, table: TableName, moment: Moment) -> None:
        super()._set_aside(table, moment)
        self._forget_copied(table)

    def drop(self, table: TableName) -> None:
        """Drop all that were made of a table."""
        super().drop(table)
        self._forget_copied(table)

    def _forget_copied(self, table: TableName) -> None:
        self._execute(
            f"DELETE FROM {self._copied} WHERE pipeline = ? AND source_table = ?",
            (self._pipeline, str(table)),
        )

    def _copied_number(self) -> int:
        """Give how many rows were ever numbered that no transaction of the stream has brought."""
        ((copied,),) = self._mirrors.rows_with(f"SELECT copied FROM {self._numbers}", None)
        return copied
