"""A pinned session whose results come as Arrow.

The driver manager's DB-API module would import pandas by way of pyarrow.dataset: a fifth of a
second of every run's start. The reader is the one that the DB-API uses; pyarrow's own loses the
SQLSTATE of an error that comes with the rows.

The driver waits for the source in C, without an end and deaf to signals. So each of its calls that
may wait runs in a thread of its own, and is waited for here. One that can't be ended is left alone
with all that it uses: nothing of it may be freed before it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing, suppress
from threading import Event, Thread
from typing import Any, Generic, Self, TypeVar

import adbc_driver_manager
import adbc_driver_postgresql
import pyarrow as pa
from adbc_driver_manager import AdbcConnection, AdbcStatement
from adbc_driver_manager._reader import AdbcRecordBatchReader

from cdc_assets.errors import SourceSilentError
from cdc_assets.source.connection import PIN_SETTINGS
from cdc_assets.source.liveness import Silence, end_backend
from cdc_assets.source.refusals import connection_refusal, lack_of_resources, place

BATCH_BYTES = 8 * 1024 * 1024
_LOOK_SECONDS = 0.1
_CANCEL_SECONDS = 20.0

T = TypeVar("T")
_abandoned: list[object] = []


class _Call(Generic[T]):
    """A blocking call of the driver in a thread of its own."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._done = Event()
        Thread(target=self._run, name="cdc-assets-driver", daemon=True).start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error  # raised again in `result`
        self._done.set()

    def ended_within(self, seconds: float) -> bool:
        return self._done.wait(seconds)

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result


class ArrowSession:
    """A session in autocommit mode; statements run one at a time.

    Args:
        conninfo: A complete libpq connection string.
        reads_ahead: Whether the run does other things while this session is waited for.

    Raises:
        adbc_driver_manager.Error: The server refuses, here and in every method.
        SourceSilentError: The server does not answer any more, likewise.
    """

    def __init__(self, conninfo: str, *, reads_ahead: bool = False) -> None:
        self._conninfo, self._says = conninfo, not reads_ahead
        self._pid: int | None = None
        self._cancel: _Call[None] | None = None
        self._lost: SourceSilentError | None = None
        self._connection: AdbcConnection | None = None
        self._database = self._awaited(lambda: adbc_driver_postgresql.connect(conninfo))
        try:
            self._connection = self._awaited(lambda: AdbcConnection(self._database))
        except BaseException:
            self._release(self._database)
            raise

    def __enter__(self) -> Self:
        self.row(PIN_SETTINGS)
        (self._pid,) = self.row("SELECT pg_backend_pid()")
        return self

    def __exit__(self, *_: object) -> None:
        """Close the session; on the source it is gone on return, unless that does not answer."""
        if self._cancel is not None and not self._cancel.ended_within(_CANCEL_SECONDS):
            self._abandon(self._cancel)
        self._release(self._connection)
        self._release(self._database)

    def cancel(self, because: BaseException | None = None) -> None:
        """End the statement that runs, from another thread; nothing happens if none does.

        Where the source was found silent, its backend is ended with it: it would stay there.
        """
        if self._cancel is None and self._connection is not None:
            is_silent = isinstance(because, SourceSilentError)
            self._cancel = _Call(self._end_backend if is_silent else self._connection.cancel)

    def execute(self, sql: str) -> None:
        """Run a statement that has no rows."""
        statement = AdbcStatement(self._connection)
        try:
            statement.set_sql_query(sql)
            self._awaited(statement.execute_update)
        finally:
            self._release(statement)

    def row(self, sql: str) -> tuple[Any, ...]:
        """Run a query and give its first row."""
        with closing(self.batches(sql)) as batches:
            return tuple(column[0].as_py() for column in next(batches).columns)

    def batches(self, sql: str, *, larger: int = 1) -> Generator[pa.RecordBatch]:
        """Run a query and give its rows in batches of about `BATCH_BYTES`, while they come.

        Read it to its end or close it before the session's next statement.

        Args:
            sql: The query.
            larger: How many times as large the batches are.
        """
        statement = AdbcStatement(self._connection)
        try:
            statement.set_options(
                **{"adbc.postgresql.batch_size_hint_bytes": str(larger * BATCH_BYTES)}
            )
            statement.set_sql_query(sql)
            handle, _ = self._awaited(statement.execute_query)
            reader = AdbcRecordBatchReader._import_from_c(handle.address)
            batches = iter(reader)
            while (batch := self._awaited(lambda: next(batches, None))) is not None:
                yield batch
        finally:
            self._release(statement)

    def _awaited(self, call: Callable[[], T]) -> T:
        if self._lost is not None:
            raise self._lost
        running = _Call(call)
        silence = Silence(
            self._conninfo, self._pid, "the source to answer a statement", says=self._says
        )
        try:
            while not running.ended_within(_LOOK_SECONDS):
                if self._cancel is not None:
                    break  # it has ended, or won't: both are seen below
                silence.goes_on()
        except BaseException as error:
            self.cancel(because=error)
            if not running.ended_within(_CANCEL_SECONDS):
                self._abandon(running, error)
            raise
        if not running.ended_within(_CANCEL_SECONDS):
            raise self._abandon(running)
        silence.ended()
        try:
            return running.result()
        except adbc_driver_manager.Error as error:
            if self._connection is None:
                raise connection_refusal(self._conninfo, str(error)) from None
            lack = lack_of_resources(error.sqlstate, str(error), place(self._conninfo))
            if lack is None:
                raise
            raise lack from error

    def _abandon(
        self, running: _Call[Any], error: BaseException | None = None
    ) -> SourceSilentError:
        lost = SourceSilentError("a statement on the source can't be cancelled")
        self._lost = error if isinstance(error, SourceSilentError) else lost
        _abandoned.append((self, running))
        self._end_backend()
        return self._lost

    def _end_backend(self) -> None:
        end_backend(self._conninfo, self._pid)

    def _release(self, of_driver: Any) -> None:
        if self._lost is not None:
            _abandoned.append(of_driver)
        elif of_driver is not None:
            with suppress(adbc_driver_manager.Error):
                of_driver.close()
