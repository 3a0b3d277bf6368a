"""What a run holds: its source session with the pipeline's lock, its open warehouse, its state.

Opening one is the cross-check of the two ends. The warehouse's checkpoint is the only truth; the
slot's position must be at or before it, and both must speak of the same server.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from cdc_assets import waits
from cdc_assets.changes.fence import Fence
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import (
    CdcError,
    MirrorRefusedError,
    SchemaChangeError,
    SlotAheadOfCheckpointError,
    SourceChangedError,
    TableError,
    WarehouseBusyError,
)
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN, WalIdentity
from cdc_assets.replication.ownership import refuse_other_warehouse
from cdc_assets.source.catalog import Catalog, SourceTable, read_catalog
from cdc_assets.source.connection import Connection, connect, translated
from cdc_assets.source.lock import lock_pipeline
from cdc_assets.source.ownership import Ownership, mark_served, served_warehouse
from cdc_assets.source.preflight import publication_problems, server_problems
from cdc_assets.source.refusals import ALL_ANEW
from cdc_assets.source.setup import conninfo_of
from cdc_assets.source.slot import (
    SlotState,
    confirm,
    current_end,
    read_identity,
    read_slot,
    wait_until_free,
)
from cdc_assets.source.tables import gone_problem, read_problems, table_problems
from cdc_assets.warehouse.base import Checkpoint
from cdc_assets.warehouse.checkpoints import Checkpoints
from cdc_assets.warehouse.duckdb import DuckDBMirrors
from cdc_assets.warehouse.memory import FIRST_BYTES

_WAREHOUSE_POLL_SECONDS = 0.1  # an attempt to open a file costs more than a question

RECOPY_ALL_HINT = f"copy every table anew: {ALL_ANEW}"


def recopy_hint(table: TableName) -> str:
    """Say how a table is brought back that can't go on from its checkpoint."""
    name = shlex.quote(str(table))
    return f"copy it anew: cdc-assets teardown --table {name}; cdc-assets sync"


