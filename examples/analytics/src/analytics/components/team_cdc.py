"""Postgres change data capture whose assets belong to a team."""

from __future__ import annotations

import dagster as dg

from cdc_assets import PostgresCdcComponent


class TeamCdc(PostgresCdcComponent):
    """A pipeline whose mirrors are owned by `team`, a key that only Dagster reads."""

    team: str

    def get_asset_spec(self, table: object) -> dg.AssetSpec:
        """Add the owner to what the component says of a mirror."""
        return super().get_asset_spec(table).replace_attributes(owners=[f"team:{self.team}"])
