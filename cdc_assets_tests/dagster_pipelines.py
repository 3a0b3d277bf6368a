"""Pipelines as Dagster sees them, and what their runs reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster.components.testing.utils import component_defs

from cdc_assets.config import PipelineConfig
from cdc_assets.orchestration.component import PostgresCdcComponent


def attributes(*tables: str, **changed: object) -> dict[str, Any]:
    """Give a component's attributes with an environment variable that is not set."""
    return {
        "name": "shop",
        "source": {
            "dsn": {"env": "NOT_SET_ANYWHERE"},
            "slot": "shop_cdc",
            "publication": "shop_cdc",
        },
        "warehouse": {"duckdb": {"path": "data/warehouse.duckdb"}},
        "tables": [{"source": table} for table in tables],
        **changed,
    }


def definitions(given: Mapping[str, Any] | PipelineConfig) -> dg.Definitions:
    """Build what Dagster loads, from attributes as YAML has them or from a config."""
    if isinstance(given, PipelineConfig):
        fields = given.model_fields_set - {"root"}
        component = PostgresCdcComponent(**{field: getattr(given, field) for field in fields})
    else:
        component = PostgresCdcComponent.from_attributes_dict(attributes=dict(given))
    return component_defs(component=component)


def specs(defs: dg.Definitions) -> dict[str, dg.AssetSpec]:
    """Give the assets by their keys as a user writes them."""
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def run_sync(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    *,
    only: Sequence[str] | None = None,
    pipeline: str = "shop",
) -> dg.ExecuteInProcessResult:
    """Run a pipeline's job in this process, or a selection of its assets."""
    keys = None if only is None else [dg.AssetKey(key.split("/")) for key in only]
    return defs.resolve_job_def(f"{pipeline}_sync").execute_in_process(
        instance=instance, asset_selection=keys, raise_on_error=False
    )


def materialized(result: dg.ExecuteInProcessResult) -> dict[str, Mapping[str, Any]]:
    """Give the metadata of the mirrors and the slot that a run materialized."""
    return {key: found for key, found in _told(result).items() if "/source/" not in key}


def sources_told(result: dg.ExecuteInProcessResult) -> dict[str, Mapping[str, Any]]:
    """Give the metadata of the source's tables that a run told of."""
    return {key: found for key, found in _told(result).items() if "/source/" in key}


def _told(result: dg.ExecuteInProcessResult) -> dict[str, Mapping[str, Any]]:
    return {
        event.step_materialization_data.materialization.asset_key.to_user_string(): values(
            event.step_materialization_data.materialization.metadata
        )
        for event in result.all_events
        if event.is_step_materialization
    }


def observed(result: dg.ExecuteInProcessResult) -> list[tuple[str, Mapping[str, Any]]]:
    """Give a run's observations in their order."""
    return [
        (observation.asset_key.to_user_string(), values(observation.metadata))
        for observation in (
            event.asset_observation_data.asset_observation
            for event in result.all_events
            if event.event_type_value == "ASSET_OBSERVATION"
        )
    ]


def values(metadata: Mapping[str, dg.MetadataValue[Any]]) -> dict[str, Any]:
    """Unwrap metadata."""
    return {key: value.value for key, value in metadata.items()}
