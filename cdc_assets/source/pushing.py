"""What of a config's shaping the publication is to do, so that it never leaves the source.

With `push_down` the config says of each of its tables which columns and rows are published. What
can't be pushed is published, and left out behind decoding as without it. A table that is published
otherwise stands still until `setup` has written its entry: one that leaves out more would go
unnoticed.

What the server then refuses to writers (writers.py) is found before, by the same rules as for a
publication that is there.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pyarrow as pa

from cdc_assets.changes.shape import SourceColumn
from cdc_assets.config import PipelineConfig
from cdc_assets.config.shaping import ONE_TO_ONE
from cdc_assets.config.tables import TableConfig
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName, fold
from cdc_assets.shaping.pushdown import (
    Condition,
    NotPushedError,
    columns_in,
    sql,
    stored,
    translated,
)
from cdc_assets.source.catalog import UNKNOWN_FILTER, Catalog, SourceTable
from cdc_assets.source.publishing import entry, publish_sql
from cdc_assets.source.writers import Fault, PublishedAs, find_fault

_FULL = "its replica identity is FULL, which takes no column list"
_TO_BE_FULL = "the config asks for REPLICA IDENTITY FULL, which takes no column list"
_WHY: dict[Fault, str] = {
    "list": "its replica identity has columns that are left out",
    "filter": "it reads columns outside of the replica identity",
    "generated": "its replica identity has generated columns",
    "identity": "it has no replica identity",
}


@dataclass(frozen=True, slots=True)
class Pushed:
    """What is published of a table.

    Attributes:
        columns: Those that are; None: all.
        condition: Of the rows that are; None: all.
        left: What of the table's shaping is not pushed, each with why.
    """

    columns: tuple[str, ...] | None = None
    condition: Condition | None = None
    left: tuple[str, ...] = ()

    def entry(self, table: TableName) -> str:
        """Write it as the publication's entry."""
        return entry(table, self.columns or (), sql(self.condition) if self.condition else "")

    def describes(self, table: SourceTable) -> bool:
        """Whether it is what the publication has."""
        listed = table.published_as.columns
        if (set(listed) if listed is not None else None) != (
            set(self.columns) if self.columns is not None else None
        ):
            return False
        if not table.row_filter or self.condition is None:
            return not table.row_filter and self.condition is None
        if table.row_filter == UNKNOWN_FILTER:  # it is locked: another run finds it out
            return True
        return stored(table.row_filter, _columns(table)) == self.condition


def pushed(catalog: Catalog, table: SourceTable, config: PipelineConfig) -> Pushed:
    """Find what of a table's shaping its publication can do."""
    own = config.table(table.name)
    if (why := _published_otherwise(catalog, table)) is not None:
        wanted = [
            what
            for what, is_wanted in (("columns", _left_out(table, own)), ("where", own.where))
            if is_wanted
        ]
        return Pushed(left=tuple(f"{what}: {why}" for what in wanted))
    needs_full = _needs_full(table, own, is_linked=table.name in config.links.tables)
    columns, why_columns = _list(catalog, table, own, needs_full=needs_full)
    condition, why_condition = _filter(catalog, table, own, columns)
    return Pushed(columns, condition, tuple(filter(None, (why_columns, why_condition))))


def _published_otherwise(catalog: Catalog, table: SourceTable) -> str | None:
    name = repr(catalog.publication.name)
    if catalog.publication.all_tables:
        return f"publication {name} is FOR ALL TABLES, which have no entries of their own"
    if table.shape.publication.schema_entry:
        return f"publication {name} publishes its schema, whatever the table's own entry says"
    return None


def _left_out(table: SourceTable, config: TableConfig) -> bool:
    return len(_kept(table, config)) < len(table.columns)


def _kept(table: SourceTable, config: TableConfig) -> tuple[str, ...]:
    return tuple(
        column.name
        for column in table.columns
        if config.columns.keeps(column.name) or column.name in table.shape.key
    )


def _list(
    catalog: Catalog, table: SourceTable, config: TableConfig, *, needs_full: bool
) -> tuple[tuple[str, ...] | None, str]:
    if not _left_out(table, config):
        return None, ""
    kept = _kept(table, config)
    if catalog.publication.has_schemas:
        why = f"publication {catalog.publication.name!r} publishes schemas, and takes no list then"
    elif any(part.identity == "f" for part in table.parts):
        why = _FULL
    elif needs_full:
        why = _TO_BE_FULL
    else:
        why = _fault(catalog, table, PublishedAs(kept, (), catalog.publication.stored))
    if why:
        return None, f"columns: {why}"
    all_the_same = sorted(set(config.columns.exclude) & set(table.shape.key))
    if all_the_same:
        return kept, f"columns: {all_the_same[0]!r} is of the replica identity, which is published"
    return kept, ""


