"""Postgres change data capture as Dagster assets.

`PostgresCdcComponent` is the pipeline in Dagster; `sync` is the same pipeline in plain Python.
Dagster is imported only when the component is asked for, so the command line starts quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cdc_assets.config import PipelineConfig, load_config
    from cdc_assets.errors import CdcError
    from cdc_assets.lsn import LSN
    from cdc_assets.orchestration.component import PostgresCdcComponent
    from cdc_assets.replication.sync import sync

__all__ = ["LSN", "CdcError", "PipelineConfig", "PostgresCdcComponent", "load_config", "sync"]

_HOMES = {
    "LSN": "cdc_assets.lsn",
    "CdcError": "cdc_assets.errors",
    "PipelineConfig": "cdc_assets.config",
    "PostgresCdcComponent": "cdc_assets.orchestration.component",
    "load_config": "cdc_assets.config",
    "sync": "cdc_assets.replication.sync",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
