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

QUIET_TOLD_SECONDS = 3600.0


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


def _number(found: Mapping[str, dg.MetadataValue], key: str) -> float | None:
    value = found.get(key)
    if isinstance(value, (dg.IntMetadataValue, dg.TimestampMetadataValue)):
        return value.value
    return None


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
