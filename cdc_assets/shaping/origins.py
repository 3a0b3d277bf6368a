"""Of which columns of the source each column of a kept table is made, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.progress import Origin
from cdc_assets.shaping.columns import Shaping
from cdc_assets.shaping.enriching import Enrichment
from cdc_assets.shaping.transforms import Transform

Origins = Mapping[str, tuple[Origin, ...]]


def origins_of(table: TableName, shaping: Shaping, source: TableShape) -> Origins:
    """Find the origins of every column that is kept of a table, in the warehouse's order.

    A change table and a history have the columns of the mirror, and the same origins.

    Args:
        table: Which.
        shaping: What the config makes of it.
        source: Its columns that are kept, as the source has them.
    """
    shape = shaping.given(source)
    given = {
        here.name: (_own(table, shaping, column, here.name),)
        for column, here in zip(source.columns, shape.columns, strict=False)
    }
    there = {column.name for column in source.enriched}
    for one in shaping.enrich:
        given |= {origin.column: (origin,) for origin in _taken(one) if origin.column in there}
    if shaping.transform is None:
        return given
    kept = shaping.kept(source)
    return {
        column.name: tuple(_through(shaping.transform, column, shape, given))
        for column in kept.columns
    }


def _own(table: TableName, shaping: Shaping, column: SourceColumn, name: str) -> Origin:
    return Origin(name, table, column.name, mask=shaping.mask.get(column.name, ""))


def _taken(enrich: Enrichment) -> Iterator[Origin]:
    joined = ", ".join(f"{here} = {there}" for here, there in enrich.on.items())
    joined += ", kept current" if enrich.is_current else ""
    for name, here in enrich.columns.items():
        mask = enrich.masks.get(name, "")
        yield Origin(here, enrich.partner, enrich.made_of[name], mask=mask, joined=joined)


def _through(
    transform: Transform, column: SourceColumn, shape: TableShape, given: Origins
) -> Iterator[Origin]:
    """Give the origins of a column behind a function."""
    name = column.name
    if name in shape.key:  # which it is not allowed to alter
        yield from given[name]
    elif column in shape.columns and name not in transform.lineage:
        yield from (replace(of, function=transform.reference) for of in given[name])
    else:
        for made_of in transform.lineage.get(name, given):
            for of in given.get(made_of, ()):
                yield replace(
                    of,
                    column=name,
                    function=transform.reference,
                    is_made=True,
                    is_said=name in transform.lineage,
                )
