"""What would keep a sync from running, found before one does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import (
    CdcError,
    CheckpointConflictError,
    ConfigError,
    PreflightError,
    ReplicationError,
    SlotAheadOfCheckpointError,
    SlotInvalidatedError,
    SlotNotFoundError,
    SourceChangedError,
    TableError,
    WarehouseBusyError,
    WarehouseError,
    WrongWarehouseError,
)
from cdc_assets.identifiers import TableName
from cdc_assets.pages import page
from cdc_assets.replication.evolving import is_mended, plan_evolution
from cdc_assets.replication.journal import read_journal
from cdc_assets.replication.left_records import left_notes
from cdc_assets.replication.names import new_names
from cdc_assets.replication.opening import look_at_both_ends
from cdc_assets.replication.partners import enrich_problems
from cdc_assets.replication.publishing import copy_note, copy_state
from cdc_assets.replication.session import Session, recopy_hint, shape_error
from cdc_assets.replication.shaping import shaping_problems
from cdc_assets.replication.unfit import widened_notes
from cdc_assets.source.catalog import SourceTable, read_catalog
from cdc_assets.source.connection import Connection, connect, translated
from cdc_assets.source.numerics import SAMPLE_ROWS, decimal_needs
from cdc_assets.source.preflight import (
    connection_problems,
    is_standby,
    publication_problems,
    server_problems,
    spare_slot_problems,
)
from cdc_assets.source.pushing import entry_problem, not_pushed
from cdc_assets.source.renamed import with_renamed
from cdc_assets.source.setup import conninfo_of
from cdc_assets.source.slot import read_slot
from cdc_assets.source.tables import (
    all_table_problems,
    failing_writers,
    gone_problem,
    notes_of,
    read_problems,
)
from cdc_assets.warehouse.opening import open_warehouse
from cdc_assets.warehouse.values import Checkpoint

# What a check would find as well: if it is not found, it is over
_LOOKED_AT = frozenset(
    kind.__name__
    for kind in (
        ConfigError,
        PreflightError,
        SlotNotFoundError,
        SlotInvalidatedError,
        SlotAheadOfCheckpointError,
        SourceChangedError,
        WrongWarehouseError,
        CheckpointConflictError,
        TableError,
    )
)


def find_problems(
    config: PipelineConfig, note: Callable[[str], None] = lambda _line: None
) -> list[CdcError]:
    """Look for everything that would keep a sync from running, and for all of it at once.

    Nothing is written, locked or made, at neither end.

    Args:
        config: The pipeline.
        note: Told what could not be looked at now, and what is no problem and good to know.
    """
    try:
        with connect(conninfo_of(config)) as control, translated(config.source.slot):
            problems = server_problems(control)
            if is_standby(control):
                return problems  # the rest can't be asked there
            problems += _source_problems(control, config, note)
    except ConfigError:
        raise
    except CdcError as error:
        return [error]  # without the source nothing else of it can be checked
    found = [*problems, *_problems_of_both(config, note)]
    found += _last_error(config, found)
    return list({problem.message: problem for problem in found}.values())


def _source_problems(
    control: Connection, config: PipelineConfig, note: Callable[[str], None]
) -> Iterator[CdcError]:
    """Find what is wrong at the source: what setup would refuse before what it would make."""
    names = config.table_names
    catalog = read_catalog(control, config.source.publication, names)
    known = _checkpoints(config)
    oids = {name: point.shape.oid for name, point in (known or {}).items()}
    catalog = with_renamed(control, catalog, config, oids)
    if (no_key := _no_mask_key(config)) is not None:
        yield no_key
    for name in names:
        point = (known or {}).get(name)
        gone = point and gone_problem(control, catalog, name, point.shape.oid)
        needs_key = config.table(name).keeps_mirror
        if gone:
            yield gone
        else:
            yield from all_table_problems(catalog, name, names, needs_key=needs_key)
        if (differs := entry_problem(catalog, config, name)) is not None:
            yield differs
        if (source := catalog.tables.get(name)) is not None:
            yield from shaping_problems(config, source)
            if no_key is None:
                yield from enrich_problems(config, name, catalog.tables)
        if known is not None and (point is None or point.phase == "copying"):
            yield from read_problems(catalog, name)
        notes = notes_of(catalog, name, needs_key=needs_key)
        for line in (*notes, *not_pushed(catalog, config, name)):
            note(line)
        if source is not None:
            if source.called != name:
                note(f"{_called(name, source)}: it goes on under the config's name")
            for line in (
                *_unknown_unfit(config, source),
                *_proposed_types(control, config, source),
            ):
                note(line)
        for line in widened_notes(name, point.shape) if point is not None else ():
            note(
                f"{line}; to have it in its type again correct the values, say stop for it in "
                f"'unfit_values', and {recopy_hint(name)}"
            )
    yield from publication_problems(catalog, names)
    try:
        read_slot(control, config.source.slot)
    except CdcError as error:
        yield error
    yield from spare_slot_problems(control)
    yield from connection_problems(control)
    for part, why in failing_writers(control, catalog, names):
        note(
            f"publication {catalog.publication.name!r} also publishes {str(part)!r}, whose UPDATE "
            f"and DELETE fail: {why}"
        )


def _called(name: TableName, source: SourceTable) -> str:
    return f"table {str(name)!r} is called {str(source.called)!r} on the source now"


def _unknown_unfit(config: PipelineConfig, source: SourceTable) -> Iterator[str]:
    """Say of which columns `unfit_values` speaks that are not there."""
    said = config.table(source.name).unfit_values
    for name in sorted(set(said) - set(source.shape.names)) if isinstance(said, dict) else ():
        yield f"unfit_values of {str(source.name)!r} names a column {name!r} that it does not have"


def _proposed_types(
    control: Connection, config: PipelineConfig, source: SourceTable
) -> Iterator[str]:
    """Say which type would hold the numbers that are kept as text for lack of a precision."""
    table = config.table(source.name)
    names = [
        column.name
        for column in source.shape.columns
        if column.type.is_unbounded_number
        and table.columns.keeps(column.name)
        and column.name not in (*table.columns.types, *table.mask, *source.shape.key)
    ]
    if not source.readable:
        return
    try:
        needs = decimal_needs(control, source, names)
    except CdcError as error:
        yield f"what numbers of {str(source.name)!r} need was not looked at: {error.message}"
        return
    for name, (precision, scale) in needs.items():
        yield (
            f"column {name!r} of {str(source.name)!r} is numeric without a precision, and kept as "
            f"text; its first rows ({SAMPLE_ROWS} at the most) need decimal({precision},{scale}): "
            f"to compute with it choose a type that has room: {page('types')}"
        )


def _no_mask_key(config: PipelineConfig) -> ConfigError | None:
    """Say that the key of the masks is not there, without which no row can be shaped."""
    try:
        config.mask_secret()
    except ConfigError as error:
        return error
    return None


def _checkpoints(config: PipelineConfig) -> dict[TableName, Checkpoint] | None:
    """Read the warehouse's checkpoints; None where it can't be asked now."""
    if not config.warehouse_path.exists():
        return {}
    try:
        warehouse = open_warehouse(config, read_only=True)
    except WarehouseError:  # whoever looks at both ends says so
        return None
    try:
        return warehouse.state.read()
    finally:
        warehouse.close()


def _problems_of_both(config: PipelineConfig, note: Callable[[str], None]) -> list[CdcError]:
    try:
        with look_at_both_ends(config) as session:
            for line in left_notes(config, session.warehouse, session.shapings):
                note(line)
            known = session.warehouse.state.read()
            for before, name in new_names(
                config, session.catalog, session.warehouse, session.identity, known
            ).items():
                note(f"what is kept as {str(before)!r} is {str(name)!r} from the next sync on")
            return [
                *session.failed.values(),
                *_known_failures(session, note),
                *_unwritable(config.warehouse_path),
                *_unpublishable(config, session),
            ]
    except WarehouseBusyError:
        path = str(config.warehouse_path)
        note(f"warehouse {path!r} is in use, most likely by a run: it was not looked at")
        return []
    except CdcError as error:
        return [error]


def _last_error(config: PipelineConfig, found: list[CdcError]) -> Iterator[CdcError]:
    """Give what ended the last sync, where only a sync can meet it."""
    journal = read_journal(config)
    error = journal.run.error if journal else None
    if error is None or error.kind in _LOOKED_AT or error.retryable:
        return
    if any(problem.message in error.message for problem in found):
        return
    yield ReplicationError(
        f"the last sync failed: {error.message}",
        hint=f"{error.hint}; if the cause is gone, run 'cdc-assets sync' again".lstrip("; "),
    )


def _unwritable(path: Path) -> Iterator[WarehouseError]:
    """Find out whether the warehouse can be written, or made."""
    place = path if path.exists() else path.parent
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK) or not (place == path or place.is_dir()):
        yield WarehouseError(
            f"warehouse {str(path)!r} can't be written: {str(place)!r} does not allow it",
            hint="check warehouse.duckdb.path and its permissions",
        )


def _unpublishable(config: PipelineConfig, session: Session) -> Iterator[WarehouseError]:
    """Find out whether a copy for readers can be put where it shall be."""
    target = config.publish_path
    if target is None:
        return
    folder = target.parent
    made_anyway = folder == config.warehouse_path.parent
    if not made_anyway and not (folder.is_dir() and os.access(folder, os.W_OK)):
        yield WarehouseError(
            f"no copy can be published at {str(target)!r}: its folder is not there or can't be"
            " written",
            hint="make the folder, or correct warehouse.duckdb.publish",
        )
    elif copy_state(config, session.warehouse) == "foreign":
        yield WarehouseError(
            copy_note(config, session.warehouse),
            hint="a database of somebody else is never replaced",
        )


def _known_failures(session: Session, note: Callable[[str], None]) -> Iterator[CdcError]:
    """Find tables that the next sync will leave behind, as far as that is known before it."""
    for table, checkpoint in session.checkpoints.items():
        if table in session.failed:
            continue
        altered = shape_error(session, table) if checkpoint.phase == "streaming" else None
        if altered is not None and plan_evolution(session, table) is not None:
            note(f"{altered.message}: the next sync alters what is kept of it in place")
        elif altered is not None and is_mended(session, table, altered):
            note(f"{altered.message}: the next sync copies it anew")
        elif altered is not None:
            yield altered
        elif checkpoint.error:
            yield TableError(
                f"the last sync left {str(table)!r} behind: {checkpoint.error}",
                table=str(table),
                hint="run 'cdc-assets sync' again if the cause is gone, or " + recopy_hint(table),
            )
