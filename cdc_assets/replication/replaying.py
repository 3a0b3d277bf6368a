"""A table's changes, applied in order to an empty mirror and history beside those that are there.

They are applied by the code that applies the stream, and checked as that is: what is updated or
deleted must be there, what is inserted must not. (While rows are read ahead of the stream, as no
change carried all of their values, that can't be told: they follow in the change table.) The source
is not needed; the warehouse's own lock keeps syncs out meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import numpy as np

from cdc_assets.changes.batch import ChangeBatch
from cdc_assets.changes.replay import replayed
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import TableError, WarehouseError, WarehouseMemoryError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.progress import ChangesReplayed
from cdc_assets.replication.allocator import return_freed_memory
from cdc_assets.replication.rebuildable import RebuildPlan
from cdc_assets.replication.session import recopy_hint
from cdc_assets.replication.versioning import write_versions
from cdc_assets.replication.writing import mirror_writes
from cdc_assets.steps import reached
from cdc_assets.warehouse.base import Warehouse
from cdc_assets.warehouse.opening import wait_for_warehouse

Event = TypeVar("Event")


def in_warehouse(
    config: PipelineConfig, work: Callable[[Warehouse], Iterator[Event]]
) -> Generator[Event]:
    """Work in a pipeline's warehouse without its source; from the start where memory lacks.

    Raises:
        CdcError: There is no warehouse, it refuses, or the work does.
    """
    return_freed_memory()
    memory_bytes: int | None = None
    while True:
        try:
            with _opened(config, memory_bytes) as warehouse:
                yield from work(warehouse)
        except WarehouseMemoryError as error:
            if error.next_bytes is None:
                raise
            memory_bytes = error.next_bytes
        else:
            return


@contextmanager
def _opened(config: PipelineConfig, memory_bytes: int | None) -> Iterator[Warehouse]:
    if not config.warehouse_path.exists():
        raise WarehouseError(
            f"there is no warehouse at {str(config.warehouse_path)!r}",
            hint="correct warehouse.duckdb.path, or is its volume mounted?",
        )
    warehouse = wait_for_warehouse(config, memory_bytes)
    try:
        warehouse.state.refuse_other_owners(config.table_names)
        warehouse.prepare()
        yield warehouse
        warehouse.settle()
    finally:
        warehouse.close()


class Replay:
    """What is made of a table's changes, while it is made.

    Attributes:
        changes: That were applied.
    """

    def __init__(self, warehouse: Warehouse, plan: RebuildPlan) -> None:
        self._warehouse, self._plan = warehouse, plan
        self.changes = self._written_lsn = 0

    def events(self) -> Iterator[ChangesReplayed]:
        """Make it, part by part, each in a transaction.

        Raises:
            TableError: The changes do not add up.
        """
        plan, made, rebuilds = self._plan, self._plan.made, self._warehouse.rebuilds
        with self._warehouse.transaction():
            rebuilds.begin(made)
            rebuilds.put_first(made)
        at = made.since.lsn
        for copied in rebuilds.copied_at(made, plan.upto):
            yield from self._apply(at, copied)
            with self._warehouse.transaction():
                rebuilds.put_copied(made, copied)
            at = copied
        yield from self._apply(at, plan.upto)

    def _apply(self, after: LSN, upto: LSN) -> Iterator[ChangesReplayed]:
        """Apply what the stream has brought behind an LSN, up to another."""
        made, rebuilds = self._plan.made, self._warehouse.rebuilds
        for end in rebuilds.parts(made, after, upto):
            with self._warehouse.transaction():
                for rows in rebuilds.changes(made, after, end):
                    self._write(replayed(rows, made.shape))
                reached("rebuild_applied")
            yield ChangesReplayed(made.table, self.changes, end)
            after = end

    def _write(self, batch: ChangeBatch) -> None:
        plan, stage, shape = self._plan, self._plan.made.stage, self._plan.made.shape
        if plan.made.has_history:
            histories = self._warehouse.histories
            write_versions(histories, stage, shape, batch, written_lsn=self._written_lsn)
        self.changes += len(batch)
        self._written_lsn = int(batch.end_lsn[-1])
        is_told = not plan.lacks_rows(LSN(batch.end_lsn[0]), LSN(batch.end_lsn[-1]))
        for _, write in mirror_writes(batch, shape):
            told = write if is_told else replace(write, is_told=np.zeros_like(write.standing))
            found = self._warehouse.mirrors.write(stage, shape, told)
            wrong = found.wrong + int(found.lacking.sum())
            if is_told and wrong:
                raise _no_sum(plan.made.table, wrong, batch)


def _no_sum(table: TableName, wrong: int, batch: ChangeBatch) -> TableError:
    first, last = LSN(batch.end_lsn[0]), LSN(batch.end_lsn[-1])
    return TableError(
        f"the changes of {str(table)!r} do not add up between {first} and {last}: of {wrong:,} "
        "keys a row is updated or deleted that is not there, or inserted that is",
        table=str(table),
        lsn=str(last),
        hint="somebody else wrote the change table; the mirror is as it was: " + recopy_hint(table),
    )
