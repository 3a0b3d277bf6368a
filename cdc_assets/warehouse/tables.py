"""Tables in a DuckDB file, whoever keeps what in them.

Names are those of the source, and DuckDB tells them apart as it does (`identifiers.fold`).
"""

from __future__ import annotations

from collections.abc import Collection

import duckdb
import pyarrow as pa

from cdc_assets.identifiers import TableName, quote
from cdc_assets.warehouse.counting import count_rows
from cdc_assets.warehouse.file import DuckDBFile
from cdc_assets.warehouse.layout import read_stored
from cdc_assets.warehouse.types import column_type
from cdc_assets.warehouse.values import RowCounts


class DuckDBTables:
    """The tables in an open file."""

    def __init__(self, file: DuckDBFile) -> None:
        self._file = file
        self._state: set[str] = set()

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The file's; another one after its log was written with more memory."""
        return self._file.connection

    @property
    def catalog(self) -> str:
        """The file's name in SQL."""
        return self._file.catalog

    def column_type(self, arrow_type: pa.DataType) -> str:
        """Name the type of a column that keeps every value of an Arrow type."""
        return column_type(arrow_type)

    def create_schema(self, table: TableName) -> None:
        """Make the schema that a table is to be in, if it is not there."""
        schema = f"{self.catalog}.{quote(table.schema)}"
        self.connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")

    def name(self, table: TableName) -> str:
        """Write a table's name in SQL, with the catalog.

        A schema may be called like one (`temp`, or the file's name).
        """
        return f"{self.catalog}.{table.sql}"

    def there(self) -> frozenset[tuple[str, str]]:
        """Give the folded names of all tables and views: one question for many of them."""
        return frozenset(read_stored(self.connection))

    def exists(self, table: TableName) -> bool:
        """Whether there is a table or view of this name, whatever its case."""
        return self._is("table", table) or self._is("view", table)

    def has_state(self, name: str) -> bool:
        """Whether a table of our own state is there; one that is there stays."""
        if name not in self._state:
            listed = "SELECT lower(table_name) FROM duckdb_tables() WHERE schema_name = '_cdc'"
            of_file = f"{listed} AND database_name = current_database()"
            self._state = {table for (table,) in self.connection.execute(of_file).fetchall()}
        return name in self._state

    def _is(self, kind: str, table: TableName) -> bool:
        # information_schema.tables, which has both kinds, takes three times as long
        sql = (
            f"SELECT schema_name, {kind}_name FROM duckdb_{kind}s()"
            f" WHERE database_name = current_database() AND lower({kind}_name) = lower(?)"
        )
        found = self.connection.execute(sql, (table.name,)).fetchall()
        # its `lower` takes names for one that are two for it
        return any(TableName(*name).folded == table.folded for name in found)

    def drop(self, table: TableName) -> None:
        """Drop a table, or the view that somebody put in its place, if it is there."""
        kind = "VIEW" if self._is("view", table) else "TABLE"
        self.connection.execute(f"DROP {kind} IF EXISTS {self.name(table)}")

    def rename(self, table: TableName, to: TableName) -> None:
        """Give a table of the same schema another name."""
        self.connection.execute(f"ALTER TABLE {self.name(table)} RENAME TO {quote(to.name)}")

    def move(self, table: TableName, to: TableName) -> None:
        """Give a table another name, in another schema if need be: DuckDB writes it anew then."""
        if table.schema == to.schema:
            self.rename(table, to)
            return
        self.create_schema(to)
        self.connection.execute(f"CREATE TABLE {self.name(to)} AS FROM {self.name(table)}")
        self.drop(table)

    def row_counts(self, tables: Collection[TableName]) -> dict[TableName, RowCounts]:
        """Count the rows of those tables that are there: one question for many of them."""
        return count_rows(self.connection, self.catalog, tables)

    def row_count(self, table: TableName) -> int:
        """Count one table's live rows; none where it is gone, or a view."""
        counts = self.row_counts([table]).get(table)
        return counts.live if counts else 0

    def query(self, sql: str, batch: pa.Table | None = None) -> pa.Table:
        """Run a query that may read `_cdc_batch`."""
        _cdc_batch = batch  # as for `rows_with`
        return self.connection.sql(sql).to_arrow_table()

    def rows_with(self, sql: str, batch: pa.Table | None) -> list[tuple[int, ...]]:
        """Run a statement that may read `_cdc_batch`, and give its rows.

        DuckDB finds the table among this frame's variables. A registered one would be a view in the
        catalog, and the transaction keeps dropped views, with all their rows, to its end.
        """
        _cdc_batch = batch
        # DuckDB 2.0 streams: a result that is not read to its end blocks the connection
        return self.connection.execute(sql).fetchall()