@dataclass(slots=True)
class Session:
    """One run's two ends, open and checked against each other.

    Attributes:
        checkpoints: As the warehouse has them now; no entry for a table that was never copied.
        fences: Of the tables that have any.
        failed: Tables that this run has left behind.
    """

    config: PipelineConfig
    conninfo: str
    control: Connection
    mirrors: DuckDBMirrors
    state: Checkpoints
    identity: WalIdentity
    slot: SlotState
    catalog: Catalog
    checkpoints: dict[TableName, Checkpoint]
    fences: dict[TableName, list[Fence]] = field(default_factory=dict)
    failed: dict[TableName, CdcError] = field(default_factory=dict)

    def source_table(self, table: TableName) -> SourceTable:
        """Give the catalog's account of a table that passed the checks."""
        return self.catalog.tables[table]

    def fail(self, table: TableName, error: CdcError) -> None:
        """Leave a table behind at its checkpoint, and say so in the warehouse."""
        self.failed[table] = error
        checkpoint = self.checkpoints.get(table)
        if checkpoint is not None:
            with self.mirrors.transaction():
                self.put(replace(checkpoint, error=error.message))

    def put(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, inside a transaction."""
        self.state.write(checkpoint)
        self.checkpoints[checkpoint.table] = checkpoint

    def confirm(self) -> LSN:
        """Move the slot to the smallest checkpoint of the config's tables.

        A checkpoint that the slot has passed already holds nothing back: its changes are gone.
        """
        lsns = [checkpoint.lsn for checkpoint in self.checkpoints.values()]
        lsns = [lsn for lsn in lsns if lsn >= self.slot.confirmed_lsn]
        if lsns:
            confirmed = confirm(self.control, self.config.source.slot, min(lsns))
            self.slot = replace(self.slot, confirmed_lsn=confirmed)
        return self.slot.confirmed_lsn


def open_mirrors(
    config: PipelineConfig, *, read_only: bool = False, memory_bytes: int | None = None
) -> DuckDBMirrors:
    """Open the pipeline's warehouse.

    Raises:
        WarehouseError: It can't be opened.
    """
    return DuckDBMirrors(
        config.warehouse_path,
        read_only=read_only,
        memory_bytes=memory_bytes,
        most_memory_bytes=config.warehouse.duckdb.max_memory_bytes,
    )


def wait_for_mirrors(config: PipelineConfig, memory_bytes: int | None) -> DuckDBMirrors:
    """Open the pipeline's warehouse for writing, and wait for who holds it.

    The pipeline's lock is held meanwhile: no other run could do anything either, and who asks
    finds that one is under way.

    Raises:
        WarehouseBusyError: It is held for longer than `warehouse.duckdb.wait_seconds`.
        WarehouseError: It can't be opened.
    """
    opened, busy = list[DuckDBMirrors](), list[WarehouseBusyError]()

    def opens() -> bool:
        try:
            opened.append(open_mirrors(config, memory_bytes=memory_bytes))
        except WarehouseBusyError as error:
            busy[:] = [error]
        return bool(opened)

    def who() -> str:
        by = f": {busy[0].holder}" if busy[0].holder else ""
        return f"warehouse {str(config.warehouse_path)!r}, which another process holds{by}"

    seconds = config.warehouse.duckdb.wait_seconds
    if not waits.until(opens, who, seconds=seconds, poll_seconds=_WAREHOUSE_POLL_SECONDS):
        waited = f" (waited {seconds:g} s)" if seconds else ""
        raise WarehouseBusyError(
            f"{busy[0].message}{waited}",
            holder=busy[0].holder,
            waited_seconds=seconds,
            hint=busy[0].hint,
        ) from busy[0]
    return opened[0]


@contextmanager
def open_session(
    config: PipelineConfig,
    *,
    memory_bytes: int | None = None,
    locked: Callable[[int], None] = lambda _pid: None,
) -> Iterator[Session]:
    """Open both ends, take the pipeline's lock and check them against each other.

    Tables that can't go on are in `failed`; the session serves the others. From here on the slot
    serves this warehouse, if it served none yet.

    Args:
        config: The pipeline.
        memory_bytes: What the warehouse may use at first; by default little, or as much as was
            found to be needed before.
        locked: Called when the lock is taken, before the warehouse is opened, with the pid of the
            session on the source that holds it.

    Raises:
        WrongWarehouseError: The slot serves another warehouse; nothing was made or written.
        WarehouseMemoryError: The warehouse needs more memory; a new session may give it more.
        CdcError: Nothing can be replicated; says why and the way out.
    """
    conninfo, slot = conninfo_of(config), config.source.slot
    with connect(conninfo) as control, translated(slot):
        lock_pipeline(control, slot)
        locked(control.info.backend_pid)
        for problem in server_problems(control):
            raise problem
        catalog = read_catalog(control, config.source.publication, config.table_names)
        for problem in publication_problems(catalog, config.table_names):
            raise problem
        wait_until_free(control, slot)
        served = served_warehouse(control, slot)
        if not config.warehouse_path.exists():
            refuse_other_warehouse(config, served, None)  # before one is made
        opening = time.monotonic()
        mirrors = wait_for_mirrors(config, memory_bytes)
        try:
            if time.monotonic() - opening > waits.SAY_AFTER_SECONDS:  # it is as old as the wait
                catalog = read_catalog(control, config.source.publication, config.table_names)
            session = _compared(config, conninfo, control, mirrors, served, catalog)
            if len(session.failed) == len(config.table_names):
                raise next(iter(session.failed.values()))
            if served is None:
                _refuse_passed(session)
            state = session.state
            with mirrors.transaction():
                state.prepare()
            if served is None:
                mark_served(control, slot, state.warehouse_id())
            mirrors.allow_memory(state.memory_bytes())
            _keep_memory_bytes(session)
            session.fences = {table: state.read_fences(table) for table in session.checkpoints}
            yield session
            mirrors.write_log()
            _keep_memory_bytes(session)
        finally:
            mirrors.close()


@contextmanager
def look_at_both_ends(config: PipelineConfig) -> Iterator[Session]:
    """Check both ends against each other as a run does, without a lock and without a write.

    A warehouse that is not there is taken for an empty one, and not made.

    Raises:
        WarehouseBusyError: A run holds the warehouse.
        CdcError: Nothing can be replicated; says why and the way out.
    """
    conninfo, slot = conninfo_of(config), config.source.slot
    with connect(conninfo) as control, translated(slot):
        served = served_warehouse(control, slot)
        catalog = read_catalog(control, config.source.publication, config.table_names)
        if config.warehouse_path.exists():
            mirrors = open_mirrors(config, read_only=True)
        else:
            refuse_other_warehouse(config, served, None)
            mirrors = DuckDBMirrors(None)
        try:
            session = _compared(config, conninfo, control, mirrors, served, catalog)
            if served is None:
                _refuse_passed(session)
            yield session
        finally:
            mirrors.close()


def _compared(
    config: PipelineConfig,
    conninfo: str,
    control: Connection,
    mirrors: DuckDBMirrors,
    served: Ownership | None,
    catalog: Catalog,
) -> Session:
    """Read what both ends say, and compare it."""
    state, slot = Checkpoints(mirrors, config.name), config.source.slot
    refuse_other_warehouse(config, served, state.warehouse_id())
    state.refuse_other_owners(config.table_names)
    known = state.read()
    session = Session(
        config=config,
        conninfo=conninfo,
        control=control,
        mirrors=mirrors,
        state=state,
        identity=read_identity(control, slot),
        slot=read_slot(control, slot),
        catalog=catalog,
        checkpoints={name: known[name] for name in config.table_names if name in known},
    )
    _check(session)
    return session


def _refuse_passed(session: Session) -> None:
    """Check that a slot without a mark has not passed everything that this warehouse has.

    Then it has served another one, or was made anew.

    Raises:
        SlotAheadOfCheckpointError: It has.
    """
    gone = _gone_changes(session)
    if gone and len(gone) == len(session.checkpoints):
        raise next(iter(gone.values()))


def _keep_memory_bytes(session: Session) -> None:
    """Let the next run start with the memory that this one has needed."""
    needed = session.mirrors.memory_bytes
    if needed > max(session.state.memory_bytes(), FIRST_BYTES):
        with session.mirrors.transaction():
            session.state.keep_memory_bytes(needed)


def _check(session: Session) -> None:
    _check_identity(session)
    session.failed = {
        **_unreadable(session),
        **_left_over_mirrors(session),
        **table_problems(session.catalog, session.config.table_names),
        **_gone_tables(session),
        **_keys_made_anew(session),
        **_not_brought(session),
        **_gone_changes(session),
        **altered_mirrors(session.mirrors, session.checkpoints),
    }


def _check_identity(session: Session) -> None:
    here = session.identity
    for table, checkpoint in session.checkpoints.items():
        there = checkpoint.identity
        if there != here:
            raise SourceChangedError(
                f"the warehouse's checkpoint of {str(table)!r} is of {_describe(there)}, "
                f"the source is {_describe(here)}",
                hint="correct source.dsn; if the source was replaced on purpose, "
                + RECOPY_ALL_HINT,
            )
    end = current_end(session.control)
    ahead = [checkpoint for checkpoint in session.checkpoints.values() if checkpoint.lsn > end]
    if ahead:
        raise SourceChangedError(
            f"the source's WAL ends at {end}, before the warehouse's checkpoint {ahead[0].lsn}: "
            "it was restored from an older copy",
            hint=RECOPY_ALL_HINT,
        )


def _describe(identity: WalIdentity) -> str:
    return (
        f"system {identity.system_identifier}, timeline {identity.timeline}, "
        f"database {identity.database!r}, slot {identity.slot!r}"
    )


def _gone_changes(session: Session) -> dict[TableName, CdcError]:
    """Find tables whose next changes the slot can't give any more."""
    confirmed = session.slot.confirmed_lsn
    gone = [table for table, point in session.checkpoints.items() if confirmed > point.lsn]
    every = len(gone) == len(session.config.table_names)
    return {
        table: SlotAheadOfCheckpointError(
            f"slot {session.config.source.slot!r} is at {confirmed}, past the checkpoint "
            f"{session.checkpoints[table].lsn} of {str(table)!r} in the warehouse",
            hint="changes in between are gone: "
            + (RECOPY_ALL_HINT if every else recopy_hint(table)),
        )
        for table in gone
    }


def _unreadable(session: Session) -> dict[TableName, CdcError]:
    """Find tables that are to be copied and can't be read."""
    to_copy = (
        table
        for table in session.config.table_names
        if table not in session.checkpoints or session.checkpoints[table].phase == "copying"
    )
    found = {table: next(read_problems(session.catalog, table), None) for table in to_copy}
    return {table: problem for table, problem in found.items() if problem is not None}


def _gone_tables(session: Session) -> dict[TableName, CdcError]:
    """Find tables that have been dropped or got another name since they were copied."""
    found = {
        table: gone_problem(session.control, session.catalog, table, point.shape.oid)
        for table, point in session.checkpoints.items()
    }
    return {table: problem for table, problem in found.items() if problem is not None}


def _keys_made_anew(session: Session) -> dict[TableName, CdcError]:
    """Find tables whose changes on the slot may not have had one row per key."""
    sources = session.catalog.tables
    return {
        table: error
        for table, point in session.checkpoints.items()
        if table in sources
        and (sources[table].shape.oid, sources[table].shape.key)
        == (point.shape.oid, point.shape.key)
        and sources[table].shape.key_origin != point.shape.key_origin
        and (error := shape_error(session, table)) is not None
    }


def _left_over_mirrors(session: Session) -> dict[TableName, CdcError]:
    return {
        table: TableError(
            f"table {str(table)!r} exists in the warehouse without a checkpoint of this pipeline",
            table=str(table),
            hint="rename or drop it (cdc-assets teardown --drop-tables --table "
            f"{shlex.quote(str(table))}), then run 'cdc-assets sync' again",
        )
        for table in session.config.table_names
        if table not in session.checkpoints and session.mirrors.exists(table)
    }


def altered_mirrors(
    mirrors: DuckDBMirrors, checkpoints: Mapping[TableName, Checkpoint]
) -> dict[TableName, CdcError]:
    """Find mirrors that somebody else has altered, replaced or dropped."""
    shapes = {table: point.shape for table, point in checkpoints.items()}
    return {
        table: TableError(
            f"the mirror of {str(table)!r} {what}",
            table=str(table),
            hint="somebody else altered it: undo that, or " + recopy_hint(table),
        )
        for table, what in mirrors.altered(shapes).items()
    }


def _not_brought(session: Session) -> dict[TableName, CdcError]:
    """Find mirrors with a generated column that the stream does not bring, or not any more."""
    return {
        table: error
        for table, point in session.checkpoints.items()
        if (source := session.catalog.tables.get(table)) is not None
        and set(point.shape.names) & set(source.left_out)
        and (error := shape_error(session, table)) is not None
    }


@contextmanager
def refusals_of(table: TableName) -> Iterator[None]:
    """Blame a table for what its mirror refuses inside the block.

    Raises:
        TableError: Its mirror has a constraint, say, that a row breaks.
    """
    try:
        yield
    except MirrorRefusedError as error:
        raise TableError(
            error.message,
            table=str(table),
            hint="somebody else altered the mirror or gave it a constraint: undo that, or "
            + recopy_hint(table),
        ) from error


def shape_error(session: Session, table: TableName) -> TableError | None:
    """Say whether the source's table has got another shape than its mirror, and how."""
    mirror, source = session.checkpoints[table].shape, session.source_table(table)
    what = mirror.altered_to(source.shape)
    if not what:
        return None
    generated = sorted(set(mirror.names) & set(source.left_out))
    if generated:
        what = f"{generated[0]!r} is a generated column, which the stream does not bring"
    return SchemaChangeError(
        f"table {str(table)!r} was altered on the source: {what}",
        table=str(table),
        lsn=str(session.checkpoints[table].lsn),
        hint=recopy_hint(table),
    )
