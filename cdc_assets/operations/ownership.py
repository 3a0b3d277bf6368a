"""Makes a pipeline's slot, and makes it serve another warehouse where that is asked for."""

from __future__ import annotations

from cdc_assets.config import PipelineConfig
from cdc_assets.config.tables import RECORDS
from cdc_assets.lsn import LSN, WalIdentity
from cdc_assets.replication.journal import read_journal
from cdc_assets.replication.ownership import refuse_other_warehouse
from cdc_assets.shaping.declarations import is_unmirrored
from cdc_assets.source import setup as source_setup
from cdc_assets.source.connection import connect, translated
from cdc_assets.source.lock import lock_pipeline
from cdc_assets.source.ownership import Ownership, mark_served, served_warehouse
from cdc_assets.source.setup import conninfo_of
from cdc_assets.source.slot import current_end, read_identity, wait_until_free
from cdc_assets.warehouse.base import Warehouse
from cdc_assets.warehouse.opening import open_warehouse
from cdc_assets.warehouse.values import Checkpoint


def read_owner(config: PipelineConfig) -> Ownership | None:
    """Ask the source which warehouse the pipeline's slot serves.

    Raises:
        CdcError: The source can't be asked.
    """
    slot = config.source.slot
    with connect(conninfo_of(config)) as control, translated(slot):
        return served_warehouse(control, slot)


def setup(config: PipelineConfig, *, take_over: bool = False) -> list[str]:
    """Create what is missing of publication and slot; safe to repeat.

    Args:
        config: The pipeline.
        take_over: Whether the slot is to serve this warehouse, whichever it served before.

    Returns:
        What was done, a line each; empty when nothing was missing.

    Raises:
        WrongWarehouseError: The slot serves another warehouse, and is not to be taken over.
        CdcError: The source is not fit, or one of the ends refuses.
    """
    if not take_over:
        served = read_owner(config)
        refuse_other_warehouse(config, served, _known_id(config) if served else None)
    journal = read_journal(config)
    done = source_setup.setup(config, journal.oids if journal else None)
    return [*done, *_take_over(config)] if take_over else done


def _known_id(config: PipelineConfig) -> str | None:
    if not config.warehouse_path.exists():
        return None
    warehouse = open_warehouse(config, read_only=True)
    try:
        return warehouse.state.warehouse_id()
    finally:
        warehouse.close()


def _take_over(config: PipelineConfig) -> list[str]:
    """Make the slot serve this warehouse.

    First this warehouse forgets the tables that the slot can't bring on: they were of no use to it,
    whoever owns the slot. The mark is last: a take-over that is killed before it has taken nothing,
    and one that is repeated finishes it.
    """
    slot = config.source.slot
    with connect(conninfo_of(config)) as control, translated(slot):
        lock_pipeline(control, slot)
        confirmed = wait_until_free(control, slot).confirmed_lsn
        identity, end = read_identity(control, slot), current_end(control)
        served = served_warehouse(control, slot)
        warehouse = open_warehouse(config)
        try:
            state = warehouse.state
            state.refuse_other_owners(config.table_names)
            points = state.read()
            ended = [
                table
                for table in config.table_names
                if table in points and not _goes_on(points[table], identity, confirmed, end)
            ]
            warehouse.prepare()
            dropped = [
                f"dropped {kept_names(warehouse, points[table])}checkpoint of {str(table)!r}"
                for table in ended
            ]
            with warehouse.transaction():
                for table in ended:
                    is_mirrored = not is_unmirrored(points[table].shape)
                    warehouse.drop(table, with_mirror=is_mirrored)
            own = state.warehouse_id()
            if served is None or served.warehouse != own:
                mark_served(control, slot, own)
            taken = "" if served is None or served.warehouse == own else ", no other one any more"
            return [
                *dropped,
                f"slot {slot!r} serves {str(config.warehouse_path)!r}{taken}",
            ]
        finally:
            warehouse.close()


def kept_names(warehouse: Warehouse, point: Checkpoint) -> str:
    """Name what is kept of a table, before its checkpoint: `mirror, history and `."""
    names = [] if is_unmirrored(point.shape) else ["mirror"]
    names += [
        RECORDS[keep]
        for keep, records in warehouse.records.items()
        if records.names([point.table])[point.table]
    ]
    return ", ".join(names) + " and " if names else ""


def _goes_on(point: Checkpoint, identity: WalIdentity, confirmed: LSN, end: LSN) -> bool:
    return point.identity == identity and confirmed <= point.lsn <= end
