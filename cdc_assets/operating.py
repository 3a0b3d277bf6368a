"""What an operator asks of a pipeline besides a sync: its problems, its state, its removal."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError, WarehouseBusyError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.session import open_mirrors, open_session, read_catalog
from cdc_assets.source import setup as source_setup
from cdc_assets.source.connection import Connection, connect, fetch_one, translated
from cdc_assets.source.preflight import publication_problems, server_problems, table_problems
from cdc_assets.source.setup import conninfo_of
from cdc_assets.source.slot import read_slot
from cdc_assets.warehouse.base import Checkpoint
from cdc_assets.warehouse.checkpoints import Checkpoints


@dataclass(frozen=True, slots=True)
class TableStatus:
    """How far one table is."""

    table: TableName
    phase: str  # missing, copying or streaming
    confirmed_lsn: LSN | None
    lag_bytes: int | None
    rows: int | None
    error: str


@dataclass(frozen=True, slots=True)
class PipelineStatus:
    """How far a pipeline is.

    Attributes:
        retained_bytes: WAL that the source keeps for the slot.
        warehouse_note: Why the warehouse's part is missing, or empty.
    """

    pipeline: str
    source_lsn: LSN
    slot_lsn: LSN
    retained_bytes: int
    wal_status: str
    warehouse_note: str
    tables: tuple[TableStatus, ...]


def find_problems(config: PipelineConfig) -> list[CdcError]:
    """Look for everything that would keep a sync from running, and for all of it at once."""
    try:
        with connect(conninfo_of(config)) as control, translated(config.source.slot):
            problems = list(_source_problems(control, config))
    except CdcError as error:
        problems = [error]  # without the source nothing else of it can be checked
    return problems or _session_problems(config)


def _source_problems(control: Connection, config: PipelineConfig) -> Iterator[CdcError]:
    yield from server_problems(control)
    yield from publication_problems(control, config.source.publication)
    try:
        read_slot(control, config.source.slot)
    except CdcError as error:
        yield error
    yield from table_problems(read_catalog(control, config), config.table_names).values()


def _session_problems(config: PipelineConfig) -> list[CdcError]:
    try:
        with open_session(config) as session:
            return list(session.failed.values())
    except CdcError as error:
        return [error]


def read_status(config: PipelineConfig) -> PipelineStatus:
    """Read how far the pipeline is, from both ends, without the pipeline's lock.

    Raises:
        CdcError: The source can't be asked.
    """
    slot = config.source.slot
    with connect(conninfo_of(config)) as control, translated(slot):
        end = LSN.parse(fetch_one(control, "SELECT pg_current_wal_lsn()::text")[0])
        state = read_slot(control, slot)
    note, checkpoints, rows = _warehouse_state(config)
    return PipelineStatus(
        pipeline=config.name,
        source_lsn=end,
        slot_lsn=state.confirmed_lsn,
        retained_bytes=end - state.restart_lsn,
        wal_status=state.wal_status,
        warehouse_note=note,
        tables=tuple(
            _table_status(table, checkpoints.get(table), rows.get(table), end)
            for table in config.table_names
        ),
    )


def _warehouse_state(
    config: PipelineConfig,
) -> tuple[str, dict[TableName, Checkpoint], dict[TableName, int]]:
    if not config.warehouse_path.exists():
        return "the warehouse does not exist yet: run 'cdc-assets sync'", {}, {}
    try:
        mirrors = open_mirrors(config, read_only=True)
    except WarehouseBusyError:
        return "the warehouse is in use, most likely by a run", {}, {}
    try:
        checkpoints = Checkpoints(mirrors, config.name).read()
        rows = {table: mirrors.row_count(table) for table in checkpoints if mirrors.exists(table)}
    finally:
        mirrors.close()
    return "", checkpoints, rows


def _table_status(
    table: TableName, checkpoint: Checkpoint | None, rows: int | None, end: LSN
) -> TableStatus:
    if checkpoint is None:
        return TableStatus(table, "missing", None, None, None, "")
    lag = max(0, end - checkpoint.lsn)
    return TableStatus(table, checkpoint.phase, checkpoint.lsn, lag, rows, checkpoint.error)


def forget_tables(config: PipelineConfig, tables: Collection[TableName]) -> list[str]:
    """Drop tables' mirrors and checkpoints, so that the next sync copies them anew.

    Raises:
        WarehouseError: The warehouse can't be opened.
    """
    return _forget(config, tables, drop=True)


def teardown(config: PipelineConfig, *, drop_tables: bool = False) -> list[str]:
    """Remove the pipeline: slot, publication and checkpoints; the mirrors too with `drop_tables`.

    Returns:
        What was done, a line each.

    Raises:
        CdcError: The slot is in use, or one of the ends refuses.
    """
    done = source_setup.teardown(config)
    return done + _forget(config, None, drop=drop_tables)


def _forget(
    config: PipelineConfig, tables: Collection[TableName] | None, *, drop: bool
) -> list[str]:
    if not config.warehouse_path.exists():
        return []
    mirrors = open_mirrors(config)
    done = []
    try:
        state = Checkpoints(mirrors, config.name)
        with mirrors.transaction():
            known = state.read()
            for table in known if tables is None else [name for name in tables if name in known]:
                state.forget(table)
                if drop:
                    mirrors.drop(table)
                what = "mirror and checkpoint" if drop else "checkpoint"
                done.append(f"dropped {what} of {str(table)!r}")
    finally:
        mirrors.close()
    return done
