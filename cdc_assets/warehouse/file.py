"""A DuckDB file: opening it, memory, transactions, its log, and the copy for readers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from cdc_assets.errors import WarehouseBusyError, WarehouseError, WarehouseMemoryError
from cdc_assets.identifiers import quote
from cdc_assets.pages import page
from cdc_assets.warehouse import memory
from cdc_assets.warehouse.faults import system_fault, way_out
from cdc_assets.warehouse.memory import MemoryLimit, lacks_memory
from cdc_assets.warehouse.publishing import publish

# Below it a commit only appends to DuckDB's own log; above it the file is written, at every window.
_CHECKPOINT_THRESHOLD = "256MB"
# What DuckDB makes of whatever a signal's handler raises while a statement runs
_INTERRUPTED = "Query interrupted"


class DuckDBFile:
    """One DuckDB file, open until `close`, for writing unless `read_only`.

    Args:
        path: The file; it is made if it is not there. None: an empty warehouse in memory.
        read_only: Whether it is only read; then it must be there.
        memory_bytes: What DuckDB may use at first; opening the file may take more.
        most_memory_bytes: What it may use at the most; by default DuckDB's own default.

    Raises:
        WarehouseBusyError: Another process holds the file.
        WarehouseMemoryError: It can't be opened with the most memory that is allowed.
        WarehouseError: It can't be opened, or is no DuckDB file.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        read_only: bool = False,
        memory_bytes: int | None = None,
        most_memory_bytes: int | None = None,
    ) -> None:
        self.path = path or Path(":memory:")
        self._descriptors: list[int] = []
        self._memory = MemoryLimit(memory_bytes or memory.FIRST_BYTES, most_memory_bytes)
        try:
            if path is not None and not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            self.connection = self._open(read_only)
        except OSError as error:
            raise _open_error(self.path, str(error)) from error
        self.catalog = quote(self.connection.execute("SELECT current_database()").fetchall()[0][0])

    @property
    def memory_bytes(self) -> int:
        """What DuckDB may use now."""
        return self._memory.limit_bytes

    def _open(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        while True:
            try:
                return duckdb.connect(
                    str(self.path),
                    read_only=read_only,
                    config={
                        "memory_limit": self._memory.sql,
                        "checkpoint_threshold": _CHECKPOINT_THRESHOLD,
                        "preserve_insertion_order": False,
                    },
                )
            except duckdb.Error as error:
                if not lacks_memory(error):
                    raise _open_error(self.path, str(error)) from error
                self._grow(error)

    def _grow(self, error: duckdb.Error) -> None:
        larger = self._memory.next_bytes()
        if larger is None:
            raise self._refusal(error) from error
        self._memory.limit_bytes = larger

    def allow_memory(self, memory_bytes: int) -> None:
        """Let DuckDB use so much, if that is more than now and not more than the most."""
        limit = MemoryLimit(memory_bytes, self._memory.most_bytes).limit_bytes
        if limit > self._memory.limit_bytes:
            self._memory.limit_bytes = limit
            self.connection.execute(f"SET memory_limit = '{self._memory.sql}'")

    def write_log(self) -> None:
        """Write DuckDB's log into the file, with more memory if it takes more.

        Without it `close` does so, and keeps the log without a word where the memory is too small:
        everything in it is durable, and whoever opens the file next reads it all again.

        Raises:
            WarehouseError: What DuckDB refused.
        """
        while True:
            try:
                self.connection.execute("CHECKPOINT")
            except duckdb.Error as error:
                if not lacks_memory(error):
                    raise self._refusal(error) from error
                self._grow(error)
                self.connection.close()  # a checkpoint that failed has shut the database
                self.connection = self._open(read_only=False)
            else:
                return

    def publish(self, target: Path) -> None:
        """Put a copy of the file in a target's place, with all that is committed.

        Raises:
            OSError: It can't be written; the target is as it was.
            WarehouseError: What DuckDB refused.
        """
        self.write_log()
        # Closing any descriptor of the file would release this process's lock on it (POSIX)
        self._descriptors.append(os.open(self.path, os.O_RDONLY))
        publish(self._descriptors[-1], target)

    def close(self) -> None:
        """Let go of the file."""
        self.connection.close()
        while self._descriptors:
            os.close(self._descriptors.pop())

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block in one transaction: durable when the block has ended, undone if it raised.

        Raises:
            WarehouseError: What DuckDB refused.
        """
        try:
            self.connection.execute("BEGIN TRANSACTION")
            yield
            self.connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, duckdb.Error):
                raise self._refusal(error) from error
            if type(error) is RuntimeError and str(error) == _INTERRUPTED:
                raise KeyboardInterrupt from error
            raise

    def _roll_back(self) -> None:
        # DuckDB ends a transaction itself at a failed commit, or gives up the whole connection
        with suppress(duckdb.TransactionException, duckdb.FatalException):
            self.connection.execute("ROLLBACK")

    def _refusal(self, error: duckdb.Error) -> WarehouseError:
        # DuckDB's messages may quote a value: only their kind is shown
        fault = system_fault(str(error))
        if fault:
            return WarehouseError(
                f"warehouse {str(self.path)!r} can't be written: {fault}", hint=way_out(fault)
            )
        if not lacks_memory(error):
            return WarehouseError(
                f"warehouse {str(self.path)!r} refused a statement: {type(error).__name__}",
                hint="what was committed stays, nothing else was applied: check the disk's free "
                "space and the file",
            )
        return WarehouseMemoryError(
            f"DuckDB lacks memory for warehouse {str(self.path)!r}: its limit is "
            f"{self.memory_bytes / 2**20:,.0f} MiB",
            next_bytes=self._memory.next_bytes(),
            hint="it holds 2048 values of a column at once: raise "
            "warehouse.duckdb.max_memory_bytes or the machine's memory, or leave columns of long "
            "values out with a column list of the publication",
        )


# Another process's lock, or another connection of this process
_BUSY = ("could not set lock", "different configuration than existing", "already attached")
_HOLDER = re.compile(r"lock is held in (.+? \(PID \d+\))")


def _open_error(path: Path, reason: str) -> WarehouseError:
    text = " ".join(reason.split())
    if any(said in text.lower() for said in _BUSY):
        found = _HOLDER.search(text)
        return WarehouseBusyError(
            f"warehouse {str(path)!r} is held by "
            + (f"another process: {found[1]}" if found else f"another connection: {text}"),
            holder=found[1] if found else "",
            hint="close what has it open; read a copy of the file while syncs run, for example "
            f"the one of warehouse.duckdb.publish: {page('reading')}",
        )
    return WarehouseError(
        f"warehouse {str(path)!r} can't be opened: {text}",
        hint="check warehouse.duckdb.path and its permissions",
    )
