"""A pinned session whose results come as Arrow.

The driver manager's DB-API module would import pandas by way of pyarrow.dataset: a fifth of a
second of every run's start. The reader is the one that the DB-API uses; pyarrow's own loses the
SQLSTATE of an error that comes with the rows.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any, Self

import adbc_driver_postgresql
import pyarrow as pa
from adbc_driver_manager import AdbcConnection, AdbcStatement
from adbc_driver_manager._reader import AdbcRecordBatchReader

from cdc_assets.source.connection import PIN_SETTINGS

BATCH_BYTES = 8 * 1024 * 1024


class ArrowSession:
    """A session in autocommit mode; statements run one at a time.

    Args:
        conninfo: A complete libpq connection string.

    Raises:
        adbc_driver_manager.Error: The server refuses, here and in every method.
    """

    def __init__(self, conninfo: str) -> None:
        self._database = adbc_driver_postgresql.connect(conninfo)
        try:
            self._connection = AdbcConnection(self._database)
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        self.row(PIN_SETTINGS)
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._database.close()

    def cancel(self) -> None:
        """End the statement that runs, from another thread; nothing happens if none does."""
        self._connection.cancel()

    def execute(self, sql: str) -> None:
        """Run a statement that has no rows."""
        with AdbcStatement(self._connection) as statement:
            statement.set_sql_query(sql)
            statement.execute_update()

    def row(self, sql: str) -> tuple[Any, ...]:
        """Run a query and give its first row."""
        with closing(self.batches(sql)) as batches:
            return tuple(column[0].as_py() for column in next(batches).columns)

    def batches(self, sql: str) -> Generator[pa.RecordBatch]:
        """Run a query and give its rows in batches of about `BATCH_BYTES`, while they come.

        Read it to its end or close it before the session's next statement.
        """
        with AdbcStatement(self._connection) as statement:
            statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(BATCH_BYTES)})
            statement.set_sql_query(sql)
            handle, _ = statement.execute_query()
            with AdbcRecordBatchReader._import_from_c(handle.address) as reader:
                yield from reader
