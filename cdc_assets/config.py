"""The one config: a Dagster component's YAML that the command line reads without Dagster.

Everything is checked when the file is read, before any connection, and every problem is reported
at once. Keys of capabilities that do not exist yet are refused, never ignored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import TableName, nearest

COMPONENT_TYPE = "cdc_assets.PostgresCdcComponent"
DEFAULT_MAX_WAL_BYTES = 268_435_456
MIN_MAX_WAL_BYTES = 1_048_576
MIN_MAX_MEMORY_BYTES = 134_217_728

# Keys that the design fixes and that a later version understands.
LATER_KEYS = frozenset({"mask", "columns", "where", "enrich", "transform"})
LATER_KEEPS = frozenset({"changes", "history"})
_COMPONENT_KEYS = ("type", "attributes", "template_vars_module", "requirements", "post_processing")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class EnvironmentVariable(_Strict):
    """A reference to an environment variable: `{env: SHOP_SOURCE_DSN}`."""

    env: Annotated[str, Field(min_length=1)]


def _mirror_alone(keep: list[str]) -> list[str]:
    later = [kept for kept in keep if kept in LATER_KEEPS]
    if later:
        raise ValueError(f"{later[0]!r} is not supported by this version yet, only 'mirror' is")
    if keep != ["mirror"]:
        raise ValueError("expected [mirror]")
    return keep


def _table_name(text: str) -> str:
    name = TableName.parse(text)
    if name.schema.casefold() in ("_cdc", "pg_catalog", "information_schema"):
        raise ValueError(f"schema {name.schema!r} can't be replicated: the name is reserved")
    if name.schema.casefold() == "main" and name.name.casefold().startswith("_cdc_"):
        raise ValueError("a table of schema 'main' can't have a name that starts with '_cdc_'")
    return str(name)


def _slot_name(text: str) -> str:
    if not 0 < len(text) < 64 or set(text) - set("abcdefghijklmnopqrstuvwxyz0123456789_"):
        raise ValueError("a slot's name has lower case letters, digits and _, 63 at the most")
    return text


def _pipeline_name(text: str) -> str:
    if not text.isidentifier() or not text.isascii():
        raise ValueError("a pipeline's name has letters, digits and _, and starts with a letter")
    return text


def _schedule(text: str) -> str:
    if len(text.split()) != 5 and not text.startswith("@"):
        raise ValueError(f"expected a cron expression with five fields, got {text!r}")
    return text


def _dsn_kind(value: object) -> str:
    return "Variable" if isinstance(value, (dict, EnvironmentVariable)) else "Literal"


def _no_template(value: object) -> object:
    if isinstance(value, str) and "{{" in value:
        raise ValueError("write {env: NAME} instead of a template: the command line reads it too")
    return value


class SourceConfig(_Strict):
    """The Postgres end: where it is, and its slot and publication."""

    dsn: Annotated[
        Annotated[SecretStr, Tag("Literal")] | Annotated[EnvironmentVariable, Tag("Variable")],
        Discriminator(_dsn_kind),
        BeforeValidator(_no_template),
    ]
    slot: Annotated[str, AfterValidator(_slot_name)]
    publication: Annotated[str, Field(min_length=1, max_length=63)]

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


class DuckDBConfig(_Strict):
    """A DuckDB file; a relative path starts at the project's root."""

    path: Annotated[str, Field(min_length=1)]
    max_memory_bytes: Annotated[int, Field(ge=MIN_MAX_MEMORY_BYTES)] | None = None


class WarehouseConfig(_Strict):
    """The warehouse's end."""

    duckdb: DuckDBConfig


class TableConfig(_Strict):
    """One replicated table."""

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, value: object) -> object:
        if isinstance(value, str):
            wanted = f"expected a mapping: write '- source: {value}'"
            raise ValueError(wanted)  # noqa: TRY004 - pydantic reports no other kind
        return value

    source: Annotated[str, AfterValidator(_table_name)]
    keep: Annotated[list[str], AfterValidator(_mirror_alone)] = ["mirror"]

    @property
    def name(self) -> TableName:
        """The source table."""
        return TableName.parse(self.source)


class WindowConfig(_Strict):
    """How much one window may read."""

    max_wal_bytes: Annotated[int, Field(ge=MIN_MAX_WAL_BYTES)] = DEFAULT_MAX_WAL_BYTES


def _tables(tables: list[TableConfig]) -> list[TableConfig]:
    seen: dict[tuple[str, str], str] = {}
    for table in tables:
        other = seen.setdefault(table.name.folded, table.source)
        if other != table.source:
            raise ValueError(
                f"{other!r} and {table.source!r} are one name in a warehouse that ignores case"
            )
    if len(seen) < len(tables):
        raise ValueError("a table is listed twice")
    return tables


class PipelineConfig(_Strict):
    """One slot, one publication, one warehouse and its tables."""

    name: Annotated[str, AfterValidator(_pipeline_name)]
    source: SourceConfig
    warehouse: WarehouseConfig
    tables: Annotated[list[TableConfig], Field(min_length=1), AfterValidator(_tables)]
    window: WindowConfig = WindowConfig()
    schedule: Annotated[str, AfterValidator(_schedule)] = "* * * * *"
    translation: Any = None  # read by Dagster alone
    op: Any = None  # read by Dagster alone
    root: Annotated[Path, Field(exclude=True)] = Path()

    @property
    def table_names(self) -> tuple[TableName, ...]:
        """The source tables, in the config's order."""
        return tuple(table.name for table in self.tables)

    @property
    def warehouse_path(self) -> Path:
        """The DuckDB file."""
        return self.root / Path(self.warehouse.duckdb.path).expanduser()

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


