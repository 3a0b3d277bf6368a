"""Change tables in a DuckDB file: what happened to a table's rows, appended and never altered."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from cdc_assets.changes.record import FIRST_COPIED, change_schema
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName, change_table, quote
from cdc_assets.lsn import LSN
from cdc_assets.warehouse.layout import Columns, difference, read_stored
from cdc_assets.warehouse.mirrors import DuckDBMirrors, column_type, key_matches, key_names
from cdc_assets.warehouse.values import Copy

# The columns behind the kept ones, of rows that no transaction of the stream has brought
_ADDED = "{op}, {lsn}::UBIGINT, {first} + row_number() OVER (), NULL, NULL, {source}, [], {before}"


class ChangeTables:
    """One pipeline's change tables; all but the questions belong into the rows' transaction.

    Which are ours is kept in `_cdc.change_tables`, with the LSNs between which each has everything.
    """

    def __init__(self, mirrors: DuckDBMirrors, pipeline: str) -> None:
        self._mirrors, self._pipeline = mirrors, pipeline
        self._schema = f"{mirrors.catalog}._cdc"

    def names(self, table: TableName) -> list[TableName]:
        """Give all change tables that were made of a table: the one of now, and those set aside."""
        if not self._mirrors.exists(TableName("_cdc", "change_tables")):
            return []
        rows = self._mirrors.connection.execute(
            f"SELECT name FROM {self._schema}.change_tables WHERE pipeline = ? AND source_table = ?"
            " ORDER BY since_lsn, name",
            (self._pipeline, str(table)),
        ).fetchall()
        return [TableName.parse(name) for (name,) in rows]

    def read(self) -> frozenset[TableName]:
        """Give the tables whose change table goes on."""
        if not self._mirrors.exists(TableName("_cdc", "change_tables")):
            return frozenset()
        rows = self._mirrors.connection.execute(
            f"SELECT source_table FROM {self._schema}.change_tables"
            " WHERE pipeline = ? AND until_lsn IS NULL",
            (self._pipeline,),
        ).fetchall()
        return frozenset(TableName.parse(table) for (table,) in rows)

    def altered(self, table: TableName, shape: TableShape) -> str:
        """Say what a change table is instead of what it was made; empty when it is that.

        Args:
            table: Whose.
            shape: The kept one.
        """
        stored = read_stored(self._mirrors.connection).get(change_table(table).folded)
        return difference(stored, self._columns(shape))

    def begin(self, table: TableName, shape: TableShape, lsn: LSN) -> None:
        """Begin a change table with all rows of the mirror, which is as of `lsn`.

        One that was there before keeps its rows, under another name.
        """
        self._set_aside(table, lsn)
        name = change_table(table)
        listed = ", ".join(f"{quote(column)} {kind}" for column, kind in _declared(shape))
        self._execute(f"CREATE TABLE {self._mirrors.name(name)} ({listed})")
        self._execute(
            f"INSERT INTO {self._schema}.change_tables VALUES (?, ?, ?, ?, NULL)",
            (self._pipeline, str(table), str(name), int(lsn)),
        )
        self._append_query(table, shape, f"FROM {self._mirrors.name(table)} AS stage", lsn=lsn)

    def end(self, table: TableName, lsn: LSN) -> None:
        """Say that a change table has nothing past `lsn`."""
        self._execute(
            f"UPDATE {self._schema}.change_tables SET until_lsn = ? WHERE pipeline = ?"
            " AND source_table = ? AND until_lsn IS NULL",
            (int(lsn), self._pipeline, str(table)),
        )

    def append(self, table: TableName, rows: pa.Table) -> None:
        """Append changes.

        Raises:
            MirrorRefusedError: Somebody else altered the change table, and it does not take them.
            ValueConversionError: DuckDB would not keep a value as it is.
        """
        self._mirrors.insert(change_table(table), rows)

    def append_read(
        self, table: TableName, shape: TableShape, keys: Sequence[pa.Array], lsn: LSN
    ) -> None:
        """Append the mirror's rows of some keys, which were read from the source by themselves.

        Args:
            table: Whose.
            shape: The kept one.
            keys: One array per key column.
            lsn: As of which these rows are.
        """
        named = pa.table(list(keys), names=key_names(shape))
        same = key_matches(shape, "stage")
        query = f"FROM {self._mirrors.name(table)} AS stage SEMI JOIN _cdc_batch ON {same}"
        self._append_query(table, shape, query, lsn=lsn, batch=named)

    def append_differing(self, copy: Copy, shape: TableShape, lsn: LSN) -> None:
        """Append how a mirror's rows come to be those of a copy, before they are written.

        Args:
            copy: Compared with the mirror, whose differing keys lie in `_cdc_differing`.
            shape: The kept one.
            lsn: As of which both are.
        """
        keys = [quote(name) for name in shape.key]
        named = ", ".join(keys)
        here, there = (
            " AND ".join(f"{side}.{key} IS NOT DISTINCT FROM found.{key}" for key in keys)
            for side in ("stage", "mirror")
        )
        old = ", ".join(f"{quote(name)} := mirror.{quote(name)}" for name in shape.names)
        self._append_query(
            copy.table,
            shape,
            f"FROM (SELECT DISTINCT {named} FROM _cdc_differing) AS found"
            f" LEFT JOIN (SELECT *, true AS _cdc_is FROM {self._mirrors.name(copy.stage)}) AS stage"
            f" ON {here}"
            f" LEFT JOIN (SELECT DISTINCT ON ({named}) *, true AS _cdc_is"
            f" FROM {self._mirrors.name(copy.table)} AS mirror"
            f" SEMI JOIN _cdc_differing AS found ON {there}) AS mirror ON {there}",
            op="CASE WHEN stage._cdc_is IS NULL THEN 'delete'"
            " WHEN mirror._cdc_is IS NULL THEN 'insert' ELSE 'update' END",
            source="'backfill'",
            lsn=lsn,
            before=f"CASE WHEN mirror._cdc_is THEN struct_pack({old}) END",
        )

    def drop(self, table: TableName) -> None:
        """Drop all change tables of a table."""
        for name in self.names(table):
            self._mirrors.drop(name)

    def _append_query(
        self,
        table: TableName,
        shape: TableShape,
        query: str,
        *,
        lsn: LSN,
        op: str = "'snapshot'",
        source: str = "'snapshot'",
        before: str = "NULL",
        batch: pa.Table | None = None,
    ) -> None:
        """Append rows that lie in the warehouse, numbered behind all that were appended so."""
        first = self._number(f"SELECT copied FROM {self._schema}.change_numbers")
        columns = ", ".join(f"stage.{quote(name)}" for name in shape.names)
        more = _ADDED.format(
            op=op, lsn=int(lsn), first=FIRST_COPIED - 1 + first, source=source, before=before
        )
        into = self._mirrors.name(change_table(table))
        sql = f"INSERT INTO {into} SELECT {columns}, {more} {query}"
        ((count,),) = self._mirrors.rows_with(sql, batch)
        self._execute(f"UPDATE {self._schema}.change_numbers SET copied = copied + {count}")

    def _set_aside(self, table: TableName, lsn: LSN) -> None:
        """Give a change table that can't go on another name; it keeps what it has."""
        name = change_table(table)
        if name not in self.names(table):
            return
        self.end(table, lsn)
        kept = TableName(name.schema, f"{name.name}__until_{str(lsn).replace('/', '_')}")
        while self._mirrors.exists(kept):
            kept = TableName(kept.schema, kept.name + "_")
        if self._mirrors.exists(name):
            self._mirrors.rename(name, kept)
        self._execute(
            f"UPDATE {self._schema}.change_tables SET name = ? WHERE pipeline = ? AND name = ?",
            (str(kept), self._pipeline, str(name)),
        )

    def _columns(self, shape: TableShape) -> Columns:
        """Give the columns as the catalog writes them."""
        listed = _declared(shape)
        kinds = ", ".join(f"typeof(NULL::{kind})" for _, kind in listed)
        (found,) = self._mirrors.connection.execute(f"SELECT {kinds}").fetchall()
        return [(name, kind) for (name, _), kind in zip(listed, found, strict=True)]

    def _number(self, sql: str) -> int:
        return int(self._mirrors.connection.execute(sql).fetchall()[0][0])

    def _execute(self, sql: str, parameters: tuple[object, ...] = ()) -> None:
        self._mirrors.connection.execute(sql, parameters).fetchall()


def _declared(shape: TableShape) -> list[tuple[str, str]]:
    return [(field.name, column_type(field.type)) for field in change_schema(shape)]
