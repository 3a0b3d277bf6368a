"""Of which columns of the source each column of a kept table is made, and how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.progress import Origin
from cdc_assets.shaping.columns import Shaping
from cdc_assets.shaping.enriching import Enrichment
from cdc_assets.shaping.transforms import Transform

Origins = Mapping[str, tuple[Origin, ...]]


def origins_of(
    table: TableName,
    shapings: Mapping[TableName, Shaping],
    shapes: Mapping[TableName, TableShape],
) -> Origins:
    """Find the origins of every column that is kept of a table, in the warehouse's order.

    A change table and a history have the columns of the mirror, and the same origins.

    Args:
        table: Which.
        shapings: What the config makes of each table.
        shapes: Columns of the source that are kept, as it has them: of this table, and of those
            that it takes columns of.
    """
    shaping, source = shapings[table], shapes[table]
    shape = shaping.given(source)
    given: dict[str, tuple[Origin, ...]] = {
        here.name: (_own(table, shaping, column, here.name),)
        for column, here in zip(source.columns, shape.columns, strict=False)
    }
    for one in shaping.enrich:
        there = origins_of(one.partner, shapings, shapes) if one.partner in shapes else {}
        for name, here in one.columns.items():
            if name in there:
                given[here] = tuple(_taken(one, here, there[name]))
    if shaping.transform is None:
        return given
    kept = shaping.kept(source)
    return {
        column.name: tuple(_through(shaping.transform, column, shape, given))
        for column in kept.columns
    }


def _own(table: TableName, shaping: Shaping, column: SourceColumn, name: str) -> Origin:
    return Origin(name, table, column.name, mask=shaping.mask.get(column.name, ""))


def _taken(enrich: Enrichment, name: str, there: Iterable[Origin]) -> Iterator[Origin]:
    joined = ", ".join(f"{here} = {key}" for here, key in enrich.on.items())
    joined += ", kept current" if enrich.is_current else ""
    return (replace(origin, column=name, joined=joined) for origin in there)


def _through(
    transform: Transform, column: SourceColumn, shape: TableShape, given: Origins
) -> Iterator[Origin]:
    """Give the origins of a column behind a function."""
    name = column.name
    if name in shape.key:  # which it is not allowed to alter
        yield from given[name]
    elif column in shape.columns and name not in transform.lineage:
        yield from (replace(of, function=_behind(of, transform)) for of in given[name])
    else:
        for made_of in transform.lineage.get(name, given):
            for of in given.get(made_of, ()):
                yield replace(
                    of,
                    column=name,
                    function=_behind(of, transform),
                    is_made=True,
                    is_said=name in transform.lineage,
                )


def _behind(origin: Origin, transform: Transform) -> str:
    """Name the functions on a column's way: a partner may have one as well."""
    return ", ".join(filter(None, (origin.function, transform.reference)))
