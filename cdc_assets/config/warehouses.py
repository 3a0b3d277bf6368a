"""What a config may say of the warehouse."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from cdc_assets.config.strict import Strict
from cdc_assets.config.variables import FromEnvironment

MIN_MAX_MEMORY_BYTES = 134_217_728


class DuckDBConfig(Strict):
    """A DuckDB file; a relative path starts at the project's root."""

    path: Annotated[
        str,
        Field(
            min_length=1,
            description="The file. A relative path starts at the project's root.",
            examples=["data/shop.duckdb"],
        ),
        FromEnvironment,
    ]
    max_memory_bytes: Annotated[
        Annotated[int, Field(ge=MIN_MAX_MEMORY_BYTES)] | None,
        Field(
            description="The most memory that DuckDB may use. By default it starts with 128 MB and"
            " gets more when it needs it.",
            examples=[2_147_483_648],
        ),
    ] = None
    wait_seconds: Annotated[
        float,
        Field(
            ge=0,
            description="How long a run waits for a file that another process has open.",
            examples=[120],
        ),
    ] = 120
    publish: Annotated[
        Annotated[str, Field(min_length=1), FromEnvironment] | None,
        Field(
            description="Where a copy of the file is put after each run that changed something, for"
            " readers that must not collide with syncs.",
            examples=["data/shop_published.duckdb"],
        ),
    ] = None

    @model_validator(mode="after")
    def _publishes_elsewhere(self) -> DuckDBConfig:
        if self.publish is not None and _normal(self.publish) == _normal(self.path):
            raise ValueError("publish: expected another file than path")
        return self


def _normal(path: str) -> Path:
    return Path(os.path.normpath(Path(path).expanduser()))


class WarehouseConfig(Strict):
    """The warehouse's end."""

    duckdb: Annotated[
        DuckDBConfig,
        Field(
            description="A DuckDB file. One process at a time can open it.",
            examples=[{"path": "data/shop.duckdb"}],
        ),
    ]
