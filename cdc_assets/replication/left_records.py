"""Change tables and histories that go on no more: they stay as they are until somebody drops them.

What they have is what the config made of rows before: what is masked or left out now may be in
them as it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from cdc_assets.config import PipelineConfig
from cdc_assets.config.tables import RECORDS
from cdc_assets.identifiers import TableName
from cdc_assets.shaping.columns import Shaping
from cdc_assets.warehouse.base import Warehouse


def left_notes(
    config: PipelineConfig, warehouse: Warehouse, shapings: Mapping[TableName, Shaping]
) -> Iterator[str]:
    """Say what stays in the warehouse of all tables, and what the next sync ends."""
    yield from hiding_notes(warehouse, {table: shapings[table] for table in config.table_names})
    yield from _unwanted(config, warehouse)


def hiding_notes(warehouse: Warehouse, shapings: Mapping[TableName, Shaping]) -> Iterator[str]:
    """Say where values may still be that the config of some tables hides now."""
    hiding = [
        table
        for table, shaping in shapings.items()
        if shaping.hides or any(one.masks for one in shaping.enrich)
    ]
    if not hiding:
        return
    there, names = warehouse.mirrors.there(), defaultdict[TableName, list[TableName]](list)
    for records in warehouse.records.values():
        for table, made in records.names(hiding).items():
            names[table] += [name for name in made if name != records.name(table)]
    for table in hiding:
        aside = [name for name in names[table] if name.folded in there]
        if aside:
            yield (
                f"what was set aside when {str(table)!r} was shaped otherwise may have values that"
                " the config masks or leaves out now: "
                f"{', '.join(repr(str(one)) for one in aside)}; unless you need it, in DuckDB: "
                f"{_dropped(aside)}"
            )


def ended_note(table: TableName, name: TableName, keep: str) -> str:
    """Say that a run has ended one which the config does not ask for any more."""
    return (
        f"the {RECORDS[keep]} {str(name)!r} has ended, as {keep!r} is not in 'keep' of"
        f" {str(table)!r} any more: it stays, without what happens from then on; unless you"
        f" need it, in DuckDB: {_dropped([name])}"
    )


def _unwanted(config: PipelineConfig, warehouse: Warehouse) -> Iterator[str]:
    there = warehouse.mirrors.there()
    for keep, records in warehouse.records.items():
        going_on = records.read()
        left = [
            table
            for table in config.table_names
            if keep not in config.table(table).records and records.name(table).folded in there
        ]
        for table, names in records.names(left).items():
            name = records.name(table)
            if table in going_on:
                yield (
                    f"the next sync ends the {RECORDS[keep]} {str(name)!r}, as {keep!r} is not in"
                    f" 'keep' of {str(table)!r} any more: it stays, without what happens from then"
                    f" on; put {keep!r} back before if it is to go on"
                )
            elif name in names:
                yield ended_note(table, name, keep)


def _dropped(names: list[TableName]) -> str:
    return "; ".join(f"DROP TABLE {name.sql}" for name in names)
