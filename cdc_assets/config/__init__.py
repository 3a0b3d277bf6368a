"""The one config: a Dagster component's YAML that the command line reads without Dagster.

Everything is checked when the file is read, before any connection, and every problem is reported
at once. Keys of capabilities that do not exist yet are refused, never ignored.
"""

from cdc_assets.config.documents import Document, read_documents
from cdc_assets.config.model import (
    COMPONENT_TYPE,
    MaskKey,
    PipelineConfig,
    SourceConfig,
    WindowConfig,
)
from cdc_assets.config.problems import config_error
from cdc_assets.config.project import (
    find_project,
    load_environment,
    project_root,
    read_environment,
)
from cdc_assets.config.reading import find_pipeline, load_config, parse_config, read_pipeline
from cdc_assets.config.tables import BackfillConfig, TableConfig, TableDefaults
from cdc_assets.config.warehouses import DuckDBConfig, WarehouseConfig
from cdc_assets.config.watching import (
    DEFAULT_SCHEDULE,
    HealthConfig,
    ReconcileConfig,
    Schedule,
    ScheduleConfig,
)

__all__ = [
    "COMPONENT_TYPE",
    "DEFAULT_SCHEDULE",
    "BackfillConfig",
    "Document",
    "DuckDBConfig",
    "HealthConfig",
    "MaskKey",
    "PipelineConfig",
    "ReconcileConfig",
    "Schedule",
    "ScheduleConfig",
    "SourceConfig",
    "TableConfig",
    "TableDefaults",
    "WarehouseConfig",
    "WindowConfig",
    "config_error",
    "find_pipeline",
    "find_project",
    "load_config",
    "load_environment",
    "parse_config",
    "project_root",
    "read_documents",
    "read_environment",
    "read_pipeline",
]
