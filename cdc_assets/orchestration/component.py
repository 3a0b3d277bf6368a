"""The Dagster component: a pipeline's config becomes assets, a job and a schedule.

Annotations are evaluated in this module: Dagster reads the one of an op's context.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Self, TypeVar

import dagster as dg
from dagster.components.resolved.core_models import OpSpec
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver
from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeAliasType

from cdc_assets.config import (
    DEFAULT_SCHEDULE,
    Document,
    HealthConfig,
    MaskKey,
    PipelineConfig,
    ReconcileConfig,
    Schedule,
    SourceConfig,
    TableConfig,
    TableDefaults,
    WarehouseConfig,
    WindowConfig,
    parse_config,
    project_root,
    read_documents,
)
from cdc_assets.config.tables import CHANGES
from cdc_assets.identifiers import TableName
from cdc_assets.orchestration.attributes import attributes_model, read_attributes
from cdc_assets.orchestration.checks import check_specs
from cdc_assets.orchestration.execution import PipelineAssets, RunEvent, run_pipeline
from cdc_assets.orchestration.health import health_sensor
from cdc_assets.orchestration.instance import warn_at_load
from cdc_assets.orchestration.keys import names_of, record_key, source_key
from cdc_assets.orchestration.rebuild import rebuild_job
from cdc_assets.orchestration.reconcile import equality_checks, reconcile_job_and_schedule
from cdc_assets.orchestration.retention import retention_job_and_schedule
from cdc_assets.orchestration.scaffold import PostgresCdcScaffolder
from cdc_assets.orchestration.schedule import job_and_schedule
from cdc_assets.orchestration.snapshots import backfill_jobs, snapshot_assets, snapshot_specs
from cdc_assets.orchestration.specs import (
    mirror_spec,
    record_spec,
    slot_spec,
    source_spec,
)

_MADE_BY = f"cdc-assets {version('cdc-assets')}"

# These were checked before Dagster resolves anything, and no template is rendered in them: the
# command line reads the same file and knows no templates.
_AS_WRITTEN = dg.Resolver(
    lambda _context, value: value, model_field_type=object, inject_before_resolve=False
)

# Dagster looks into a pydantic model that it finds in an annotation, and refuses what it does not
# know, such as a secret. It does not look behind a name.
_Source = TypeAliasType("_Source", SourceConfig)
_Warehouse = TypeAliasType("_Warehouse", WarehouseConfig)
_Defaults = TypeAliasType("_Defaults", TableDefaults)
_Tables = TypeAliasType("_Tables", list[TableConfig])
_Window = TypeAliasType("_Window", WindowConfig)
_Reconcile = TypeAliasType("_Reconcile", ReconcileConfig | None)
_Health = TypeAliasType("_Health", HealthConfig)
_Schedule = TypeAliasType("_Schedule", Schedule)
_MaskKey = TypeAliasType("_MaskKey", MaskKey)

_Subject = TypeVar("_Subject")
_OfTable = Annotated[
    TranslationFn[TableName], TranslationFnResolver(lambda table: {"table": table})
]


@dg.scaffold_with(PostgresCdcScaffolder)
class PostgresCdcComponent(dg.Component, dg.Model, dg.Resolvable):
    """Postgres change data capture into warehouse tables.

    Every source table becomes an external asset, every mirror an asset that depends on it, and
    the replication slot a control asset that each run materializes, with checks of its health. A
    job syncs all of them, a schedule starts it, and a sensor looks at the slot when no sync does.

    Override `get_asset_spec`, `get_record_spec`, `get_source_spec` and `get_slot_spec` to shape
    specs in Python, `execute` to do something before or after a sync; `translation:`,
    `source_translation:` and `slot_translation:` shape specs from YAML.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, _AS_WRITTEN]
    source: Annotated[_Source, _AS_WRITTEN]
    warehouse: Annotated[_Warehouse, _AS_WRITTEN]
    tables: Annotated[_Tables, _AS_WRITTEN]
    defaults: Annotated[_Defaults, _AS_WRITTEN] = TableDefaults()
    mask_key: Annotated[_MaskKey, _AS_WRITTEN] = None
    window: Annotated[_Window, _AS_WRITTEN] = WindowConfig()
    reconcile: Annotated[_Reconcile, _AS_WRITTEN] = None
    health: Annotated[_Health, _AS_WRITTEN] = HealthConfig()
    schedule: Annotated[_Schedule, _AS_WRITTEN] = DEFAULT_SCHEDULE
    translation: _OfTable | None = None
    source_translation: _OfTable | None = None
    slot_translation: (
        Annotated[
            TranslationFn[str], TranslationFnResolver(lambda pipeline: {"pipeline": pipeline})
        ]
        | None
    ) = None
    op: OpSpec | None = None

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """Give the model that Dagster validates `attributes:` with: see `attributes`."""
        return attributes_model(cls)

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Make the component from YAML.

        Raises:
            ConfigError: With every problem of the config at once.
        """
        written = attributes.model_dump() if attributes else {}
        model = read_attributes(
            cls,
            written,
            root=project_root(context.path),
            place=_place(context),
            found=[problem for one in _documents(context) for problem in one.problems],
        )
        return super().load(model, context)

    @cached_property
    def config(self) -> PipelineConfig:
        """What the command line reads, with relative paths as they are written.

        Raises:
            ConfigError: With every problem of the config at once.
        """
        keys = PipelineConfig.model_fields.keys() & type(self).model_fields.keys()
        attributes = {key: getattr(self, key) for key in keys}
        return parse_config(attributes, root=Path(), place=self.name)

    def get_asset_spec(self, table: TableName) -> dg.AssetSpec:
        """Describe a table's mirror. Override it to change what `translation:` starts from."""
        return mirror_spec(self.config, table)

    def get_source_spec(self, table: TableName) -> dg.AssetSpec:
        """Describe a table of the source; mirrors and slot depend on the key that it has."""
        return source_spec(self.config, table)

    def get_slot_spec(self) -> dg.AssetSpec:
        """Describe the control asset."""
        return slot_spec(self.config)

    def get_record_spec(self, table: TableName, keep: str) -> dg.AssetSpec:
        """Describe a table's change table or history.

        Args:
            table: Whose.
            keep: `changes` or `history`; the key is the mirror's with `__` and this behind.
        """
        return record_spec(self.config, table, keep)

    def _record_spec(self, table: TableName, keep: str, mirror: dg.AssetKey) -> dg.AssetSpec:
        shaped = _shaped(self.get_record_spec(table, keep), self.translation, table)
        return shaped.replace_attributes(key=record_key(mirror, keep))

    def execute(
        self, context: dg.AssetExecutionContext, assets: PipelineAssets
    ) -> Iterator[RunEvent]:
        """Sync the selected tables.

        Override it to do something around a sync; results for tables must be yielded on.

        Args:
            context: The op's; `selected_asset_keys` says what the run was asked for.
            assets: The pipeline and its assets' keys.
        """
        yield from run_pipeline(context, assets)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Build the pipeline's assets, checks, jobs and schedules."""
        warn_at_load()
        config = self.config.model_copy(update={"root": project_root(context.path)})
        tables = config.table_names
        sources = {
            table: _shaped(self.get_source_spec(table), self.source_translation, table)
            for table in tables
        }
        moved = {source_key(self.name, table): sources[table].key for table in tables}
        mirrors = {
            table: _placed(
                _shaped(self.get_asset_spec(table), self.translation, table), config, moved
            )
            for table in tables
        }
        shaped = _shaped(self.get_slot_spec(), self.slot_translation, self.name)
        slot = _placed(shaped, config, moved)
        records = {
            table: {
                keep: _placed(self._record_spec(table, keep, mirrors[table].key), config, moved)
                for keep in config.table(table).records
            }
            for table in tables
        }
        alone = {
            table: records.pop(table)[CHANGES] for table in tables if table in config.unmirrored
        }
        mirrors = {table: spec for table, spec in mirrors.items() if table not in alone}
        assets = PipelineAssets(
            config,
            kept={table: (mirrors | alone)[table].key for table in tables},
            sources={table: spec.key for table, spec in sources.items()},
            slot=slot.key,
            records={
                table: {keep: spec.key for keep, spec in of.items()}
                for table, of in records.items()
            },
        )
        op = self.op or OpSpec()
        beside = [spec for of in records.values() for spec in of.values()]
        kept = [*mirrors.values(), *beside, *alone.values()]
        synced = self._synced_assets(assets, [*kept, slot], op)
        snapshots = snapshot_specs(config, mirrors)
        backfills = backfill_jobs(config, snapshots)
        mirror_keys = {table: spec.key for table, spec in mirrors.items()}
        checks = [equality_checks(config, mirror_keys, op=op)] if mirrors else []
        reconciles = dg.Definitions.merge(
            *(reconcile_job_and_schedule(config, check) for check in checks)
        )
        more = [
            backfills,
            reconciles,
            rebuild_job(config, assets, op=op),
            retention_job_and_schedule(config, assets, op=op),
        ]
        return dg.Definitions.merge(
            dg.Definitions(
                assets=[
                    *sources.values(),
                    synced,
                    *snapshot_assets(
                        config, snapshots, kept={one: assets.of(one) for one in mirrors}, op=op
                    ),
                ],
                asset_checks=checks,
                sensors=[health_sensor(config, slot.key)],
            ),
            job_and_schedule(
                config,
                synced.keys,
                beside=[spec.key for spec in snapshots.values()],
                jobs_beside=[job.name for defs in more for job in defs.jobs or ()],
            ),
            *more,
        )

    def _synced_assets(
        self, assets: PipelineAssets, specs: Sequence[dg.AssetSpec], op: OpSpec
    ) -> dg.AssetsDefinition:
        # What @multi_asset builds, with names that stay apart: see names_of.
        outputs = names_of(spec.key for spec in specs)
        upstream = dict.fromkeys(dep.asset_key for spec in specs for dep in spec.deps)
        inputs = names_of(key for key in upstream if key not in outputs.values())
        checks = {spec.get_python_identifier(): spec for spec in check_specs(assets.slot)}

        @dg.op(
            name=op.name or f"{self.name}_cdc",
            description=op.description or "Syncs the selected tables up to the run's start.",
            tags=op.tags,
            # One run at a time, as a courtesy: the lock on the source decides.
            pool=op.pool or f"cdc_{self.name}",
            ins={name: dg.In(dg.Nothing) for name in inputs},
            out={
                name: dg.Out(dg.Nothing, is_required=False, code_version=spec.code_version)
                for name, spec in zip(outputs, specs, strict=True)
            }
            | {name: dg.Out(dg.Nothing, is_required=False) for name in checks},
        )
        def sync_tables(context: dg.AssetExecutionContext) -> Iterator[RunEvent]:
            yield from self.execute(context, assets)

        return dg.AssetsDefinition(
            keys_by_input_name=inputs,
            keys_by_output_name=outputs,
            node_def=sync_tables,
            specs=specs,
            check_specs_by_output_name=checks,
            can_subset=True,
            backfill_policy=op.backfill_policy,
        )


