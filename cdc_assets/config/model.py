"""What a pipeline's config may hold, and what each key means."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    model_validator,
)

from cdc_assets.config.enriching import Links, links_of
from cdc_assets.config.strict import Strict
from cdc_assets.config.tables import TableConfig, TableDefaults, checked_tables, with_defaults
from cdc_assets.config.variables import EnvironmentVariable, FromEnvironment
from cdc_assets.config.warehouses import WarehouseConfig
from cdc_assets.config.watching import (
    DEFAULT_SCHEDULE,
    HealthConfig,
    ReconcileConfig,
    Schedule,
)
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import TableName, nearest

COMPONENT_TYPE = "cdc_assets.PostgresCdcComponent"
DEFAULT_MAX_WAL_BYTES = 268_435_456
MIN_MAX_WAL_BYTES = 1_048_576


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

    push_down: Annotated[
        bool,
        Field(
            description="Whether the publication leaves out excluded columns and rows that `where`"
            " does not keep, as far as it can; `cdc-assets setup` writes it so.",
            examples=[True],
        ),
    ] = False

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
    defaults: Annotated[
        TableDefaults,
        Field(
            description="What holds for every table that has not the key itself: any key of a table"
            " but `source`.",
            examples=[{"keep": ["mirror", "changes"]}],
        ),
    ] = TableDefaults()
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

    @model_validator(mode="before")
    @classmethod
    def _has_defaults(cls, value: object) -> object:
        if not isinstance(value, dict) or "defaults" not in value or "tables" not in value:
            return value
        return value | {"tables": with_defaults(value["tables"], value["defaults"])}

    @model_validator(mode="after")
    def _has_mask_key(self) -> PipelineConfig:
        if self.mask_key is None and any("hmac" in table.mask.values() for table in self.tables):
            raise ValueError("mask_key: missing, and a column is masked by hmac")
        return self

    @cached_property
    def table_names(self) -> tuple[TableName, ...]:
        """The source tables, in the config's order."""
        return tuple(table.name for table in self.tables)

    @cached_property
    def unmirrored(self) -> frozenset[TableName]:
        """The tables of which changes alone are kept."""
        return frozenset(table.name for table in self.tables if not table.keeps_mirror)

    def copies_anew(self, table: TableName) -> bool:
        """Whether a sync copies a table anew by itself where it can't go on otherwise."""
        # tables that take columns of each other go on together, or wait together
        return self.table(table).schema_changes.evolves and table not in self.links.tables

    @cached_property
    def links(self) -> Links:
        """Which tables take columns of which."""
        return links_of(self.tables)

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
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[TableName, TableConfig]:
        return {table.name: table for table in self.tables}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy it, as pydantic does, without what was made of its tables."""
        copied = super().model_copy(update=update, deep=deep)
        for made in ("_by_name", "table_names", "unmirrored", "links"):
            copied.__dict__.pop(made, None)
        return copied

    def by_defaults(self, name: TableName) -> list[str]:
        """Give the keys that one of the tables has of `defaults`, or alike."""
        table, shared = self.table(name), self.defaults
        return sorted(
            key for key in shared.model_fields_set if getattr(table, key) == getattr(shared, key)
        )

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
