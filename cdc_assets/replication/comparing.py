"""The cross-check of a run's two ends, and which tables can't go on for what it finds.

The warehouse's checkpoint is the only truth; the slot's position must be at or before it, and both
must speak of the same server.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from itertools import chain

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError, SlotAheadOfCheckpointError, SourceChangedError, TableError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import WalIdentity
from cdc_assets.replication.partners import enrich_problems, partner_errors
from cdc_assets.replication.recording import record_problems
from cdc_assets.replication.session import (
    RECOPY_ALL_HINT,
    Session,
    recopy_hint,
    reshaped_error,
    shape_error,
)
from cdc_assets.replication.shaping import shaping_problems
from cdc_assets.shaping.columns import Shaping
from cdc_assets.source.catalog import SourceTable
from cdc_assets.source.pushing import entry_problem
from cdc_assets.source.slot import current_end
from cdc_assets.source.tables import gone_problem, read_problems, table_problems
from cdc_assets.warehouse.base import Mirrors
from cdc_assets.warehouse.values import Checkpoint


def compare(session: Session) -> None:
    """Check both ends against each other; tables that can't go on are in `failed`.

    Raises:
        SourceChangedError: The warehouse is of another server, or of a later state of this one.
    """
    _check_identity(session)
    session.failed = {
        **_unreadable(session),
        **_left_over_mirrors(session),
        **table_problems(
            session.catalog, session.config.table_names, unmirrored=session.config.unmirrored
        ),
        **_gone_tables(session),
        **_keys_made_anew(session),
        **_not_brought(session),
        **_gone_changes(session),
        **record_problems(session),
        **altered_mirrors(session.mirrors, _streaming(session), session.shapings),
        **_published_otherwise(session),  # what is copied before that is put right is copied twice
        **unshapable(session.config, session.config.table_names, session.catalog.tables),
    }
    session.failed |= partner_errors(session, session.config.table_names)


def _streaming(session: Session) -> dict[TableName, Checkpoint]:
    """Give the checkpoints of mirrors that go on; another one's copy starts over if need be."""
    return {
        table: point for table, point in session.checkpoints.items() if point.phase == "streaming"
    }


def _check_identity(session: Session) -> None:
    here = session.identity
    for table, checkpoint in session.checkpoints.items():
        there = checkpoint.identity
        if there != here:
            raise SourceChangedError(
                f"the warehouse's checkpoint of {str(table)!r} is of {_describe(there)}, "
                f"the source is {_describe(here)}",
                hint="correct source.dsn; if the source was replaced on purpose, "
                + RECOPY_ALL_HINT,
            )
    end = current_end(session.control)
    ahead = [checkpoint for checkpoint in session.checkpoints.values() if checkpoint.lsn > end]
    if ahead:
        raise SourceChangedError(
            f"the source's WAL ends at {end}, before the warehouse's checkpoint {ahead[0].lsn}: "
            "it was restored from an older copy",
            hint=RECOPY_ALL_HINT,
        )


def _describe(identity: WalIdentity) -> str:
    return (
        f"system {identity.system_identifier}, timeline {identity.timeline}, "
        f"database {identity.database!r}, slot {identity.slot!r}"
    )


def _gone_changes(session: Session) -> dict[TableName, CdcError]:
    """Find tables whose next changes the slot can't give any more."""
    confirmed = session.slot.confirmed_lsn
    gone = [table for table, point in _streaming(session).items() if confirmed > point.lsn]
    every = len(gone) == len(session.config.table_names)
    return {
        table: SlotAheadOfCheckpointError(
            f"slot {session.config.source.slot!r} is at {confirmed}, past the checkpoint "
            f"{session.checkpoints[table].lsn} of {str(table)!r} in the warehouse",
            hint="changes in between are gone: "
            + (RECOPY_ALL_HINT if every else recopy_hint(table)),
        )
        for table in gone
    }


def refuse_passed(session: Session) -> None:
    """Check that a slot without a mark has not passed everything that this warehouse has.

    Then it has served another one, or was made anew.

    Raises:
        SlotAheadOfCheckpointError: It has.
    """
    gone = _gone_changes(session)
    if gone and len(gone) == len(session.checkpoints):
        first = next(iter(gone.values()))
        hint = "if this is the right warehouse, changes in between are gone: " + RECOPY_ALL_HINT
        raise SlotAheadOfCheckpointError(first.message, hint=hint)


