"""Change tables and histories that go on no more: they stay as they are until somebody drops them.

What they have is what the config made of rows before: what is masked or left out now may be in
them as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from cdc_assets.config import PipelineConfig
from cdc_assets.config.tables import RECORDS
from cdc_assets.identifiers import TableName
from cdc_assets.shaping.columns import Shaping
from cdc_assets.warehouse.base import Warehouse


def left_notes(
    config: PipelineConfig, warehouse: Warehouse, shapings: Mapping[TableName, Shaping]
) -> Iterator[str]:
    """Say what stays in the warehouse of all tables, and what the next sync ends."""
    there = warehouse.mirrors.there()
    for table in config.table_names:
        yield from hiding_notes(warehouse, table, shapings[table])
        yield from _unwanted(config, warehouse, table, there)


def hiding_notes(warehouse: Warehouse, table: TableName, shaping: Shaping) -> Iterator[str]:
    """Say where values may still be that a table's config hides now."""
    if not (shaping.hides or any(one.masks for one in shaping.enrich)):
        return
    aside = [
        name
        for records in warehouse.records.values()
        for name in records.names(table)
        if name != records.name(table) and warehouse.mirrors.exists(name)
    ]
    if aside:
        yield (
            f"what was set aside when {str(table)!r} was shaped otherwise may have values that the"
            f" config masks or leaves out now: {', '.join(repr(str(one)) for one in aside)}; unless"
            f" you need it, in DuckDB: {_dropped(aside)}"
        )


def ended_note(table: TableName, name: TableName, keep: str) -> str:
    """Say that a run has ended one which the config does not ask for any more."""
    return (
        f"the {RECORDS[keep]} {str(name)!r} has ended, as {keep!r} is not in 'keep' of"
        f" {str(table)!r} any more: it stays, without what happens from then on; unless you"
        f" need it, in DuckDB: {_dropped([name])}"
    )


def _unwanted(
    config: PipelineConfig,
    warehouse: Warehouse,
    table: TableName,
    there: Collection[tuple[str, str]],
) -> Iterator[str]:
    for keep, records in warehouse.records.items():
        name = records.name(table)
        if keep in config.table(table).records or name.folded not in there:
            continue
        if table in records.read():
            yield (
                f"the next sync ends the {RECORDS[keep]} {str(name)!r}, as {keep!r} is not in"
                f" 'keep' of {str(table)!r} any more: it stays, without what happens from then on;"
                f" put {keep!r} back before if it is to go on"
            )
        elif name in records.names(table):
            yield ended_note(table, name, keep)


def _dropped(names: list[TableName]) -> str:
    return "; ".join(f"DROP TABLE {name.sql}" for name in names)
