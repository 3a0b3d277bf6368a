"""Histories in a DuckDB file: a row per version of each row.

A key has one open version at the most, and no two of its versions hold at once: whoever opens one
has closed the one before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import Mask
from cdc_assets.changes.rows import Lookup
from cdc_assets.changes.shape import TableShape
from cdc_assets.changes.versions import (
    FROM_LSN_COLUMN,
    TO_LSN_COLUMN,
    VALID_FROM_COLUMN,
    VALID_TO_COLUMN,
    history_schema,
)
from cdc_assets.config.tables import CHANGES, HISTORY
from cdc_assets.identifiers import TableName, quote, quote_literal, record_table
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import Ints
from cdc_assets.shaping.equality import differs
from cdc_assets.warehouse.lookups import key_matches, key_names
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.records import Records, time_sql
from cdc_assets.warehouse.values import Copy, Moment

_IS_OPEN = f"{quote(TO_LSN_COLUMN)} IS NULL"


class Histories(Records):
    """One pipeline's histories; all but the questions belong into the rows' transaction."""

    def __init__(self, mirrors: DuckDBMirrors, pipeline: str) -> None:
        super().__init__(mirrors, pipeline, HISTORY)

    def _schema(self, shape: TableShape) -> pa.Schema:
        return history_schema(shape)

    def _put_all(self, table: TableName, shape: TableShape, moment: Moment) -> None:
        self.begin_with(table, shape, self._mirrors.live_rows(table, shape), moment)

    def begin_with(self, table: TableName, shape: TableShape, rows: str, moment: Moment) -> None:
        """Open a version for each row of a relation, which is all of the table at a moment."""
        self._insert(table, shape, rows, moment, source="snapshot")

    def stage(self, stage: TableName, shape: TableShape) -> None:
        """Make an empty one that is to take the place of a table's, instead of one that was left.

        Args:
            stage: The mirror's name until then, beside which it is.
            shape: The kept one.
        """
        self._mirrors.drop(self.name(stage))
        self._create(self.name(stage), shape)

    def put_in_place(self, table: TableName, stage: TableName, since: Moment) -> None:
        """Make one that was made of a change table a table's, instead of the one that is there.

        Args:
            table: Whose.
            stage: The mirror's name until now.
            since: Where the change table begins, and so the history.
        """
        name, changes = str(self.name(table)), str(record_table(table, CHANGES))
        self._mirrors.drop(self.name(table))
        self._mirrors.rename(self.name(stage), self.name(table))
        self._execute(
            f"DELETE FROM {self._noted} WHERE pipeline = ? AND name = ?", (self._pipeline, name)
        )
        self._note(table, since)
        self._execute(
            f"INSERT INTO {self._gaps} SELECT * REPLACE (? AS name) FROM {self._gaps}"
            " WHERE pipeline = ? AND name = ? AND to_lsn IS NOT NULL",
            (name, self._pipeline, changes),
        )

    def fill(self, table: TableName, shape: TableShape, lookup: Lookup) -> tuple[pa.Table, Ints]:
        """Fill rows with what the open versions have.

        Returns:
            The rows that found one, and their places among those asked for.
        """
        open_ones = f"(FROM {self.sql_name(table)} WHERE {_IS_OPEN})"
        return self._mirrors.filled(open_ones, shape, lookup)

    def compare_open(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], rows: pa.Table
    ) -> tuple[Mask, Ints]:
        """Compare n rows with the open versions of their keys.

        Args:
            table: Whose.
            shape: The kept one.
            keys: One array of n per key column.
            rows: Values of the shape's columns; null where there is to be no row.

        Returns:
            Which are the same, and since when the open ones hold, in Unix microseconds; the
            smallest number where there is none.
        """
        same = np.zeros(rows.num_rows, dtype=bool)
        since = np.full(rows.num_rows, np.iinfo(np.int64).min)
        batch = pa.table(
            [*keys, *rows.columns, np.arange(rows.num_rows)],
            names=[*key_names(shape), *shape.names, "_cdc_place"],
        )
        found = self._mirrors.rows_with(
            f"SELECT _cdc_place, NOT ({_differ('version', '_cdc_batch', shape)}),"
            f" epoch_us(version.{quote(VALID_FROM_COLUMN)})"
            f" FROM {self.sql_name(table)} AS version JOIN _cdc_batch"
            f" ON {key_matches(shape, 'version')} WHERE version.{_IS_OPEN}",
            batch,
        )
        places, are_same, micros = np.array(found, dtype=np.int64).reshape(-1, 3).T
        same[places], since[places] = are_same.astype(bool), micros
        return same, since

    def close(
        self,
        table: TableName,
        shape: TableShape,
        keys: Sequence[pa.Array],
        *,
        lsn: Ints,
        micros: Ints,
    ) -> None:
        """Close the open versions of n keys, each at its own moment."""
        batch = pa.table([*keys, lsn, micros], names=[*key_names(shape), "_cdc_lsn", "_cdc_micros"])
        self._mirrors.rows_with(
            f"UPDATE {self.sql_name(table)} AS version SET"
            + _closed("_cdc_batch._cdc_lsn", "_cdc_batch._cdc_micros")
            + f" FROM _cdc_batch WHERE {key_matches(shape, 'version')} AND version.{_IS_OPEN}",
            batch,
        )

    def reopen(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], lsn: LSN
    ) -> None:
        """Undo what a transaction has done to some keys so far: its end decides."""
        batch = pa.table(list(keys), names=key_names(shape))
        of_key = f"{key_matches(shape, 'version')} AND version."
        self._mirrors.rows_with(
            f"DELETE FROM {self.sql_name(table)} AS version USING _cdc_batch"
            f" WHERE {of_key}{quote(FROM_LSN_COLUMN)} = {int(lsn)}",
            batch,
        )
        self._mirrors.rows_with(
            f"UPDATE {self.sql_name(table)} AS version SET {quote(VALID_TO_COLUMN)} = NULL,"
            f" {quote(TO_LSN_COLUMN)} = NULL FROM _cdc_batch"
            f" WHERE {of_key}{quote(TO_LSN_COLUMN)} = {int(lsn)}",
            batch,
        )

    def close_all(self, table: TableName, moment: Moment) -> None:
        """Close all open versions: the table was truncated."""
        self._execute(  # what the same transaction has opened never held
            f"DELETE FROM {self.sql_name(table)}"
            f" WHERE {_IS_OPEN} AND {quote(FROM_LSN_COLUMN)} = {int(moment.lsn)}"
        )
        self._execute(
            f"UPDATE {self.sql_name(table)} AS version SET"
            + _closed(int(moment.lsn), moment.micros)
            + f" WHERE {_IS_OPEN} AND {quote(FROM_LSN_COLUMN)} <= {int(moment.lsn)}"
        )

    def append(self, table: TableName, versions: pa.Table) -> None:
        """Append versions with all columns of the history, in its order.

        Raises:
            MirrorRefusedError: Somebody else altered the history, and it does not take them.
            ValueConversionError: DuckDB would not keep a value as it is.
        """
        self._mirrors.insert(self.name(table), versions)

    def append_read(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], moment: Moment
    ) -> None:
        """Take in the mirror's rows of some keys, which were read by themselves, as of a moment."""
        named = ", ".join(
            f"{key} AS {quote(name)}" for key, name in zip(key_names(shape), shape.key, strict=True)
        )
        self._mirrors.rows_with(
            f"CREATE TEMP TABLE _cdc_read AS SELECT DISTINCT {named} FROM _cdc_batch",
            pa.table(list(keys), names=key_names(shape)),
        )
        mirror = self._mirrors.live_rows(table, shape)
        self.become(table, shape, "_cdc_read", mirror, moment=moment, source="snapshot")
        self._execute("DROP TABLE _cdc_read")

    def append_differing(self, copy: Copy, shape: TableShape, moment: Moment) -> None:
        """Take in how a mirror's rows come to be a copy's; their keys lie in `_cdc_differing`."""
        stage = self._mirrors.name(copy.stage)
        self.become(copy.table, shape, "_cdc_differing", stage, moment=moment, source="backfill")

    def append_gone(self, table: TableName, shape: TableShape, moment: Moment) -> int:
        """Close the open versions of rows that the mirror has not; how many there were."""
        mirror = self._mirrors.live_rows(table, shape)
        same = " AND ".join(f"version.{key} = mirror.{key}" for key in map(quote, shape.key))
        ((count,),) = self._mirrors.rows_with(
            f"UPDATE {self.sql_name(table)} AS version SET"
            + _closed(int(moment.lsn), moment.micros)
            + f" WHERE version.{_IS_OPEN}"
            f" AND NOT EXISTS (SELECT 1 FROM {mirror} AS mirror WHERE {same})",
            None,
        )
        return count

    def become(
        self,
        table: TableName,
        shape: TableShape,
        keys: str,
        rows: str,
        *,
        moment: Moment,
        source: str,
    ) -> None:
        """Let the open versions of some keys be what a relation's rows are, from a moment on.

        Args:
            table: Whose.
            shape: The kept one.
            keys: A relation in SQL, with the key's columns.
            rows: A relation with the shape's columns.
            moment: From when on.
            source: Where the rows come from.
        """
        named = ", ".join(map(quote, shape.key))
        same_key = " AND ".join(f"version.{quote(key)} = wanted.{quote(key)}" for key in shape.key)
        found = f"(SELECT DISTINCT {named} FROM {keys})"
        self._execute(
            f"UPDATE {self.sql_name(table)} AS version SET"
            + _closed(int(moment.lsn), moment.micros)
            + f" FROM (SELECT * FROM {found} LEFT JOIN (SELECT *, true AS _cdc_is FROM {rows})"
            f" USING ({named})) AS wanted WHERE {same_key} AND version.{_IS_OPEN}"
            f" AND (wanted._cdc_is IS NULL OR {_differ('version', 'wanted', shape)})"
        )
        self._execute(  # opened at this very moment, by a read before: they never held
            f"DELETE FROM {self.sql_name(table)}"
            f" WHERE {quote(TO_LSN_COLUMN)} = {quote(FROM_LSN_COLUMN)}"
        )
        chosen = (
            f"(FROM {rows} SEMI JOIN {found} USING ({named}) ANTI JOIN"
            f" (FROM {self.sql_name(table)} WHERE {_IS_OPEN}) USING ({named}))"
        )
        self._insert(table, shape, chosen, moment, source=source)

    def _insert(
        self, table: TableName, shape: TableShape, rows: str, moment: Moment, *, source: str
    ) -> None:
        columns = ", ".join(map(quote, shape.names))
        self._execute(
            f"INSERT INTO {self.sql_name(table)} SELECT {columns}, {time_sql(moment.micros)}, NULL,"
            f" {int(moment.lsn)}::UBIGINT, NULL, {quote_literal(source)} FROM {rows}"
        )


def _differ(left: str, right: str, shape: TableShape) -> str:
    """Write whether two rows of one key differ."""
    listed = [
        differs(f"{left}.{quote(column.name)}", f"{right}.{quote(column.name)}", column.type.arrow)
        for column in shape.columns
    ]
    return " OR ".join(listed)


def _closed(lsn: object, micros: object) -> str:
    """Write what is set in a version that ends; its time never runs backwards."""
    return (
        f" {quote(VALID_TO_COLUMN)} = greatest(version.{quote(VALID_FROM_COLUMN)},"
        f" {time_sql(micros)}), {quote(TO_LSN_COLUMN)} = {lsn}"
    )