def _needs_full(table: SourceTable, config: TableConfig, *, is_linked: bool) -> bool:
    """Whether the config asks for whole old rows: a list in their way would stop writers.

    Args:
        table: The source's.
        config: The table's.
        is_linked: Whether it takes columns of others, or gives some.
    """
    chooses = bool(config.where) or config.transform is not None
    keeps_deleted = config.transform is not None and config.deletes == "soft"
    return (
        (chooses and bool(config.records))
        or any(config.mask.get(name) in ONE_TO_ONE for name in table.shape.key)
        or ((keeps_deleted or (chooses and is_linked)) and may_lack(config, table))
    )


def may_lack(config: TableConfig, source: SourceTable) -> bool:
    """Whether a change of a kept column may come without its value (TOAST)."""
    return any(
        config.columns.keeps(column.name) and not _is_fixed(column.type.own)
        for column in source.shape.columns
    )


def _is_fixed(arrow_type: pa.DataType) -> bool:
    return bool(pa.types.is_primitive(arrow_type)) or arrow_type == pa.uuid()


def _filter(
    catalog: Catalog, table: SourceTable, config: TableConfig, listed: tuple[str, ...] | None
) -> tuple[Condition | None, str]:
    if not config.where:
        return None, ""
    renamed = config.columns.rename
    named = {fold(renamed.get(column.name, column.name)): column for column in table.columns}
    try:
        condition = translated(config.where, named)
    except NotPushedError as error:
        return None, f"where: {error}"
    read = tuple(sorted(columns_in(condition)))
    why = _fault(catalog, table, PublishedAs(listed, read, catalog.publication.stored))
    return (None, f"where: {why}") if why else (condition, "")


def _fault(catalog: Catalog, table: SourceTable, published: PublishedAs) -> str:
    for part in table.parts:
        if (fault := find_fault(part, published, catalog.version)) is not None:
            return _WHY[fault]
    return ""


def _columns(table: SourceTable) -> dict[str, SourceColumn]:
    return {column.name: column for column in table.columns}


def entries(catalog: Catalog, config: PipelineConfig, names: Collection[TableName]) -> list[str]:
    """Write the entries of tables that are to be published."""
    return [
        pushed(catalog, catalog.tables[name], config).entry(catalog.tables[name].called)
        if config.source.push_down and name in catalog.tables
        else entry(catalog.tables[name].called if name in catalog.tables else name)
        for name in names
    ]


def other_entry(catalog: Catalog, config: PipelineConfig, name: TableName) -> str | None:
    """Write the entry that the config wants of a published table, where it has another one."""
    table = catalog.tables.get(name)
    if not config.source.push_down or table is None or not table.published:
        return None
    wanted = pushed(catalog, table, config)
    is_there = _published_otherwise(catalog, table) or wanted.describes(table)
    return None if is_there else wanted.entry(table.called)


def entry_problem(catalog: Catalog, config: PipelineConfig, name: TableName) -> TableError | None:
    """Say that a table is published otherwise than the config wants, if it is."""
    shown = other_entry(catalog, config, name)
    if shown is None:
        return None
    table, publication = catalog.tables[name], catalog.publication
    hint = "run 'cdc-assets setup'"
    if not (publication.owned and table.owned):
        hint = f"as the owner: {publish_sql(catalog, table, shown, config.table_names)}"
    return TableError(
        f"publication {publication.name!r} publishes other columns or rows of {str(name)!r} than "
        "the config asks for (source.push_down)",
        table=str(name),
        hint=f"{hint}; then {recopied(config, name)}",
    )


def recopied(config: PipelineConfig, name: TableName) -> str:
    """Say how a table is copied anew whose entry was replaced."""
    if config.copies_anew(name):
        return "the next sync copies it anew"
    return f"copy it anew: cdc-assets backfill {shlex.quote(str(name))}"


def not_pushed(catalog: Catalog, config: PipelineConfig, name: TableName) -> Iterator[str]:
    """Say what of a table's shaping is not pushed, and why; it is done all the same."""
    table = catalog.tables.get(name)
    if table is None or not config.source.push_down:
        return
    for left in pushed(catalog, table, config).left:
        what, _, why = left.partition(": ")
        if why == _WHY["filter"] and not _left_out(table, config.table(name)):
            why += f"; it is after ALTER TABLE {table.called.sql} REPLICA IDENTITY FULL, then"
            why += " 'cdc-assets setup'"
        yield f"{what!r} of table {str(name)!r} is not pushed down: {why}"