def _shaped(
    spec: dg.AssetSpec, translation: TranslationFn[_Subject] | None, subject: _Subject
) -> dg.AssetSpec:
    return translation(spec, subject) if translation else spec


def _placed(
    spec: dg.AssetSpec, config: PipelineConfig, moved: Mapping[dg.AssetKey, dg.AssetKey]
) -> dg.AssetSpec:
    """Say where an asset is and what made it.

    Args:
        spec: As the user shaped it.
        config: The pipeline.
        moved: The keys that the source's tables have, by those that they had before translation.
    """
    deps = [dep._replace(asset_key=moved.get(dep.asset_key, dep.asset_key)) for dep in spec.deps]
    return spec.replace_attributes(deps=deps).merge_attributes(
        metadata={
            "cdc/warehouse": dg.MetadataValue.path(str(config.warehouse_path)),
            "cdc/version": _MADE_BY,
        }
    )


def _file(context: dg.ComponentLoadContext) -> Path:
    if not context.path.is_dir():
        return context.path
    named = [context.path / name for name in ("defs.yaml", "defs.yml")]
    return next((path for path in named if path.is_file()), named[0])


def _documents(context: dg.ComponentLoadContext) -> list[Document]:
    # Dagster takes the last of two keys alike: what it gives tells nothing of the first
    path = _file(context)
    return read_documents(path) if path.is_file() and path.suffix != ".py" else []


def _place(context: dg.ComponentLoadContext) -> str:
    path = _file(context)
    root = project_root(context.path)
    return str(path.relative_to(root) if path.is_relative_to(root) else path)
