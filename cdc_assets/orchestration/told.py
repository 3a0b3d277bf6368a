"""What Dagster was told of a pipeline's assets before.

It is no more than a hint: when it is lost, each table is told of once more, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from cdc_assets.lsn import LSN
from cdc_assets.orchestration.metadata import Metadata, position_metadata

QUIET_TOLD_SECONDS = 3600.0
# What describes a mirror, and would be gone from its page with the next result that lacks it.
_STANDING = (
    "dagster/table_name",
    "dagster/column_schema",
    "dagster/column_lineage",
    "cdc/lineage",
    "cdc/comment",
)


@dataclass(frozen=True, slots=True)
class Told:
    """An asset's last materialization.

    Attributes:
        confirmed_lsn: How far it was.
        at: When that was told.
        last_commit: When the newest of its changes was committed on the source, if there were any.
    """

    confirmed_lsn: LSN
    at: datetime
    last_commit: datetime | None

    @property
    def quiet_since(self) -> datetime:
        """From when on there was no change: the last one's commit, else when it was copied."""
        return self.last_commit or self.at

    @property
    def is_in_another_hour(self) -> bool:
        """Whether a full hour has begun since then: that is when quiet tables are told of."""
        return time.time() // QUIET_TOLD_SECONDS > self.at.timestamp() // QUIET_TOLD_SECONDS


def read_told(instance: dg.DagsterInstance, keys: list[dg.AssetKey]) -> dict[dg.AssetKey, Told]:
    """Read what was told last of assets; no entry for one that was never materialized."""
    told = {}
    for record in instance.get_asset_records(keys):
        last = record.asset_entry.last_materialization
        if last is not None and last.asset_materialization is not None:
            found = last.asset_materialization.metadata
            told[record.asset_entry.asset_key] = Told(
                confirmed_lsn=LSN(int(_number(found, "cdc/confirmed_lsn_int") or 0)),
                at=datetime.fromtimestamp(last.timestamp, UTC),
                last_commit=_time(_number(found, "cdc/last_commit")),
            )
    return told


def tell_anew(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    key: dg.AssetKey,
    *,
    description: str,
    found: Metadata,
    lsn: LSN,
) -> None:
    """Materialize what something else than a sync has written: what waits for it is to start.

    What was told of it before still describes it. One of which nothing was told yet is left to the
    next sync, which tells all there is to say.

    Args:
        context: The op's.
        key: The mirror's, or that of what is kept beside it.
        description: What has happened.
        found: What else is told.
        lsn: As of which it is.
    """
    last = context.instance.get_latest_materialization_event(key)
    if last is None or last.asset_materialization is None:
        return
    before = last.asset_materialization.metadata
    context.log_event(
        dg.AssetMaterialization(
            key,
            description=description,
            metadata={
                **{name: before[name] for name in _STANDING if name in before},
                **position_metadata(lsn),
                **found,
            },
            tags={"dagster/data_version": str(lsn)},
        )
    )


def _number(found: Mapping[str, dg.MetadataValue], key: str) -> float | None:
    value = found.get(key)
    if isinstance(value, (dg.IntMetadataValue, dg.TimestampMetadataValue)):
        return value.value
    return None


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
