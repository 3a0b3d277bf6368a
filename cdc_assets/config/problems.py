"""What is wrong with a config, worded with its place and the nearest thing that was meant."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from cdc_assets.config.enriching import EnrichConfig
from cdc_assets.config.expected import expected_text
from cdc_assets.config.model import PipelineConfig, SourceConfig, WindowConfig
from cdc_assets.config.schema_changes import SchemaChanges
from cdc_assets.config.shaping import ColumnsConfig
from cdc_assets.config.tables import BackfillConfig, ChangesConfig, TableConfig, TableDefaults
from cdc_assets.config.transforms import TransformConfig
from cdc_assets.config.variables import EnvironmentVariable
from cdc_assets.config.warehouses import DuckDBConfig, WarehouseConfig
from cdc_assets.config.watching import HealthConfig, ReconcileConfig, ScheduleConfig
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import nearest
from cdc_assets.pages import page
from cdc_assets.wording import counted


def config_error(place: str, problems: list[str]) -> ConfigError:
    """Make one error of all problems that the config at `place` has."""
    return ConfigError(
        f"config {place!r} has {counted(len(problems), 'problem')}: " + "; ".join(problems),
        hint=f"{page('configuration')} lists every key",
        problems=tuple(problems),
    )


def problem_text(detail: ErrorDetails) -> str:
    """Word one of pydantic's findings."""
    location = [part for part in detail["loc"] if not _is_union_branch(part)]
    where = path_text(location)
    match detail["type"]:
        case "extra_forbidden":
            return unknown_key(str(location[-1]), _known_keys(location), where=where)
        case "missing":
            return f"{where}: missing"
        case "value_error":
            said = detail["msg"].removeprefix("Value error, ")
            return f"{where}: {said}" if where else said
        case _:
            return f"{where}: {expected_text(detail, _field(location))}"


def _is_union_branch(part: int | str) -> bool:
    # pydantic puts the tag of the chosen union branch into the location
    return part in ("Literal", "Variable")


def path_text(location: list[int | str]) -> str:
    """Write a place as `tables[0].source`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.lstrip(".")


def unknown_key(key: str, known: tuple[str, ...], *, where: str) -> str:
    """Say that nobody reads a key, and which one was meant."""
    place = where or key
    meant = nearest(key, known)
    advice = f"did you mean {meant!r}?" if meant else f"known keys: {', '.join(known)}"
    return f"{place}: unknown key, {advice}"


_MODELS: Mapping[str, type[BaseModel]] = {
    "source": SourceConfig,
    "warehouse": WarehouseConfig,
    "duckdb": DuckDBConfig,
    "defaults": TableDefaults,
    "tables": TableConfig,
    "window": WindowConfig,
    "health": HealthConfig,
    "schedule": ScheduleConfig,
    "dsn": EnvironmentVariable,
    "mask_key": EnvironmentVariable,
    "columns": ColumnsConfig,
    "transform": TransformConfig,
    "enrich": EnrichConfig,
    "changes": ChangesConfig,
    "schema_changes": SchemaChanges,
    "backfill": BackfillConfig,
    "reconcile": ReconcileConfig,
}


def _field(location: list[int | str]) -> FieldInfo | None:
    """Find the key that a place is of; none where it is a part of a key's value."""
    parents = [part for part in location[:-1] if isinstance(part, str)]
    model = _MODELS.get(parents[-1]) if parents else PipelineConfig
    return model.model_fields.get(str(location[-1])) if model and location else None


def _known_keys(location: list[int | str]) -> tuple[str, ...]:
    parents = [part for part in location[:-1] if isinstance(part, str)]
    model = _MODELS[parents[-1]] if parents else PipelineConfig
    return tuple(one.alias or key for key, one in model.model_fields.items() if key != "root")
