"""What a pipeline's config may hold, and what each key means."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    model_validator,
)

from cdc_assets.config.cron import EVERY_MINUTE, checked_cron, checked_timezone, longest_gap
from cdc_assets.config.strict import Strict
from cdc_assets.config.tables import TableConfig, checked_tables
from cdc_assets.config.variables import EnvironmentVariable, FromEnvironment, read_variable
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import TableName, nearest

COMPONENT_TYPE = "cdc_assets.PostgresCdcComponent"
DEFAULT_MAX_WAL_BYTES = 268_435_456
MIN_MAX_WAL_BYTES = 1_048_576
MIN_MAX_MEMORY_BYTES = 134_217_728


def _slot_name(text: str) -> str:
    if not 0 < len(text) < 64 or set(text) - set("abcdefghijklmnopqrstuvwxyz0123456789_"):
        raise ValueError("a slot's name has lower case letters, digits and _, 63 at the most")
    return text


def _pipeline_name(text: str) -> str:
    if not text.isidentifier() or not text.isascii():
        raise ValueError("a pipeline's name has letters, digits and _, and starts with a letter")
    return text


def _secret_kind(value: object) -> str:
    return "Variable" if isinstance(value, (dict, EnvironmentVariable)) else "Literal"


class SourceConfig(Strict):
    """The Postgres end: where it is, and its slot and publication."""

    dsn: Annotated[
        Annotated[SecretStr, Tag("Literal")] | Annotated[EnvironmentVariable, Tag("Variable")],
        Discriminator(_secret_kind),
        Field(
            description="Where the source is: a libpq URI or keyword string. It holds a password,"
            " so it belongs in an environment variable, which a run needs, and the health sensor.",
            examples=[{"env": "SHOP_SOURCE_DSN"}],
        ),
    ]
    slot: Annotated[
        str,
        AfterValidator(_slot_name),
        FromEnvironment,
        Field(
            description="The replication slot, which `cdc-assets setup` makes. One pipeline and one"
            " warehouse read it.",
            examples=["shop_cdc"],
        ),
    ]
    publication: Annotated[
        str,
        Field(
            min_length=1,
            max_length=63,
            description="The publication of the tables, which `cdc-assets setup` makes.",
            examples=["shop_cdc"],
        ),
        FromEnvironment,
    ]

    def conninfo(self) -> str:
        """Give the libpq connection string.

        Raises:
            ConfigError: The environment variable is not set.
        """
        if isinstance(self.dsn, SecretStr):
            return self.dsn.get_secret_value()
        value = os.environ.get(self.dsn.env)
        if not value:
            raise ConfigError(
                f"environment variable {self.dsn.env!r} for source.dsn is not set",
                hint=f"export {self.dsn.env}='postgresql://user:password@host:5432/database'",
            )
        return value


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


class WindowConfig(Strict):
    """How much one window may read."""

    max_wal_bytes: Annotated[
        int,
        Field(
            ge=MIN_MAX_WAL_BYTES,
            description="How much WAL one window reads at the most: more is faster, and costs"
            " memory and disk on the source.",
            examples=[DEFAULT_MAX_WAL_BYTES],
        ),
    ] = DEFAULT_MAX_WAL_BYTES


class ScheduleConfig(Strict):
    """When syncs start; a text alone is the cron expression."""

    cron: Annotated[
        str,
        AfterValidator(checked_cron),
        FromEnvironment,
        Field(
            description="When a sync starts. A tick is skipped while a run is queued or running.",
            examples=["*/5 * * * *", "@hourly"],
        ),
    ]
    timezone: Annotated[
        str,
        AfterValidator(checked_timezone),
        FromEnvironment,
        Field(description="The time zone of `cron`.", examples=["Europe/Zurich"]),
    ] = "UTC"
    start: Annotated[
        Literal["running", "stopped"],
        FromEnvironment,
        Field(
            description="Whether schedule and health sensor are on when nobody has switched them.",
            examples=["running", {"env": "SHOP_SCHEDULE"}],
        ),
    ] = "running"

    @property
    def longest_gap(self) -> timedelta:
        """The longest time between two syncs that start."""
        return longest_gap(self.cron, self.timezone)


def _schedule(value: object) -> object:
    value = read_variable(value)
    return {"cron": checked_cron(value)} if isinstance(value, str) else value


Schedule = Annotated[
    ScheduleConfig | None,
    BeforeValidator(
        _schedule, json_schema_input_type=str | EnvironmentVariable | ScheduleConfig | None
    ),
]
DEFAULT_SCHEDULE = ScheduleConfig(cron=EVERY_MINUTE)


class ReconcileConfig(Strict):
    """When mirrors are compared with the source, and how much of them."""

    schedule: Annotated[
        ScheduleConfig,
        BeforeValidator(
            _schedule, json_schema_input_type=str | EnvironmentVariable | ScheduleConfig
        ),
        Field(
            description="When mirrors are compared with the source: a cron expression in UTC, or in"
            " a time zone.",
            examples=["0 3 * * *"],
        ),
    ]
    sample: Annotated[
        float,
        FromEnvironment,
        Field(
            gt=0,
            le=1,
            description="Which share of each table's buckets is compared each time, drawn anew.",
            examples=[0.1],
        ),
    ] = 1.0


class HealthConfig(Strict):
    """From where on the slot's health is reported: past it a warning, past twice of it an error."""

    lag_bytes: Annotated[
        int,
        Field(
            gt=0,
            description="WAL between what is confirmed and the source's end.",
            examples=[1_073_741_824],
        ),
    ] = 1_073_741_824
    lag_seconds: Annotated[
        Annotated[float, Field(gt=0)] | None,
        Field(
            description="How old a mirror may be. By default twice the schedule's longest gap and a"
            " quarter of an hour.",
            examples=[900],
        ),
    ] = None
    retained_bytes: Annotated[
        int,
        Field(
            gt=0, description="WAL that the source keeps for the slot.", examples=[10_737_418_240]
        ),
    ] = 10_737_418_240
    safe_wal_bytes: Annotated[
        Annotated[int, Field(gt=0)] | None,
        Field(
            description="WAL that shall be left before the source throws the slot's away. By"
            " default a quarter of its max_slot_wal_keep_size.",
            examples=[1_073_741_824],
        ),
    ] = None
    transaction_seconds: Annotated[
        float,
        Field(
            gt=0,
            description="How long a transaction may be open that holds the slot's WAL back.",
            examples=[3600],
        ),
    ] = 3600


