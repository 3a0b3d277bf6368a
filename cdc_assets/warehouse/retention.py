"""Change tables in a DuckDB file whose oldest changes go.

In their place is the table as it was then: a row each, with the LSN and the time of the transaction
that has written it. These rows are numbered below zero, so whoever has read up to there does not
take them for news.
"""

from __future__ import annotations

from datetime import timedelta

from cdc_assets.changes.record import FIRST_COPIED, SEQ_COLUMN, SNAPSHOT
from cdc_assets.changes.rows import COMMIT_COLUMN, DELETED_COLUMN, LSN_COLUMN
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName, quote, quote_literal
from cdc_assets.lsn import LSN
from cdc_assets.warehouse.change_tables import ChangeTables
from cdc_assets.warehouse.liveness import is_live
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.rebuilds import Rebuilds
from cdc_assets.warehouse.values import Rebuild

_OF_STREAM = f"{SEQ_COLUMN} BETWEEN 0 AND {FIRST_COPIED - 1}"


class Retention:
    """One pipeline's; what writes belongs into a transaction."""

    def __init__(
        self, mirrors: DuckDBMirrors, pipeline: str, change_tables: ChangeTables, rebuilds: Rebuilds
    ) -> None:
        self._mirrors, self._pipeline = mirrors, pipeline
        self._change_tables, self._rebuilds = change_tables, rebuilds
        self._schema = f"{mirrors.catalog}._cdc"

    def older_than(self, table: TableName, age: timedelta) -> LSN | None:
        """Give the last LSN up to which all changes are older; None where there are none."""
        is_old = f"{COMMIT_COLUMN} < now() - to_microseconds({age // timedelta(microseconds=1)})"
        changes = f"FROM {self._change_tables.sql_name(table)} WHERE {_OF_STREAM}"
        return self._only_lsn(
            f"SELECT max({LSN_COLUMN}) {changes} AND {is_old} AND {LSN_COLUMN} <"
            f" coalesce((SELECT min({LSN_COLUMN}) {changes} AND NOT {is_old}), {2**63})"
        )

    def past_bytes(self, table: TableName, size: int) -> LSN | None:
        """Give the LSN behind which the newest changes take so much; None where all take less.

        A change is taken to be as large as the change table's rows are on the average.
        """
        name = self._change_tables.sql_name(table)
        ((taken, rows, count),) = self._mirrors.connection.execute(
            "SELECT (SELECT count(DISTINCT block_id) FROM"
            f" pragma_storage_info({quote_literal(name)}) WHERE block_id >= 0)"
            " * (SELECT block_size FROM pragma_database_size()"
            " WHERE database_name = current_database()),"
            f" (SELECT count(*) FROM {name}), (SELECT count(*) FROM {name} WHERE {_OF_STREAM})"
        ).fetchall()
        kept = size * rows // max(taken, 1)
        if count <= kept:
            return None
        return self._only_lsn(
            f"SELECT max({LSN_COLUMN}) FROM {name} WHERE {_OF_STREAM} AND {LSN_COLUMN} <="
            f" (SELECT approx_quantile({LSN_COLUMN}::DOUBLE, {(count - kept) / count})"
            f" FROM {name} WHERE {_OF_STREAM})"
        )

    def _only_lsn(self, sql: str) -> LSN | None:
        ((lsn,),) = self._mirrors.connection.execute(sql).fetchall()
        return None if lsn is None else LSN(lsn)

    def fold(self, of: Rebuild, upto: LSN) -> tuple[int, int]:
        """Put the rows of a stage, which is as of an LSN, in place of the changes up to it.

        Returns:
            How many changes are gone, and with how many rows the change table begins now.
        """
        removed = self.cut(of.table, upto)
        rows = self._put(of, live=True)
        if of.shape.keeps_deleted:
            self._put(of, live=False)
        self._rebuilds.discard(of)
        return removed, rows

    def cut(self, table: TableName, upto: LSN) -> int:
        """Remove the changes up to an LSN, and say how many."""
        name, of_table = self._change_tables.sql_name(table), (self._pipeline, str(table))
        gone = f"FROM {name} WHERE {LSN_COLUMN} <= {int(upto)}"
        self._execute(
            f"DELETE FROM {self._schema}.copied_rows WHERE pipeline = ? AND source_table = ?"
            f" AND seq IN (SELECT {SEQ_COLUMN} {gone})",
            of_table,
        )
        self._execute(
            f"UPDATE {self._schema}.change_tables SET since_lsn = {int(upto)},"
            f" since_time = coalesce((SELECT max({COMMIT_COLUMN}) {gone}), since_time)"
            " WHERE pipeline = ? AND source_table = ? AND name = ?",
            (*of_table, str(self._change_tables.name(table))),
        )
        self._execute(
            f"DELETE FROM {self._schema}.unread WHERE pipeline = ? AND source_table = ?"
            f" AND upto_lsn <= {int(upto)}",
            of_table,
        )
        return self._execute(f"DELETE {gone}")

    def _put(self, of: Rebuild, *, live: bool) -> int:
        """Append the stage's rows that are live, or those that are not."""
        ((first,),) = self._mirrors.connection.execute(
            f"SELECT copied FROM {self._schema}.change_numbers"
        ).fetchall()
        names = [quote(name) for name in of.shape.names]
        columns = ", ".join(names if live else ["NULL"] * len(names))
        op, before = (SNAPSHOT, "NULL") if live else ("delete", _old_row(of.shape))
        which = is_live(of.shape, "stage") if live else f"stage.{DELETED_COLUMN}"
        count = self._execute(
            f"INSERT INTO {self._change_tables.sql_name(of.table)} SELECT {columns}, '{op}',"
            f" {LSN_COLUMN}, -({first} + row_number() OVER ()), NULL, {COMMIT_COLUMN},"
            f" '{SNAPSHOT}', [], {before} FROM {self._mirrors.name(of.stage)} AS stage"
            f" WHERE {which}"
        )
        self._execute(f"UPDATE {self._schema}.change_numbers SET copied = copied + {count}")
        return count

    def _execute(self, sql: str, parameters: tuple[object, ...] = ()) -> int:
        """Run a statement, and say of how many rows it was."""
        return int(self._mirrors.connection.execute(sql, parameters).fetchall()[0][0])


def _old_row(shape: TableShape) -> str:
    listed = ", ".join(f"{quote(name)} := stage.{quote(name)}" for name in shape.names)
    return f"struct_pack({listed})"
