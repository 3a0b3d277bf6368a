"""Opens the warehouse that a config names: the only place that knows which kinds there are."""

from __future__ import annotations

from cdc_assets import waits
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import WarehouseBusyError
from cdc_assets.warehouse.base import Warehouse
from cdc_assets.warehouse.duckdb import DuckDBWarehouse
from cdc_assets.warehouse.file import DuckDBFile

_POLL_SECONDS = 0.1  # an attempt to open a file costs more than a question


def open_warehouse(
    config: PipelineConfig, *, read_only: bool = False, memory_bytes: int | None = None
) -> Warehouse:
    """Open a pipeline's warehouse.

    Args:
        config: The pipeline.
        read_only: Whether it is only read; then it must be there.
        memory_bytes: What it may use at first; opening it may take more.

    Raises:
        WarehouseBusyError: Somebody else holds it.
        WarehouseError: It can't be opened.
    """
    file = DuckDBFile(
        config.warehouse_path,
        read_only=read_only,
        memory_bytes=memory_bytes,
        most_memory_bytes=config.warehouse.duckdb.max_memory_bytes,
    )
    return DuckDBWarehouse(file, config.name)


def empty_warehouse(config: PipelineConfig) -> Warehouse:
    """Give what a pipeline's warehouse would be if it were made now; nothing of it stays."""
    return DuckDBWarehouse(DuckDBFile(None), config.name)


def wait_for_warehouse(config: PipelineConfig, memory_bytes: int | None = None) -> Warehouse:
    """Open a pipeline's warehouse for writing, and wait for who holds it.

    The pipeline's lock is held meanwhile: no other run could do anything either, and who asks
    finds that one is under way.

    Raises:
        WarehouseBusyError: It is held for longer than `warehouse.duckdb.wait_seconds`.
        WarehouseError: It can't be opened.
    """
    opened, busy = list[Warehouse](), list[WarehouseBusyError]()

    def opens() -> bool:
        try:
            opened.append(open_warehouse(config, memory_bytes=memory_bytes))
        except WarehouseBusyError as error:
            busy[:] = [error]
        return bool(opened)

    def who() -> str:
        by = f": {busy[0].holder}" if busy[0].holder else ""
        return f"warehouse {str(config.warehouse_path)!r}, which another process holds{by}"

    seconds = config.warehouse.duckdb.wait_seconds
    if not waits.until(opens, who, seconds=seconds, poll_seconds=_POLL_SECONDS):
        waited = f" (waited {seconds:g} s)" if seconds else ""
        raise WarehouseBusyError(
            f"{busy[0].message}{waited}",
            holder=busy[0].holder,
            waited_seconds=seconds,
            hint=busy[0].hint,
        ) from busy[0]
    return opened[0]
