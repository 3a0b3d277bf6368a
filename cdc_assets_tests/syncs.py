"""One run to its end, and what it said."""

from __future__ import annotations

from typing import Any

import duckdb

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import CdcError
from cdc_assets.identifiers import TableName
from cdc_assets.progress import SyncFinished
from cdc_assets.replication.sync import sync
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source


def sync_once(config: PipelineConfig) -> SyncFinished:
    """Run a sync to its end, whatever becomes of single tables."""
    *_, last = sync(config)
    assert isinstance(last, SyncFinished)
    return last


def sync_all(config: PipelineConfig) -> SyncFinished:
    """Run a sync in which no table fails."""
    finished = sync_once(config)
    assert {str(table.table): str(table.error) for table in finished.failed} == {}
    return finished


def errors_of(finished: SyncFinished) -> dict[str, CdcError]:
    """Give the errors of the tables that were left behind."""
    return {str(table.table): table.error for table in finished.failed if table.error is not None}


def converge(database: ScratchDatabase, config: PipelineConfig) -> SyncFinished:
    """Sync; afterwards source and warehouse are equal, and a second sync finds nothing to do."""
    finished = sync_all(config)
    assert_equal_to_source(database, config)
    return finished


def has_mirror(config: PipelineConfig, table: str) -> bool:
    """Whether a table has a mirror that a reader would find."""
    name = TableName.parse(table)
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        sql = "SELECT 1 FROM duckdb_tables() WHERE (schema_name, table_name) = (?, ?)"
        return bool(warehouse.execute(sql, (name.schema, name.name)).fetchall())


def mirror_rows(config: PipelineConfig, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
    """Read a mirror, sorted."""
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        sql = f"SELECT {columns} FROM {TableName.parse(table).sql} ORDER BY ALL"
        return warehouse.execute(sql).fetchall()


def query(config: PipelineConfig, sql: str) -> list[tuple[Any, ...]]:
    """Ask the warehouse."""
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        return warehouse.execute(sql).fetchall()


def kept(config: PipelineConfig, keep: list[str], **more: Any) -> PipelineConfig:
    """Give a pipeline whose tables all are kept so."""
    tables = [{"source": str(table), "keep": keep, **more} for table in config.table_names]
    return load_config(rewrite(config, tables=tables))