def load_config(path: Path) -> PipelineConfig:
    """Read a pipeline's YAML file.

    Raises:
        ConfigError: The file can't be read, is not such a component, or has problems; all of them
            are in `problems`.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"config {str(path)!r} can't be read: {error.strerror}",
            hint="give the pipeline's defs.yaml with --config PATH",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {str(path)!r} is not YAML: {_yaml_place(error)}") from error
    problems = _envelope_problems(document)
    if problems:
        raise config_error(str(path), problems)
    return parse_config(document["attributes"], root=project_root(path), place=str(path))


def parse_config(attributes: Mapping[str, Any], *, root: Path, place: str) -> PipelineConfig:
    """Check a component's attributes.

    Args:
        attributes: What stands under `attributes:`.
        root: Where relative paths start.
        place: Where the attributes come from, for error messages.

    Raises:
        ConfigError: With every problem in `problems`.
    """
    try:
        return PipelineConfig.model_validate({**attributes, "root": root})
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_input=False)]
        raise config_error(place, list(dict.fromkeys(problems))) from None


def find_config(directory: Path) -> Path:
    """Find the one pipeline under `cdc_assets/defs/`.

    Raises:
        ConfigError: There is none, or more than one.
    """
    found = sorted(directory.glob("cdc_assets/defs/**/defs.yaml"))
    if len(found) == 1:
        return found[0]
    what = "more than one pipeline" if found else "no pipeline"
    raise ConfigError(
        f"{what} under {str(directory / 'cdc_assets' / 'defs')!r}",
        hint="say which with --config PATH",
    )


def project_root(path: Path) -> Path:
    """Find where a config's relative paths start: its project, else the config's own folder."""
    path = path.resolve()
    folder = path if path.is_dir() else path.parent
    for candidate in (folder, *folder.parents):
        if any((candidate / mark).is_file() for mark in ("pyproject.toml", "workspace.yaml")):
            return candidate
    return folder


def config_error(place: str, problems: list[str]) -> ConfigError:
    """Make one error of all problems that the config at `place` has."""
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    return ConfigError(
        f"config {place!r} has {count}: " + "; ".join(problems),
        hint="docs/configuration.md lists every key",
        problems=tuple(problems),
    )


def _envelope_problems(document: object) -> list[str]:
    if not isinstance(document, dict):
        return [f"expected the keys 'type' and 'attributes', got {type(document).__name__}"]
    problems = [
        _unknown_key(str(key), _COMPONENT_KEYS, where="")
        for key in document
        if key not in _COMPONENT_KEYS
    ]
    if document.get("type") != COMPONENT_TYPE:
        problems.append(f"type: expected {COMPONENT_TYPE!r}, got {document.get('type')!r}")
    if not isinstance(document.get("attributes"), dict):
        problems.append("attributes: missing")
    return problems + _templates(document.get("attributes"), [])


def _templates(value: object, location: list[int | str]) -> list[str]:
    """Find Dagster's templates, which the command line could not resolve."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return [found for key, part in parts for found in _templates(part, [*location, key])]
    if isinstance(value, str) and "{{" in value and location[0] not in ("translation", "op"):
        return [f"{_path(location)}: templates are not supported; source.dsn takes {{env: NAME}}"]
    return []


def _yaml_place(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"
    return "bytes that are not UTF-8" if isinstance(error, UnicodeDecodeError) else "unreadable"


def _problem(detail: ErrorDetails) -> str:
    location = [part for part in detail["loc"] if not _is_union_branch(part)]
    where = _path(location)
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_key(str(location[-1]), _known_keys(location), where=where)
        case "missing":
            return f"{where}: missing"
        case "value_error":
            return f"{where}: {detail['msg'].removeprefix('Value error, ')}"
        case _:
            return f"{where}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _is_union_branch(part: int | str) -> bool:
    # pydantic puts the tag of the chosen union branch into the location
    return part in ("Literal", "Variable")


def _path(location: list[int | str]) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.lstrip(".")


def _unknown_key(key: str, known: tuple[str, ...], *, where: str) -> str:
    place = where or key
    if key in LATER_KEYS:
        return f"{place}: {key!r} is not supported by this version yet"
    meant = nearest(key, known)
    advice = f"did you mean {meant!r}?" if meant else f"known keys: {', '.join(known)}"
    return f"{place}: unknown key, {advice}"


_MODELS: Mapping[str, type[BaseModel]] = {
    "source": SourceConfig,
    "warehouse": WarehouseConfig,
    "duckdb": DuckDBConfig,
    "tables": TableConfig,
    "window": WindowConfig,
    "dsn": EnvironmentVariable,
}


def _known_keys(location: list[int | str]) -> tuple[str, ...]:
    parents = [part for part in location[:-1] if isinstance(part, str)]
    model = _MODELS[parents[-1]] if parents else PipelineConfig
    return tuple(key for key in model.model_fields if key != "root")
