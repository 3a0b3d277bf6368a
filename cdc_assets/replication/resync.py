"""All tables anew, in place, after the slot or the source's history was lost.

The mirrors keep their rows until the copies that are made of their tables are put in place, one
after the other. From the moment at which a table's checkpoint says that it is copied anew, any sync
goes on with it: a resync that is killed has begun what the next run ends.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import SlotInvalidatedError, SlotNotFoundError, SourceChangedError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN, WalIdentity
from cdc_assets.progress import RunMark, SyncEvent
from cdc_assets.replication.journal import read_journal
from cdc_assets.replication.ownership import refuse_other_warehouse
from cdc_assets.replication.sync import sync
from cdc_assets.source import setup as source_setup
from cdc_assets.source.connection import Connection, connect, translated
from cdc_assets.source.lock import lock_pipeline
from cdc_assets.source.ownership import mark_served, served_warehouse
from cdc_assets.source.setup import conninfo_of
from cdc_assets.source.slot import current_end, read_identity, read_slot, wait_until_free
from cdc_assets.warehouse.opening import open_warehouse
from cdc_assets.warehouse.values import Checkpoint
from cdc_assets.wording import counted


@dataclass(frozen=True, slots=True)
class Losses:
    """What was lost, and what a resync will do about it; a line each.

    Attributes:
        found: Empty where nothing is wrong.
        will: What a resync will do.
    """

    found: tuple[str, ...]
    will: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """What the source is now.

    Attributes:
        slot_problem: Why the slot is of no use, or empty.
        confirmed: Where it is; None where it is of no use.
    """

    identity: WalIdentity
    end: LSN
    slot_problem: str
    confirmed: LSN | None


def find_losses(config: PipelineConfig) -> Losses:
    """Find out whether changes were lost for all tables, without a write.

    Raises:
        WarehouseBusyError: A run holds the warehouse.
        WrongWarehouseError: The slot serves another warehouse.
        CdcError: One of the ends can't be asked.
    """
    slot = config.source.slot
    points: dict[TableName, Checkpoint] = {}
    with connect(conninfo_of(config)) as control, translated(slot):
        served = served_warehouse(control, slot)
        warehouse = None
        if config.warehouse_path.exists():
            opened = open_warehouse(config, read_only=True)
            try:
                warehouse, points = opened.state.warehouse_id(), opened.state.read()
            finally:
                opened.close()
        if served is not None:
            refuse_other_warehouse(config, served, warehouse)
        source = _look(control, slot)
    points = {table: points[table] for table in config.table_names if table in points}
    found = _found(config, source, points)
    if not found:
        return Losses((), ())
    lost = _lost(config, source, points)
    will = [f"drop slot {slot!r}"] if source.slot_problem and source.confirmed is None else []
    will = will if "does not exist" not in source.slot_problem else []
    if source.slot_problem:
        will.append(f"make slot {slot!r} anew")
    will.append(
        f"copy {counted(len(lost), 'table')} anew; mirrors keep their rows until each is replaced"
    )
    return Losses(tuple(found), tuple(will))


def resync(config: PipelineConfig) -> Generator[SyncEvent]:
    """Make the slot anew where it is lost, and copy every table in place that can't go on.

    Yields:
        What a sync yields.

    Raises:
        CdcError: One of the ends refuses.
    """
    begin_resync(config)
    yield from sync(config, run=RunMark("resync"))


def begin_resync(config: PipelineConfig) -> None:
    """Make the slot anew where it is lost, and say of every lost table that it is copied anew.

    Raises:
        CdcError: One of the ends refuses.
    """
    slot = config.source.slot
    with connect(conninfo_of(config)) as control, translated(slot):
        lock_pipeline(control, slot)
        before = _look(control, slot)
        if before.slot_problem:
            source_setup.drop_slot(control, slot)
    if before.slot_problem:
        source_setup.setup(config)
    with connect(conninfo_of(config)) as control, translated(slot):
        lock_pipeline(control, slot)
        wait_until_free(control, slot)
        now = _look(control, slot)
        warehouse = open_warehouse(config)
        try:
            state, copies = warehouse.state, warehouse.copies
            state.refuse_other_owners(config.table_names)
            points = state.read()
            warehouse.prepare()
            fences = state.read_fences()
            with warehouse.transaction():
                for table in _lost(config, before, points):
                    copies.drop(table)
                    point = points[table]
                    ends = table in fences or table in config.unmirrored
                    ends |= not _follows(point, now)
                    for records in warehouse.records.values():
                        if ends:
                            records.end(table, point.known_moment)
                        else:
                            records.pause(table, point.known_moment)
                    state.drop_fences(table)
                    state.write(_anew(point, now))
            if served_warehouse(control, slot) is None:
                mark_served(control, slot, state.warehouse_id())
        finally:
            warehouse.close()


def _anew(point: Checkpoint, source: _Source) -> Checkpoint:
    return replace(
        point,
        phase="copying",
        lsn=source.confirmed or source.end,
        identity=source.identity,
        last=None,
        error="",
    )


def _follows(point: Checkpoint, source: _Source) -> bool:
    """Whether all that happens on the source from now on is behind a checkpoint in its order."""
    before, now = point.identity, source.identity
    is_same = (before.system_identifier, before.database) == (now.system_identifier, now.database)
    return is_same and point.lsn <= source.end


def _look(control: Connection, slot: str) -> _Source:
    identity, end = read_identity(control, slot), current_end(control)
    try:
        confirmed = read_slot(control, slot).confirmed_lsn
    except (SlotNotFoundError, SlotInvalidatedError) as error:
        return _Source(identity, end, error.message, None)
    return _Source(identity, end, "", confirmed)


def _found(
    config: PipelineConfig, source: _Source, points: dict[TableName, Checkpoint]
) -> list[str]:
    found = [source.slot_problem] if source.slot_problem else []
    others = {point.identity for point in points.values() if point.identity != source.identity}
    for other in sorted(others, key=str):
        found.append(
            f"the warehouse's checkpoints are of system {other.system_identifier}, timeline "
            f"{other.timeline}, database {other.database!r}; the source is "
            f"{source.identity.system_identifier}, {source.identity.timeline}, "
            f"{source.identity.database!r}"
        )
    ahead = max((point.lsn for point in points.values()), default=LSN(0))
    if not others and ahead > source.end:
        found.append(
            f"the source's WAL ends at {source.end}, before the warehouse's checkpoint {ahead}: it "
            "was restored from an older copy"
        )
    passed = [
        table
        for table, point in points.items()
        if source.confirmed is not None and source.confirmed > point.lsn
    ]
    if not found and passed and len(passed) == len(points):
        found.append(f"slot {config.source.slot!r} is past the checkpoint of every table")
    if not found and points and (told := _told(config)):
        found.append(told)
    return found


def _told(config: PipelineConfig) -> str:
    """Give what the last run said, if it met another history than the one that was applied."""
    journal = read_journal(config)
    error = journal.run.error if journal is not None else None
    is_history = error is not None and error.kind == SourceChangedError.__name__
    return error.message if error is not None and is_history else ""


def _lost(
    config: PipelineConfig, source: _Source, points: dict[TableName, Checkpoint]
) -> list[TableName]:
    """Find the tables that can't go on: all of them, or those that the slot has passed."""
    known = [table for table in config.table_names if table in points]
    mine = {table: points[table] for table in known}
    if _found(config, source, mine):
        return known
    return [
        table
        for table in known
        if source.confirmed is not None and source.confirmed > points[table].lsn
    ]
