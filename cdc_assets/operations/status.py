"""How far a pipeline is, told from both ends."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError, WarehouseBusyError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN, WalIdentity
from cdc_assets.replication.ownership import ownership_problem
from cdc_assets.replication.session import altered_mirrors, open_mirrors
from cdc_assets.source.connection import connect, fetch_one, translated
from cdc_assets.source.ownership import Ownership, served_warehouse
from cdc_assets.source.setup import conninfo_of
from cdc_assets.source.slot import read_identity, read_slot
from cdc_assets.warehouse.base import Checkpoint
from cdc_assets.warehouse.checkpoints import Checkpoints


@dataclass(frozen=True, slots=True)
class TableStatus:
    """How far one table is."""

    table: TableName
    phase: str  # missing, copying or streaming; unknown while the warehouse is in use
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
        problem: The slot serves another warehouse than the config's.
    """

    pipeline: str
    source_lsn: LSN
    slot_lsn: LSN
    retained_bytes: int
    wal_status: str
    warehouse_note: str
    tables: tuple[TableStatus, ...]
    problem: CdcError | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    end_lsn: LSN
    slot_lsn: LSN
    identity: WalIdentity


def read_status(config: PipelineConfig) -> PipelineStatus:
    """Read how far the pipeline is, from both ends, without the pipeline's lock.

    Raises:
        CdcError: The source can't be asked.
    """
    slot = config.source.slot
    with connect(conninfo_of(config)) as control, translated(slot):
        end = LSN.parse(fetch_one(control, "SELECT pg_current_wal_lsn()::text")[0])
        state, identity = read_slot(control, slot), read_identity(control, slot)
        served = served_warehouse(control, slot)
    note, checkpoints, rows, problem = _warehouse_state(config, served)
    source = _Source(end, state.confirmed_lsn, identity)
    absent = "missing" if rows is not None else "unknown"
    return PipelineStatus(
        pipeline=config.name,
        source_lsn=end,
        slot_lsn=state.confirmed_lsn,
        retained_bytes=end - state.restart_lsn,
        wal_status=state.wal_status,
        warehouse_note=note,
        tables=tuple(
            _table_status(table, checkpoints[table], (rows or {}).get(table), source)
            if table in checkpoints
            else TableStatus(table, absent, None, None, None, "")
            for table in config.table_names
        ),
        problem=problem,
    )


def _warehouse_state(
    config: PipelineConfig, served: Ownership | None
) -> tuple[str, dict[TableName, Checkpoint], dict[TableName, int] | None, CdcError | None]:
    """Read a note, the checkpoints, the mirrors' sizes (None: not now), and whose the slot is."""
    if not config.warehouse_path.exists():
        problem = ownership_problem(config, served, None)
        absent = "the warehouse does not exist yet: run 'cdc-assets sync'"
        return "" if problem else absent, {}, {}, problem
    try:
        mirrors = open_mirrors(config, read_only=True)
    except WarehouseBusyError:
        return "the warehouse is in use, most likely by a run", {}, None, None
    try:
        state = Checkpoints(mirrors, config.name)
        problem = ownership_problem(config, served, state.warehouse_id())
        checkpoints = state.read()
        rows = {table: mirrors.row_count(table) for table in checkpoints if mirrors.exists(table)}
        for table, error in altered_mirrors(mirrors, checkpoints).items():
            checkpoints[table] = replace(checkpoints[table], error=error.message)
    finally:
        mirrors.close()
    return "", checkpoints, rows, problem


def _table_status(
    table: TableName, checkpoint: Checkpoint, rows: int | None, source: _Source
) -> TableStatus:
    lag = max(0, source.end_lsn - checkpoint.lsn)
    error = checkpoint.error
    if checkpoint.identity != source.identity:
        error = "its checkpoint is of another server, timeline or database: see 'cdc-assets check'"
    elif source.slot_lsn > checkpoint.lsn:
        error = "the slot is past its checkpoint, changes are gone: see 'cdc-assets check'"
    return TableStatus(table, checkpoint.phase, checkpoint.lsn, lag, rows, error)
