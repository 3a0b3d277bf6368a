"""Whether the copy for readers is of now, what is said of it, and a new one in its place."""

from __future__ import annotations

from cdc_assets.config import PipelineConfig
from cdc_assets.warehouse.base import Published, Warehouse


def copy_state(config: PipelineConfig, warehouse: Warehouse) -> Published:
    """Compare the published copy with the warehouse; `current` where none is asked for."""
    if config.publish_path is None:
        return "current"
    return warehouse.published(config.publish_path)


def copy_note(config: PipelineConfig, warehouse: Warehouse) -> str:
    """Say what is wrong about the published copy between two runs, or nothing."""
    path = str(config.publish_path)
    match copy_state(config, warehouse):
        case "current":
            return ""
        case "absent":
            return f"no copy is published at {path!r} yet: a sync puts one there"
        case "behind":
            return f"the copy at {path!r} is older than the warehouse: the next sync replaces it"
        case "foreign":
            return _foreign(path)


def publish_copy(config: PipelineConfig, warehouse: Warehouse) -> tuple[str, str]:
    """Publish a copy if there is news; what is applied stays applied if that fails.

    Returns:
        Where a copy was put, or empty; and why none could be, or empty.

    Raises:
        WarehouseError: What the warehouse refused.
    """
    path, found = str(config.publish_path), copy_state(config, warehouse)
    if config.publish_path is None or found == "current":
        return "", ""
    if found == "foreign":
        return "", _foreign(path)
    try:
        warehouse.publish(config.publish_path)
    except OSError as error:
        reason = error.strerror or str(error)
        return "", f"no copy could be published at {path!r}: {reason}; what was there stays"
    return path, ""


def _foreign(path: str) -> str:
    return (
        f"{path!r} is no copy of this warehouse, or is open for writing, and was left alone: move "
        "it away, or choose another warehouse.duckdb.publish"
    )
