"""What an operator asks of a pipeline besides a sync: its problems, its state, its removal."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError, ConfigError, TableError, WarehouseBusyError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN, WalIdentity
from cdc_assets.session import (
    Session,
    open_mirrors,
    open_session,
    read_catalog,
    recopy_hint,
    shape_error,
)
from cdc_assets.source import setup as source_setup
from cdc_assets.source.connection import Connection, connect, fetch_one, translated
from cdc_assets.source.preflight import (
    publication_problems,
    server_problems,
    spare_slot_problems,
    table_problems,
)
from cdc_assets.source.setup import conninfo_of
from cdc_assets.source.slot import read_identity, read_slot
from cdc_assets.warehouse.base import Checkpoint
from cdc_assets.warehouse.checkpoints import Checkpoints
from cdc_assets.warehouse.duckdb import DuckDBMirrors


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
    except ConfigError:
        raise
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
    yield from spare_slot_problems(control)
    yield from table_problems(read_catalog(control, config), config.table_names).values()


def _session_problems(config: PipelineConfig) -> list[CdcError]:
    try:
        with open_session(config, serves_some=False) as session:
            return [*session.failed.values(), *_known_failures(session)]
    except CdcError as error:
        return [error]


def _known_failures(session: Session) -> Iterator[CdcError]:
    """Find tables that the next sync will leave behind, as far as that is known before it."""
    for table, checkpoint in session.checkpoints.items():
        if table in session.failed:
            continue
        altered = shape_error(session, table) if checkpoint.phase == "streaming" else None
        if altered is not None:
            yield altered
        elif checkpoint.error:
            yield TableError(
                f"the last sync left {str(table)!r} behind: {checkpoint.error}",
                table=str(table),
                hint="run 'cdc-assets sync' again if the cause is gone, or " + recopy_hint(table),
            )


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
    note, checkpoints, rows = _warehouse_state(config)
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
    )


def _warehouse_state(
    config: PipelineConfig,
) -> tuple[str, dict[TableName, Checkpoint], dict[TableName, int] | None]:
    """Read a note, the checkpoints and the mirrors' sizes; None where they can't be read now."""
    if not config.warehouse_path.exists():
        return "the warehouse does not exist yet: run 'cdc-assets sync'", {}, {}
    try:
        mirrors = open_mirrors(config, read_only=True)
    except WarehouseBusyError:
        return "the warehouse is in use, most likely by a run", {}, None
    try:
        checkpoints = Checkpoints(mirrors, config.name).read()
        rows = {table: mirrors.row_count(table) for table in checkpoints if mirrors.exists(table)}
    finally:
        mirrors.close()
    return "", checkpoints, rows


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


def forget_tables(
    config: PipelineConfig, tables: Collection[TableName], *, drop_unknown: bool = False
) -> list[str]:
    """Drop tables' mirrors and checkpoints, so that the next sync copies them anew.

    Args:
        config: The pipeline.
        tables: Which.
        drop_unknown: Whether to drop tables of these names, too, that have no checkpoint: mirrors
            that outlived their pipeline, or somebody's own.

    Returns:
        What was done, a line each.

    Raises:
        WarehouseError: The warehouse can't be opened, or a table belongs to another pipeline.
    """
    with _opened_warehouse(config) as mirrors:
        if mirrors is None:
            return []
        done = _forget(mirrors, config, only=tables, drop=True)
        if drop_unknown:
            Checkpoints(mirrors, config.name).refuse_other_owners(tables)
            for table in tables:
                if mirrors.exists(table):
                    mirrors.drop(table)
                    done.append(f"dropped table {str(table)!r}, which had no checkpoint")
        return done


def teardown(config: PipelineConfig, *, drop_tables: bool = False) -> list[str]:
    """Remove the pipeline: slot, publication and checkpoints; the mirrors too with `drop_tables`.

    The warehouse is opened before the source is touched: it may be held by another process.

    Returns:
        What was done, a line each.

    Raises:
        CdcError: The slot is in use, or one of the ends refuses.
    """
    with _opened_warehouse(config) as mirrors:
        done = source_setup.teardown(config)
        if mirrors is not None:
            done += _forget(mirrors, config, only=None, drop=drop_tables)
        return done


@contextmanager
def _opened_warehouse(config: PipelineConfig) -> Iterator[DuckDBMirrors | None]:
    if not config.warehouse_path.exists():
        yield None
        return
    mirrors = open_mirrors(config)
    try:
        yield mirrors
    finally:
        mirrors.close()


def _forget(
    mirrors: DuckDBMirrors,
    config: PipelineConfig,
    *,
    only: Collection[TableName] | None,
    drop: bool,
) -> list[str]:
    state, done = Checkpoints(mirrors, config.name), []
    with mirrors.transaction():
        for table in state.read():
            if only is None or table in only:
                state.forget(table)
                if drop:
                    mirrors.drop(table)
                what = "mirror and checkpoint" if drop else "checkpoint"
                done.append(f"dropped {what} of {str(table)!r}")
    return done
