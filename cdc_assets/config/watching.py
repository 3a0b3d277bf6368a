"""What a config may say of when something is done, and from where on something is wrong."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from cdc_assets.config.cron import EVERY_MINUTE, checked_cron, checked_timezone, longest_gap
from cdc_assets.config.strict import Strict
from cdc_assets.config.variables import EnvironmentVariable, FromEnvironment, read_variable


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