def _unreadable(session: Session) -> dict[TableName, CdcError]:
    """Find tables that are to be copied and can't be read."""
    to_copy = (
        table
        for table in session.config.table_names
        if table not in session.checkpoints or session.checkpoints[table].phase == "copying"
    )
    found = {table: next(read_problems(session.catalog, table), None) for table in to_copy}
    return {table: problem for table, problem in found.items() if problem is not None}


def _published_otherwise(session: Session) -> dict[TableName, CdcError]:
    """Find tables whose entry in the publication is not the one that the config wants."""
    names = session.config.table_names
    found = {name: entry_problem(session.catalog, session.config, name) for name in names}
    return {table: problem for table, problem in found.items() if problem is not None}


def unshapable(
    config: PipelineConfig,
    tables: Iterable[TableName],
    sources: Mapping[TableName, SourceTable],
) -> dict[TableName, CdcError]:
    """Find those of some tables that can't be shaped as the config says.

    Args:
        config: The pipeline.
        tables: Of its tables.
        sources: All of them, as far as the source has them.
    """
    found = {
        name: next(
            chain(
                shaping_problems(config, sources[name]),
                enrich_problems(config, name, sources),
            ),
            None,
        )
        for name in tables
        if name in sources
    }
    return {table: problem for table, problem in found.items() if problem is not None}


def _gone_tables(session: Session) -> dict[TableName, CdcError]:
    """Find tables that have been dropped or got another name since they were copied."""
    found = {
        table: gone_problem(session.control, session.catalog, table, point.shape.oid)
        for table, point in _streaming(session).items()
    }
    return {table: problem for table, problem in found.items() if problem is not None}


def _keys_made_anew(session: Session) -> dict[TableName, CdcError]:
    """Find tables whose changes on the slot may not have had one row per key."""
    sources = session.catalog.tables
    return {
        table: error
        for table, point in _streaming(session).items()
        if table in sources
        and (sources[table].shape.oid, sources[table].shape.key)
        == (point.shape.oid, point.shape.key)
        and sources[table].shape.key_origin != point.shape.key_origin
        and (error := shape_error(session, table)) is not None
    }


def _left_over_mirrors(session: Session) -> dict[TableName, CdcError]:
    there = session.mirrors.there()
    return {
        table: TableError(
            f"table {str(table)!r} exists in the warehouse without a checkpoint of this pipeline",
            table=str(table),
            hint="rename or drop it (cdc-assets teardown --drop-tables --table "
            f"{shlex.quote(str(table))}), then run 'cdc-assets sync' again",
        )
        for table in session.config.table_names
        if table not in session.checkpoints and session.is_mirrored(table) and table.folded in there
    }


def altered_mirrors(
    mirrors: Mirrors,
    checkpoints: Mapping[TableName, Checkpoint],
    shapings: Mapping[TableName, Shaping],
) -> dict[TableName, CdcError]:
    """Find mirrors that are not as they were made, and those that the config shapes otherwise."""
    shapes = {
        table: shapings[table].kept(point.shape)
        for table, point in checkpoints.items()
        if table in shapings and point.shape.shaping == shapings[table].declaration
    }
    found: dict[TableName, CdcError] = {
        table: reshaped_error(table, point.shape.shaping, shapings[table].declaration)
        for table, point in checkpoints.items()
        if table in shapings and table not in shapes
    }
    mirrored = {table: shape for table, shape in shapes.items() if shapings[table].is_mirrored}
    return found | {
        table: TableError(
            f"the mirror of {str(table)!r} {what}",
            table=str(table),
            hint="somebody else altered it: undo that, or " + recopy_hint(table),
        )
        for table, what in mirrors.altered(mirrored).items()
    }


def _not_brought(session: Session) -> dict[TableName, CdcError]:
    """Find mirrors with a generated column that the stream does not bring, or not any more."""
    return {
        table: error
        for table, point in _streaming(session).items()
        if (source := session.catalog.tables.get(table)) is not None
        and set(point.shape.names) & set(source.left_out)
        and (error := shape_error(session, table)) is not None
    }
