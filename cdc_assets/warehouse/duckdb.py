"""A DuckDB file as warehouse."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cdc_assets.config.tables import CHANGES, HISTORY
from cdc_assets.identifiers import TableName
from cdc_assets.warehouse.base import Published, Records
from cdc_assets.warehouse.change_tables import ChangeTables
from cdc_assets.warehouse.checkpoints import Checkpoints
from cdc_assets.warehouse.copies import Copies
from cdc_assets.warehouse.enriched import Enriched
from cdc_assets.warehouse.evolutions import Evolutions
from cdc_assets.warehouse.file import DuckDBFile
from cdc_assets.warehouse.histories import Histories
from cdc_assets.warehouse.memory import FIRST_BYTES
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.moments import Moments
from cdc_assets.warehouse.plans import BucketPlans
from cdc_assets.warehouse.publishing import published_state
from cdc_assets.warehouse.rebuilds import Rebuilds
from cdc_assets.warehouse.retention import Retention
from cdc_assets.warehouse.stages import Stages
from cdc_assets.warehouse.traces import Traces


class DuckDBWarehouse:
    """One pipeline's part of an open file; what it promises stands in `warehouse.base`."""

    def __init__(self, file: DuckDBFile, pipeline: str) -> None:
        self._file = file
        self.mirrors = DuckDBMirrors(file)
        self.stages = Stages(self.mirrors)
        self.enriched = Enriched(self.mirrors)
        self.state = Checkpoints(self.mirrors, pipeline)
        self.copies = Copies(self.mirrors, pipeline)
        self.change_tables = ChangeTables(self.mirrors, pipeline)
        self.histories = Histories(self.mirrors, pipeline)
        self.evolutions = Evolutions(self.mirrors, pipeline)
        self.moments = Moments(self.mirrors, pipeline, self.change_tables, self.histories)
        self.traces = Traces(self.mirrors, pipeline)
        self.rebuilds = Rebuilds(self.mirrors, pipeline, self.change_tables, self.histories)
        self.retention = Retention(self.mirrors, pipeline, self.change_tables, self.rebuilds)
        self.plans = BucketPlans(self.mirrors, pipeline)

    @property
    def records(self) -> Mapping[str, Records]:
        """All that is kept beside mirrors, by its name in `keep`."""
        return {CHANGES: self.change_tables, HISTORY: self.histories}

    @property
    def spool(self) -> Path:
        """The file's folder."""
        return self._file.path.parent

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run a block in one transaction."""
        with self._file.transaction():
            yield

    def drop(self, table: TableName, *, with_mirror: bool) -> None:
        """Drop all that is kept of a table, inside a transaction."""
        self.copies.drop(table)
        self.rebuilds.drop(table)
        self.moments.drop(table)
        for records in self.records.values():
            records.drop(table)
        if with_mirror:
            self.mirrors.drop(table)
        self.state.forget(table)

    def move(self, table: TableName, to: TableName) -> None:
        """Give all that is kept of a table another name, inside a transaction."""
        self.copies.drop(table)
        self.moments.drop(table)
        for records in self.records.values():
            records.move(table, to)
        if self.mirrors.exists(table):
            self.mirrors.move(table, to)
        self.state.move(table, to)

    def prepare(self) -> None:
        """Make the state tables, and allow the memory that this file was found to need."""
        with self.transaction():
            self.state.prepare()
            self.traces.prepare()
            self.evolutions.prepare()
        self._file.allow_memory(self.state.memory_bytes())
        self._keep_memory_bytes()

    def settle(self) -> None:
        """Write DuckDB's log into the file."""
        self._file.write_log()
        self._keep_memory_bytes()

    def _keep_memory_bytes(self) -> None:
        """Let the next run start with the memory that this one has needed."""
        needed = self._file.memory_bytes
        if needed > max(self.state.memory_bytes(), FIRST_BYTES):
            with self.transaction():
                self.state.keep_memory_bytes(needed)

    def published(self, target: Path) -> Published:
        """Compare the published copy with the file."""
        return published_state(
            target,
            source=self._file.path,
            warehouse=self.state.warehouse_id(),
            stamp=self.state.content_stamp(),
        )

    def publish(self, target: Path) -> None:
        """Put a copy of the file in a target's place."""
        self._file.publish(target)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