MaskKey = (
    Annotated[
        Annotated[SecretStr, Tag("Literal")] | Annotated[EnvironmentVariable, Tag("Variable")],
        Discriminator(_secret_kind),
    ]
    | None
)


class PipelineConfig(Strict):
    """One slot, one publication, one warehouse and its tables."""

    name: Annotated[
        str,
        AfterValidator(_pipeline_name),
        Field(
            description="Starts every asset key and names the job `<name>_sync`, its schedule and"
            " the sensor `<name>_health`.",
            examples=["shop"],
        ),
    ]
    source: Annotated[
        SourceConfig,
        Field(
            description="The Postgres end.",
            examples=[
                {
                    "dsn": {"env": "SHOP_SOURCE_DSN"},
                    "slot": "shop_cdc",
                    "publication": "shop_cdc",
                }
            ],
        ),
    ]
    warehouse: Annotated[
        WarehouseConfig,
        Field(
            description="Where the mirrors are.",
            examples=[{"duckdb": {"path": "data/shop.duckdb"}}],
        ),
    ]
    tables: Annotated[
        list[TableConfig],
        Field(
            min_length=1,
            description="The tables that are replicated.",
            examples=[[{"source": "public.customers"}, {"source": "public.orders"}]],
        ),
        AfterValidator(checked_tables),
    ]
    mask_key: Annotated[
        MaskKey,
        Field(
            description="The secret of `mask: hmac`. It belongs in an environment variable, which a"
            " run needs.",
            examples=[{"env": "SHOP_MASK_KEY"}],
        ),
    ] = None
    window: Annotated[
        WindowConfig,
        Field(
            description="How much is read at once.",
            examples=[{"max_wal_bytes": DEFAULT_MAX_WAL_BYTES}],
        ),
    ] = WindowConfig()
    reconcile: Annotated[
        ReconcileConfig | None,
        Field(
            description="When mirrors are compared with the source; null for never.",
            examples=[{"schedule": "0 3 * * *", "sample": 0.1}],
        ),
    ] = None
    health: Annotated[
        HealthConfig,
        Field(
            description="Bounds of the checks on the slot.",
            examples=[{"lag_seconds": 900, "retained_bytes": 10_737_418_240}],
        ),
    ] = HealthConfig()
    schedule: Annotated[
        Schedule,
        Field(
            description="When syncs start: a cron expression in UTC, or in a time zone; null for"
            " none.",
            examples=["* * * * *", {"cron": "0 6 * * *", "timezone": "Europe/Zurich"}],
        ),
    ] = DEFAULT_SCHEDULE
    # Read by Dagster alone
    translation: Annotated[
        Any,
        Field(
            description="What Dagster shows of each mirror; `table.schema` and `table.name` are the"
            " source table's.",
            examples=[{"group_name": "{{ table.schema }}", "owners": ["team:shop"]}],
        ),
    ] = None
    source_translation: Annotated[
        Any,
        Field(
            description="What Dagster shows of each table of the source; mirrors and slot depend on"
            " the key that it gets.",
            examples=[{"group_name": "crm"}],
        ),
    ] = None
    slot_translation: Annotated[
        Any,
        Field(
            description="What Dagster shows of the replication slot; `pipeline` is its name.",
            examples=[{"owners": ["team:platform"]}],
        ),
    ] = None
    op: Annotated[
        Any,
        Field(
            description="The op that syncs: its name, tags, description and pool.",
            examples=[{"tags": {"purpose": "cdc"}}],
        ),
    ] = None
    root: Annotated[Path, Field(exclude=True)] = Path()

    @model_validator(mode="after")
    def _has_mask_key(self) -> PipelineConfig:
        if self.mask_key is None and any("hmac" in table.mask.values() for table in self.tables):
            raise ValueError("mask_key: missing, and a column is masked by hmac")
        return self

    @property
    def table_names(self) -> tuple[TableName, ...]:
        """The source tables, in the config's order."""
        return tuple(table.name for table in self.tables)

    @property
    def warehouse_path(self) -> Path:
        """The DuckDB file."""
        return self.root / Path(self.warehouse.duckdb.path).expanduser()

    @property
    def publish_path(self) -> Path | None:
        """Where copies for readers are put, if any."""
        publish = self.warehouse.duckdb.publish
        return None if publish is None else self.root / Path(publish).expanduser()

    def mask_secret(self) -> bytes:
        """Give the key of `mask: hmac`; empty where no table has one.

        Raises:
            ConfigError: The environment variable is not set.
        """
        if self.mask_key is None:
            return b""
        if isinstance(self.mask_key, SecretStr):
            return self.mask_key.get_secret_value().encode()
        value = os.environ.get(self.mask_key.env)
        if not value:
            raise ConfigError(
                f"environment variable {self.mask_key.env!r} for mask_key is not set",
                hint=f"export {self.mask_key.env}=... with the secret of before, if there was one",
            )
        return value.encode()

    def table(self, name: TableName) -> TableConfig:
        """Give the config of one of the tables."""
        return next(table for table in self.tables if table.name == name)

    def select(self, names: list[str]) -> tuple[TableName, ...]:
        """Find tables by the names that a user typed.

        Raises:
            ConfigError: A name is not a table of this pipeline.
        """
        known = {str(name): name for name in self.table_names}
        names = [_as_listed(name) for name in names]
        unknown = [name for name in names if name not in known]
        if unknown:
            meant = nearest(unknown[0], known)
            raise ConfigError(
                f"table {unknown[0]!r} is not in pipeline {self.name!r}",
                hint=f"did you mean {meant!r}?" if meant else f"known: {', '.join(known)}",
            )
        return tuple(known[name] for name in names)


def _as_listed(name: str) -> str:
    try:
        return str(TableName.parse(name))
    except ValueError:
        return name
