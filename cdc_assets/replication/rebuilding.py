"""A mirror and its history made anew from the change table alone, without the source.

What the change table has is applied in order to an empty mirror beside the one that is there, by
the code that applies the stream, and checked as that is: what is updated or deleted must be there,
what is inserted must not. (While rows are read ahead of the stream, as no change carried all of
their values, that can't be told: they follow in the change table.) Then it takes the other's place
in one transaction, and a rebuild that is killed leaves the mirror as it was. The warehouse's own
lock keeps syncs out meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from cdc_assets.changes.batch import ChangeBatch
from cdc_assets.changes.replay import replayed
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import TableError, WarehouseError, WarehouseMemoryError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.progress import ChangesReplayed, RebuildEvent, TableRebuilt
from cdc_assets.replication.allocator import return_freed_memory
from cdc_assets.replication.publishing import publish_copy
from cdc_assets.replication.rebuildable import RebuildPlan, plan_rebuild
from cdc_assets.replication.session import recopy_hint
from cdc_assets.replication.versioning import write_versions
from cdc_assets.replication.writing import mirror_writes
from cdc_assets.steps import reached
from cdc_assets.warehouse.base import Warehouse
from cdc_assets.warehouse.opening import wait_for_warehouse


def rebuild(
    config: PipelineConfig,
    table: TableName,
    *,
    to_lsn: LSN | None = None,
    into: TableName | None = None,
) -> Generator[RebuildEvent]:
    """Make a table's mirror, and the history if one is kept, anew from its change table.

    Args:
        config: The pipeline.
        table: One of its tables.
        to_lsn: As of which LSN; by default as of its checkpoint.
        into: The name that it gets, beside the mirror; None: it takes the mirror's place.

    Yields:
        An event per part of the changes that were applied, and `TableRebuilt`.

    Raises:
        TableError: It can't be rebuilt, or its changes do not add up; the mirror is as it was.
        WarehouseError: The warehouse refuses.
    """
    return_freed_memory()
    memory_bytes: int | None = None
    while True:
        try:
            with _opened(config, memory_bytes) as warehouse:
                plan = plan_rebuild(config, warehouse, table, to_lsn=to_lsn, into=into)
                yield from _Rebuild(config, warehouse, plan).events()
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


class _Rebuild:
    """One rebuild, in an open warehouse."""

    def __init__(self, config: PipelineConfig, warehouse: Warehouse, plan: RebuildPlan) -> None:
        self._config, self._warehouse, self._plan = config, warehouse, plan
        self._rebuilds = warehouse.rebuilds
        self._started = time.monotonic()
        self._changes = self._written_lsn = 0

    def events(self) -> Iterator[RebuildEvent]:
        plan, made, rebuilds = self._plan, self._plan.made, self._rebuilds
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
        mirrors, versions = self._warehouse.mirrors, None
        rows = mirrors.row_count(made.stage)
        if made.has_history:
            versions = mirrors.row_count(self._warehouse.histories.name(made.stage))
        self._put()
        _, failed = publish_copy(self._config, self._warehouse)
        yield TableRebuilt(
            table=made.table,
            into=plan.into,
            since_lsn=made.since.lsn,
            lsn=plan.upto,
            rows=rows,
            versions=versions,
            changes=self._changes,
            seconds=time.monotonic() - self._started,
            notes=(*plan.notes, *([failed] if failed else [])),
        )

    def _apply(self, after: LSN, upto: LSN) -> Iterator[ChangesReplayed]:
        """Apply what the stream has brought behind an LSN, up to another."""
        made = self._plan.made
        for end in self._rebuilds.parts(made, after, upto):
            with self._warehouse.transaction():
                for rows in self._rebuilds.changes(made, after, end):
                    self._write(replayed(rows, made.shape))
                reached("rebuild_applied")
            yield ChangesReplayed(made.table, self._changes, end)
            after = end

    def _write(self, batch: ChangeBatch) -> None:
        plan, stage, shape = self._plan, self._plan.made.stage, self._plan.made.shape
        if plan.made.has_history:
            histories = self._warehouse.histories
            write_versions(histories, stage, shape, batch, written_lsn=self._written_lsn)
        self._changes += len(batch)
        self._written_lsn = int(batch.end_lsn[-1])
        is_told = not plan.lacks_rows(LSN(batch.end_lsn[0]), LSN(batch.end_lsn[-1]))
        for _, write in mirror_writes(batch, shape):
            told = write if is_told else replace(write, is_told=np.zeros_like(write.standing))
            found = self._warehouse.mirrors.write(stage, shape, told)
            wrong = found.wrong + int(found.lacking.sum())
            if is_told and wrong:
                raise _no_sum(plan.made.table, wrong, batch)

    def _put(self) -> None:
        plan, state = self._plan, self._warehouse.state
        with self._warehouse.transaction():
            if plan.into is not None:
                self._rebuilds.leave(plan.made, plan.into, plan.upto)
            else:
                self._rebuilds.put_in_place(plan.made)
                if plan.checkpoint.error:
                    state.write(replace(plan.checkpoint, error=""))
            state.renew_stamp()
            reached("rebuild_staged")
        reached("rebuild_placed")


def _no_sum(table: TableName, wrong: int, batch: ChangeBatch) -> TableError:
    first, last = LSN(batch.end_lsn[0]), LSN(batch.end_lsn[-1])
    return TableError(
        f"the changes of {str(table)!r} do not add up between {first} and {last}: of {wrong:,} "
        "keys a row is updated or deleted that is not there, or inserted that is",
        table=str(table),
        lsn=str(last),
        hint="somebody else wrote the change table; the mirror is as it was: " + recopy_hint(table),
    )
