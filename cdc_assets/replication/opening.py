"""How a run opens its two ends, or a check looks at them: locked, compared, and closed again."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from cdc_assets import waits
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ReplicationError, WarehouseMemoryError
from cdc_assets.identifiers import TableName
from cdc_assets.progress import RunMark
from cdc_assets.replication.comparing import compare, refuse_passed
from cdc_assets.replication.evolving import is_mended
from cdc_assets.replication.names import take_names
from cdc_assets.replication.ownership import refuse_other_warehouse
from cdc_assets.replication.recording import end_recording, recorded_tables
from cdc_assets.replication.session import Session
from cdc_assets.replication.shaping import shapings
from cdc_assets.replication.tracing import note_lineage
from cdc_assets.replication.versions import code_version
from cdc_assets.source.catalog import Catalog, read_catalog
from cdc_assets.source.connection import Connection, connect, translated
from cdc_assets.source.lock import lock_pipeline
from cdc_assets.source.ownership import Ownership, mark_served, served_warehouse
from cdc_assets.source.preflight import publication_problems, server_problems
from cdc_assets.source.renamed import with_renamed
from cdc_assets.source.setup import conninfo_of
from cdc_assets.source.slot import read_identity, read_slot, wait_until_free
from cdc_assets.warehouse.base import Warehouse
from cdc_assets.warehouse.opening import empty_warehouse, open_warehouse, wait_for_warehouse

Event = TypeVar("Event")


def in_sessions(
    config: PipelineConfig,
    work: Callable[[Session], Iterator[Event]],
    *,
    run: RunMark,
    is_done: Callable[[], bool] = lambda: True,
    locked: Callable[[int], None] = lambda _pid: None,
    copies_anew: bool = False,
    takes_turns: bool = False,
) -> Generator[Event]:
    """Work in one session, and in another one while there is more to do.

    Where the warehouse lacked memory, the work goes on in a session that gives it more.

    Raises:
        CdcError: Nothing can be replicated, or both ends can't be used any more; what was given out
            stays durable.
    """
    memory_bytes: int | None = None
    while True:
        try:
            with open_session(
                config,
                run=run,
                memory_bytes=memory_bytes,
                locked=locked,
                copies_anew=copies_anew,
                takes_turns=takes_turns,
            ) as session:
                yield from work(session)
        except WarehouseMemoryError as error:
            if error.next_bytes is None:
                raise
            memory_bytes = error.next_bytes
        except MemoryError as error:
            raise ReplicationError(
                "the machine that runs this has no memory left for it",
                hint="nothing is lost: give it more, or run less beside it; long values take most, "
                "and a column list of the publication leaves them out",
            ) from error
        else:
            if is_done():
                return


@contextmanager
def open_session(
    config: PipelineConfig,
    *,
    run: RunMark,
    memory_bytes: int | None = None,
    locked: Callable[[int], None] = lambda _pid: None,
    copies_anew: bool = False,
    takes_turns: bool = False,
) -> Iterator[Session]:
    """Open both ends, take the pipeline's lock and check them against each other.

    Tables that can't go on are in `failed`; the session serves the others. From here on the slot
    serves this warehouse, if it served none yet.

    Args:
        config: The pipeline.
        run: What is noted of who writes.
        memory_bytes: What the warehouse may use at first; by default little, or as much as was
            found to be needed before.
        copies_anew: Whether tables that can't go on are no hindrance, as they are to be copied.
        takes_turns: Whether syncs go first, and may wait for this session to let go.
        locked: Called when the lock is taken, before the warehouse is opened, with the pid of the
            session on the source that holds it.

    Raises:
        WrongWarehouseError: The slot serves another warehouse; nothing was made or written.
        WarehouseMemoryError: The warehouse needs more memory; a new session may give it more.
        CdcError: Nothing can be replicated; says why and the way out.
    """
    conninfo, slot = conninfo_of(config), config.source.slot
    with connect(conninfo) as control, translated(slot):
        lock_pipeline(control, slot, takes_turns=takes_turns)
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
        warehouse = wait_for_warehouse(config, memory_bytes)
        try:
            if time.monotonic() - opening > waits.SAY_AFTER_SECONDS:  # it is as old as the wait
                catalog = read_catalog(control, config.source.publication, config.table_names)
            session = _compared(
                config, conninfo, control, warehouse, served, catalog, run, takes_names=True
            )
            lost = [one for one, why in session.failed.items() if not is_mended(session, one, why)]
            if len(lost) == len(config.table_names) and not copies_anew:
                raise next(iter(session.failed.values()))
            if served is None:
                refuse_passed(session)
            warehouse.prepare()
            with warehouse.transaction():
                session.notes += end_recording(session)
                note_lineage(session, _in_order(session))
            if served is None:
                mark_served(control, slot, session.state.warehouse_id())
            _read_progress(session)
            yield session
            warehouse.settle()
        finally:
            warehouse.close()


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
            warehouse = open_warehouse(config, read_only=True)
        else:
            refuse_other_warehouse(config, served, None)
            warehouse = empty_warehouse(config)
        try:
            mark = RunMark("sync")  # it writes nothing
            session = _compared(config, conninfo, control, warehouse, served, catalog, mark)
            if served is None:
                refuse_passed(session)
            yield session
        finally:
            warehouse.close()


def _compared(
    config: PipelineConfig,
    conninfo: str,
    control: Connection,
    warehouse: Warehouse,
    served: Ownership | None,
    catalog: Catalog,
    run: RunMark,
    *,
    takes_names: bool = False,
) -> Session:
    """Read what both ends say, and compare it."""
    state, slot = warehouse.state, config.source.slot
    identity = read_identity(control, slot)
    refuse_other_warehouse(config, served, state.warehouse_id())
    state.refuse_other_owners(config.table_names)
    known = state.read()
    notes = take_names(config, catalog, warehouse, identity, known, run) if takes_names else []
    if notes:
        known = state.read()
    oids = {name: point.shape.oid for name, point in known.items()}
    catalog = with_renamed(control, catalog, config, oids)
    session = Session(
        config=config,
        conninfo=conninfo,
        control=control,
        warehouse=warehouse,
        identity=identity,
        slot=read_slot(control, slot),
        catalog=catalog,
        shapings=shapings(
            config, catalog.tables, {name: point.shape for name, point in known.items()}
        ),
        checkpoints={name: known[name] for name in config.table_names if name in known},
        run=run,
        code_versions={name: code_version(config, name) for name in config.table_names},
        notes=notes,
    )
    session.recorded = recorded_tables(session)
    compare(session)
    return session


def _in_order(session: Session) -> list[TableName]:
    """Give the tables whose rows are what the config says."""
    return [
        table
        for table, point in session.checkpoints.items()
        if point.phase == "streaming" and table not in session.failed
    ]


def _read_progress(session: Session) -> None:
    """Read what is under way: rows that were read ahead of the stream, and copies."""
    state = session.state
    known = state.read()
    session.checkpoints = {
        table: replace(point, phase=known[table].phase)
        for table, point in session.checkpoints.items()
        if table in known
    }
    fences = state.read_fences()
    session.fences = {table: fences.get(table, []) for table in session.checkpoints}
    for copy in session.copy_state.read():
        if copy.table in session.checkpoints:
            session.copies[copy.table, copy.part] = copy
            session.chunk_fences[copy.table, copy.part] = session.copy_state.fences(copy)
