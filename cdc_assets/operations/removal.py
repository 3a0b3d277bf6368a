"""Takes tables, or a whole pipeline, away again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName, record_table
from cdc_assets.operations.ownership import kept_names, read_owner
from cdc_assets.replication.journal import forget_journal
from cdc_assets.replication.ownership import refuse_other_warehouse
from cdc_assets.shaping.declarations import is_unmirrored
from cdc_assets.source import setup as source_setup
from cdc_assets.warehouse.base import Warehouse
from cdc_assets.warehouse.opening import wait_for_warehouse
from cdc_assets.warehouse.values import Checkpoint

_NAMED = 5  # tables by their names, before the rest is a number


@dataclass(frozen=True, slots=True)
class Removal:
    """What a teardown would take away, and what it would leave; a line each."""

    goes: tuple[str, ...]
    stays: tuple[str, ...]


def planned(config: PipelineConfig, *, drop_tables: bool = False) -> Removal:
    """Find out what `teardown` would do; nothing is changed.

    Raises:
        WrongWarehouseError: The slot serves another warehouse.
        CdcError: One of the ends can't be asked.
    """
    slot, publication = source_setup.what_exists(config)
    with _opened_warehouse(config) as warehouse:
        _refuse_others_slot(config, warehouse)
        tables = list(warehouse.state.read()) if warehouse else []
    goes, stays = list[str](), list[str]()
    if slot:
        goes.append(f"slot {config.source.slot!r}, and what it has not delivered yet")
    if publication:
        goes.append(f"publication {config.source.publication!r}")
    if tables:
        (goes if drop_tables else stays).append(f"in the warehouse: {_named(tables)}")
        goes.append("how far they are: only a new first copy of every table goes on from there")
    return Removal(tuple(goes), tuple(stays))


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
    with _opened_warehouse(config) as warehouse:
        if warehouse is None:
            return []
        done = _forget(warehouse, config, only=tables, drop=True)
        if drop_unknown:
            warehouse.state.refuse_other_owners(tables)
            for name in tables:
                kept = [record_table(name, keep) for keep in config.table(name).records]
                if config.table(name).keeps_mirror:
                    kept.insert(0, name)
                for table in filter(warehouse.mirrors.exists, kept):
                    warehouse.mirrors.drop(table)
                    warehouse.moments.drop(name)
                    done.append(f"dropped table {str(table)!r}, which had no checkpoint")
        return done


def teardown(config: PipelineConfig, *, drop_tables: bool = False) -> list[str]:
    """Remove the pipeline: slot, publication and checkpoints; the mirrors too with `drop_tables`.

    The warehouse is opened before the source is touched: it may be held by another process. From
    another warehouse than the one that the slot serves nothing is removed: that one could not go on
    without the slot.

    Returns:
        What was done, a line each.

    Raises:
        WrongWarehouseError: The slot serves another warehouse.
        CdcError: The slot is in use, or one of the ends refuses.
    """
    with _opened_warehouse(config) as warehouse:
        _refuse_others_slot(config, warehouse)
        done = source_setup.teardown(config)
        if warehouse is not None:
            done += _forget(warehouse, config, only=None, drop=drop_tables)
        return done


def _refuse_others_slot(config: PipelineConfig, warehouse: Warehouse | None) -> None:
    known = warehouse.state.warehouse_id() if warehouse is not None else None
    refuse_other_warehouse(config, read_owner(config), known)


def _named(tables: Collection[TableName]) -> str:
    names = [repr(str(table)) for table in tables]
    more = len(names) - _NAMED
    listed = ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    return f"table{'s' if len(names) > 1 else ''} {listed}"


@contextmanager
def _opened_warehouse(config: PipelineConfig) -> Iterator[Warehouse | None]:
    if not config.warehouse_path.exists():
        yield None
        return
    warehouse = wait_for_warehouse(config)
    try:
        yield warehouse
    finally:
        warehouse.close()


def _leave(warehouse: Warehouse, point: Checkpoint) -> None:
    """Forget how far a table is, and leave what is kept of it."""
    warehouse.copies.drop(point.table)
    for records in warehouse.records.values():
        if point.table in records.read():
            records.end(point.table, point.known_moment)
    warehouse.state.forget(point.table)


def _forget(
    warehouse: Warehouse,
    config: PipelineConfig,
    *,
    only: Collection[TableName] | None,
    drop: bool,
) -> list[str]:
    done = []
    with warehouse.transaction():
        for table, point in warehouse.state.read().items():
            if only is None or table in only:
                kept = kept_names(warehouse, point) if drop else ""
                if drop:
                    warehouse.drop(table, with_mirror=not is_unmirrored(point.shape))
                else:
                    _leave(warehouse, point)
                done.append(f"dropped {kept}checkpoint of {str(table)!r}")
    forget_journal(config, None if only is None else {str(table) for table in only})
    return done
