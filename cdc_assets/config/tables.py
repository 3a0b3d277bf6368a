"""What a config may say of one table."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from cdc_assets.config.enriching import EnrichConfig, check_enriched
from cdc_assets.config.schema_changes import (
    STOP,
    TEXT,
    SchemaChanges,
    UnfitValues,
    as_schema_changes,
    as_unfit_values,
)
from cdc_assets.config.shaping import ColumnsConfig, Deletes, MaskWord, masked_columns_kept
from cdc_assets.config.strict import Strict
from cdc_assets.config.transforms import TransformConfig, as_transform
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import TableName, fold, record_table

DEFAULT_BUCKETS = 8

MIRROR, CHANGES, HISTORY = "mirror", "changes", "history"
# What is kept beside mirrors, and what one is called
RECORDS = {CHANGES: "change table", HISTORY: "history"}
_EXPECTED_KEEPS = "expected [mirror], with changes, history or both beside it, or [changes]"


def _known_keeps(keep: list[str]) -> list[str]:
    if not keep:
        raise ValueError(f"nothing is kept: {_EXPECTED_KEEPS}")
    if set(keep) - {MIRROR, *RECORDS} or len(set(keep)) < len(keep):
        raise ValueError(_EXPECTED_KEEPS)
    if HISTORY in keep and MIRROR not in keep:
        raise ValueError("a history stands beside a mirror: expected [mirror, history]")
    return keep


def _table_name(text: str) -> str:
    name = TableName.parse(text)
    if fold(name.schema) in ("_cdc", "pg_catalog", "information_schema"):
        raise ValueError(f"schema {name.schema!r} can't be replicated: the name is reserved")
    if fold(name.schema) == "main" and fold(name.name).startswith("_cdc_"):
        raise ValueError("a table of schema 'main' can't have a name that starts with '_cdc_'")
    return str(name)


class BackfillConfig(Strict):
    """How a table is copied: the first time, and whenever somebody asks for it."""

    buckets: Annotated[
        int,
        Field(
            ge=1,
            le=1000,
            description="Into how many ranges of keys the table is cut: the partitions of its"
            " backfill.",
            examples=[DEFAULT_BUCKETS],
        ),
    ] = DEFAULT_BUCKETS
    max_rows_per_second: Annotated[
        Annotated[int, Field(gt=0)] | None,
        Field(
            description="How fast the source is read at the most; null for as fast as it goes.",
            examples=[20_000],
        ),
    ] = None
    first: Annotated[
        Literal["sync", "wait"],
        Field(
            description="Who makes the first copy: the next sync, or a backfill, which the table"
            " waits for.",
            examples=["wait"],
        ),
    ] = "sync"

    @property
    def bucket_names(self) -> tuple[str, ...]:
        """The buckets, `00` and so on, in the order of their keys."""
        width = max(2, len(str(self.buckets - 1)))
        return tuple(f"{at:0{width}}" for at in range(self.buckets))


class ChangesConfig(Strict):
    """For how long changes are kept; for good unless one of these says otherwise."""

    keep_days: Annotated[
        Annotated[float, Field(gt=0, allow_inf_nan=False)] | None,
        Field(
            description="Changes that were committed before so many days are removed.",
            examples=[90],
        ),
    ] = None
    keep_bytes: Annotated[
        Annotated[int, Field(gt=0)] | None,
        Field(
            description="The newest changes are kept that take about so much of the warehouse.",
            examples=[10_000_000_000],
        ),
    ] = None

    @property
    def is_limited(self) -> bool:
        """Whether some are removed some day."""
        return self.keep_days is not None or self.keep_bytes is not None

    @model_validator(mode="after")
    def _has_one_limit(self) -> Self:
        if self.keep_days is not None and self.keep_bytes is not None:
            raise ValueError("expected keep_days or keep_bytes, got both")
        return self


class TableDefaults(Strict):
    """What can be said of one table, or of all that do not say otherwise."""

    keep: Annotated[
        list[str],
        AfterValidator(_known_keeps),
        Field(
            description="What is kept of it: `mirror`, the table's current rows; `changes`, every"
            " change, in `<table>__changes`; `history`, every version of every row, in"
            " `<table>__history`.",
            examples=[["mirror"], ["mirror", "changes", "history"], ["changes"]],
        ),
    ] = Field(default_factory=lambda: [MIRROR])
    append_only: Annotated[
        bool,
        Field(
            description="With `keep: [mirror]`: the same as `keep: [changes]`.",
            examples=[True],
        ),
    ] = False
    columns: Annotated[
        ColumnsConfig,
        Field(
            description="Which columns are kept, under which names, and as which types.",
            examples=[{"exclude": ["internal_note"], "rename": {"placed_at": "ordered_at"}}],
        ),
    ] = ColumnsConfig()
    where: Annotated[
        Annotated[str, Field(min_length=1)] | None,
        Field(
            description="Which rows are kept: a condition in DuckDB's SQL, over the columns as they"
            " are renamed.",
            examples=["status <> 'draft'"],
        ),
    ] = None
    mask: Annotated[
        dict[str, MaskWord],
        Field(
            description="Columns, by their names on the source, whose values are not shown as they"
            " are.",
            examples=[{"email": "sha256", "phone": "last4"}],
        ),
    ] = Field(default_factory=dict)
    deletes: Annotated[
        Deletes,
        Field(
            description="Whether a row that is deleted leaves the mirror (`hard`), or stays and has"
            " `_cdc_deleted` true (`soft`).",
            examples=["soft"],
        ),
    ] = "hard"
    transform: Annotated[
        TransformConfig | None,
        BeforeValidator(as_transform),
        Field(
            description="A function that its rows go through, from a pandas DataFrame to one.",
            examples=["my_project.transforms:add_margin"],
        ),
    ] = None
    enrich: Annotated[
        list[EnrichConfig],
        Field(
            description="Columns of other tables of the pipeline, as of the moment at which a row"
            " was written.",
            examples=[
                [
                    {
                        "from": "public.customers",
                        "on": {"customer_id": "id"},
                        "columns": {"email": "customer_email"},
                    }
                ]
            ],
        ),
    ] = Field(default_factory=list)
    changes: Annotated[
        ChangesConfig,
        Field(
            description="For how long its changes are kept, by days or by bytes.",
            examples=[{"keep_days": 90}],
        ),
    ] = ChangesConfig()
    schema_changes: Annotated[
        SchemaChanges,
        BeforeValidator(as_schema_changes),
        Field(
            description="How it goes on when it is altered on the source: `evolve`, `stop`, or"
            " `{dropped_columns: keep | drop, recreated_tables: stop | backfill}`.",
            examples=["evolve", {"dropped_columns": "drop", "recreated_tables": "backfill"}],
        ),
    ] = SchemaChanges()
    unfit_values: Annotated[
        UnfitValues,
        BeforeValidator(as_unfit_values),
        Field(
            description="How it goes on where a value does not fit its column's type: `stop`, or"
            " `text`, which the column becomes then; or one of these by column.",
            examples=["text", {"amount": "text"}],
        ),
    ] = "stop"
    backfill: Annotated[
        BackfillConfig,
        Field(
            description="How the table is copied, the first time and whenever it is asked for.",
            examples=[{"buckets": 8, "first": "wait"}],
        ),
    ] = BackfillConfig()

    @property
    def keeps_changes(self) -> bool:
        """Whether it has a change table."""
        return self.append_only or CHANGES in self.keep

    @property
    def keeps_mirror(self) -> bool:
        """Whether it has a mirror; else its changes are all there is, and it needs no key."""
        return not self.append_only and MIRROR in self.keep

    @property
    def records(self) -> tuple[str, ...]:
        """What is kept beside the mirror, or in its place."""
        return (CHANGES,) if self.append_only else tuple(k for k in RECORDS if k in self.keep)

    def widens(self, column: str) -> bool:
        """Whether a column becomes text where a value does not fit its type."""
        said = self.unfit_values
        return (said if isinstance(said, str) else said.get(column, STOP)) == TEXT

    @model_validator(mode="after")
    def _appends_alone(self) -> Self:
        if self.append_only and self.keep != [MIRROR]:
            raise ValueError(
                "append_only: goes with keep: [mirror], and is keep: [changes] then; leave it out"
            )
        if not self.keeps_mirror and self.deletes == "soft":
            raise ValueError("deletes: soft marks rows of a mirror, and none is kept")
        return self

    @model_validator(mode="after")
    def _masks_what_is_kept(self) -> Self:
        masked_columns_kept(self.columns, self.mask)
        return self


class TableConfig(TableDefaults):
    """One replicated table."""

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, value: object) -> object:
        if isinstance(value, str):
            wanted = f"expected a mapping: write '- source: {value}'"
            raise ValueError(wanted)  # noqa: TRY004 - pydantic reports no other kind
        return value

    source: Annotated[
        str,
        AfterValidator(_table_name),
        Field(
            description="The table as Postgres' catalog spells it, with its schema; a part with a"
            " dot in it stands in double quotes.",
            examples=["public.orders", 'sales."order.items"'],
        ),
    ]

    @model_validator(mode="after")
    def _limits_what_is_kept(self) -> Self:
        if self.changes.is_limited and not self.keeps_changes:
            raise ValueError(
                "changes: says how long changes are kept, and none are: keep: [mirror, changes]"
            )
        return self

    @cached_property
    def name(self) -> TableName:
        """The source table."""
        return TableName.parse(self.source)

    def refuse_parts(self) -> None:
        """Check that a part of the table can be compared with what is kept of it.

        Raises:
            ConfigError: Its changes alone are kept.
        """
        if not self.keeps_mirror:
            raise ConfigError(
                f"table {self.source!r} has no mirror, so no part of it can be backfilled",
                hint=f"cdc-assets backfill {shlex.quote(self.source)} begins its change table anew",
            )

    def select_buckets(self, names: Collection[str]) -> tuple[str, ...]:
        """Find buckets by what a user typed: `3` is `03`.

        Raises:
            ConfigError: The table has no such bucket.
        """
        if names:
            self.refuse_parts()
        known = self.backfill.bucket_names
        found = [name.zfill(len(known[0])) for name in names]
        unknown = [name for name, full in zip(names, found, strict=True) if full not in known]
        if unknown:
            raise ConfigError(
                f"table {self.source!r} has no bucket {unknown[0]!r}",
                hint=f"it has {known[0]} to {known[-1]}: tables[].backfill.buckets in the config",
            )
        return tuple(dict.fromkeys(found))


def with_defaults(tables: object, defaults: object) -> object:
    """Say of each table what it does not say itself; a key of its own counts as a whole.

    What is no list of tables, or no defaults, is left for the config's own checks to find.

    Args:
        tables: As they are written, or were read.
        defaults: The same.
    """
    try:
        shared = _said(TableDefaults.model_validate(defaults))
    except ValidationError:
        return tables
    if not isinstance(tables, list):
        return tables
    return [
        _completed(_said(table), shared) if isinstance(table, (dict, TableConfig)) else table
        for table in tables
    ]


def _completed(said: dict[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Add what is shared; how long changes are kept is of no account where none are."""
    whole = {**shared, **said}
    if whole.get("append_only") or CHANGES in whole.get("keep", ()) or CHANGES in said:
        return whole
    return {key: value for key, value in whole.items() if key != CHANGES}


def _said(part: Mapping[str, Any] | Strict) -> dict[str, Any]:
    if isinstance(part, Strict):
        return {key: getattr(part, key) for key in part.model_fields_set}
    return dict(part)


def checked_tables(tables: list[TableConfig]) -> list[TableConfig]:
    """Check that no two are one table.

    Raises:
        ValueError: Two are.
    """
    seen: dict[tuple[str, str], str] = {}
    for table in tables:
        other = seen.setdefault(table.name.folded, table.source)
        if other != table.source:
            raise ValueError(
                f"{other!r} and {table.source!r} are one name in a warehouse that ignores case"
            )
    if len(seen) < len(tables):
        raise ValueError("a table is listed twice")
    for table in tables:
        for keep in table.records:
            folded = record_table(table.name, keep).folded
            if folded in seen:
                raise ValueError(
                    f"{seen[folded]!r} has the name of the {RECORDS[keep]} of {table.source!r}"
                )
    check_enriched(tables)
    return tables
