"""A slot belongs to one warehouse: any other would take its changes away from the right one."""

from __future__ import annotations

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import WrongWarehouseError
from cdc_assets.source.ownership import Ownership


def ownership_problem(
    config: PipelineConfig, served: Ownership | None, warehouse: str | None
) -> WrongWarehouseError | None:
    """Say whether the slot serves another warehouse than the one at the config's path.

    Args:
        config: The pipeline.
        served: Which warehouse the slot serves, as the source has it.
        warehouse: The id of the one at the config's path; None where there is none, or where it was
            never told one.
    """
    if served is None or served.warehouse == warehouse:
        return None
    path, since = str(config.warehouse_path), f"{served.since:%Y-%m-%d %H:%M:%S %Z}"
    if config.warehouse_path.exists():
        message = (
            f"slot {served.slot!r} serves another warehouse since {since}, not the one at {path!r}"
        )
        first = "correct warehouse.duckdb.path"
    else:
        message = (
            f"slot {served.slot!r} serves a warehouse since {since} that is not at {path!r}: "
            "is its volume mounted?"
        )
        first = "mount it, or correct warehouse.duckdb.path"
    return WrongWarehouseError(
        message,
        hint=f"{first}; only if this one is to take the other's place, which can't go on then: "
        "cdc-assets setup --take-over",
    )


def refuse_other_warehouse(
    config: PipelineConfig, served: Ownership | None, warehouse: str | None
) -> None:
    """Check that the slot serves the warehouse at the config's path, or none yet.

    Raises:
        WrongWarehouseError: It serves another one; says which file this is and both ways out.
    """
    problem = ownership_problem(config, served, warehouse)
    if problem is not None:
        raise problem
