"""Which tables were altered since their checkpoints, so that they can't go on from there.

A run asks once it knows its target, before it applies anything up to there. Whatever was altered by
then is in the catalog, and whatever was not published by then is on the slot or is nowhere. So a
table is left behind at its checkpoint, or all of its changes up to the target are there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from cdc_assets.changes.evolution import Evolution
from cdc_assets.changes.shape import TableShape
from cdc_assets.errors import CdcError, SchemaChangeError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.replication.evolving import plan_evolution
from cdc_assets.replication.session import Session, recopy_hint, shape_error
from cdc_assets.replication.shaping import shaping_problems
from cdc_assets.source.catalog import Catalog
from cdc_assets.source.omissions import SlotRange, find_omissions
from cdc_assets.source.partitions import truncated_by
from cdc_assets.source.preflight import publication_problems
from cdc_assets.source.slot import current_end
from cdc_assets.source.tables import table_problems


def find_altered(
    session: Session, tables: Collection[TableName], *, evolves: bool = False
) -> dict[TableName, CdcError]:
    """Read the catalog anew and compare it with the checkpoints.

    Of a table that can go on, the checkpoint takes over what the catalog says now.

    Args:
        session: The run's; how tables can follow that were altered is in `evolutions`.
        tables: Which are asked for.
        evolves: Whether what is kept of them is altered with them.

    Raises:
        CdcError: The publication leaves out changes of every table, or the source refuses.
    """
    if not tables:
        return {}
    names = session.config.table_names
    catalog = session.read_catalog(names)
    for problem in publication_problems(catalog, names):
        raise problem
    session.catalog = catalog
    found: dict[TableName, CdcError] = {
        table: problem
        for table, problem in table_problems(
            catalog, names, unmirrored=session.config.unmirrored
        ).items()
        if table in tables
    }
    planned: dict[TableName, Evolution] = {}
    for table in set(tables) - found.keys():
        altered = shape_error(session, table)
        if altered is None:
            continue
        found[table] = next(shaping_problems(session.config, catalog.tables[table]), altered)
        may_follow = evolves and found[table] is altered and altered.cause == "altered"
        plan = plan_evolution(session, table) if may_follow else None
        if plan is not None:
            planned[table] = plan
            del found[table]
    found |= _left_out(session, [table for table in tables if table not in found])
    for table in tables:
        session.evolutions.pop(table, None)
        session.emptied.pop(table, None)
    session.evolutions |= {table: plan for table, plan in planned.items() if table not in found}
    _take_over(session, [table for table in tables if table not in found])
    return found


def plans_since(session: Session, before: Catalog) -> dict[TableName, Evolution]:
    """Give the plans for tables of which the catalog says what it said when it was read before."""
    now, then = session.catalog.tables, before.tables
    return {
        table: plan
        for table, plan in session.evolutions.items()
        if table in then and then[table].shape == now[table].shape
    }


def _left_out(session: Session, tables: Iterable[TableName]) -> dict[TableName, CdcError]:
    """Of tables whose publication was altered, find those that lack changes, or may lack some."""
    suspects: dict[LSN, list[TableName]] = {}
    for table in tables:
        checkpoint = session.checkpoints[table]
        known = checkpoint.shape.publication
        now = session.source_table(table).shape.publication
        if known.publication and known.version != now.version:
            suspects.setdefault(checkpoint.lsn, []).append(table)
    if not suspects:
        return {}
    # Behind the catalog's state: what was left out before that stands before this position
    end = current_end(session.control)
    found: dict[TableName, CdcError] = {}
    for start, group in suspects.items():
        source = session.config.source
        omissions = find_omissions(
            session.control,
            SlotRange(
                source.slot, source.publication, start, end, session.config.window.max_wal_bytes
            ),
            [session.source_table(table) for table in group],
        )
        for table in group if omissions.unknown else omissions.tables:
            found[table] = _left_out_error(session, table, omissions.unknown)
    return found


def _left_out_error(session: Session, table: TableName, unknown: str) -> SchemaChangeError:
    name = repr(str(table))
    if unknown:
        what = f"what it left out of {name} meanwhile can't be known {unknown}"
    elif session.source_table(table).shape.publication.row_filter:
        what = f"what it left out of {name} meanwhile can't be told from what the row filter does"
    else:
        what = f"changes of {name} were left out meanwhile"
    return SchemaChangeError(
        f"publication {session.config.source.publication!r} of the source was altered since the "
        f"last sync: {what}",
        table=str(table),
        lsn=str(session.checkpoints[table].lsn),
        hint=recopy_hint(table),
        what=what,
    )


def _seen_as(session: Session, table: TableName, shape: TableShape, now: TableShape) -> TableShape:
    """Take over what the catalog says, but for files of which the stream has to tell."""
    if shape.partitions and not shape.keeps_files(now):
        if (by := truncated_by(session.control, shape, now)) is not None:
            session.emptied[table] = by
        now = replace(now, partitions=shape.partitions)
    return shape.seen_as(now)


def _take_over(session: Session, tables: Iterable[TableName]) -> None:
    changed = []
    for table in tables:
        checkpoint, now = session.checkpoints[table], session.source_table(table).shape
        shape = replace(checkpoint.shape, publication=now.publication)
        if checkpoint.phase == "streaming" and table not in session.evolutions:
            shape = _seen_as(session, table, shape, now)
        if shape != checkpoint.shape:
            changed.append(replace(checkpoint, shape=shape))
    if changed:
        with session.warehouse.transaction():
            for checkpoint in changed:
                session.put(checkpoint)
