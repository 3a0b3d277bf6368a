"""How a copy ends: put in the mirror's place, or compared with it, when both are as of one LSN."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from cdc_assets.changes.buckets import Bucket
from cdc_assets.changes.shape import TableShape
from cdc_assets.config.tables import CHANGES
from cdc_assets.identifiers import TableName, record_table
from cdc_assets.replication.carrying import carried_columns
from cdc_assets.replication.chunk_rows import not_transformed
from cdc_assets.replication.fencing import read_anew
from cdc_assets.replication.partners import are_partners_there
from cdc_assets.replication.recording import (
    begin_recording,
    note_begun,
    records_in_order,
    wanted_records,
)
from cdc_assets.replication.renewing import renew_differing
from cdc_assets.replication.session import Session, refusals_of
from cdc_assets.replication.tracing import Tracing, note_lineage
from cdc_assets.shaping.enriching import Enrichment
from cdc_assets.shaping.functions import FunctionError
from cdc_assets.steps import reached
from cdc_assets.warehouse.values import Checkpoint, Copy, Differences, Moment

_MANY = 1_000_000


def put_in_place(session: Session, copy: Copy) -> Differences:
    """End a copy that is as of its table's checkpoint: the mirror's part becomes what it is.

    Only rows that differ are written, where the mirror can take them; else the copy takes its place
    as a whole. Rows that the copy still lacks are read anew into the mirror, as the stream's are.

    Returns:
        How the mirror differed.
    """
    table, checkpoint = copy.table, session.checkpoints[copy.table]
    placed = replace(checkpoint, phase="streaming", error="")
    if not session.is_mirrored(table):
        return _put_changes_in_place(session, copy, placed)
    tracing = Tracing(session)
    with session.warehouse.transaction(), refusals_of(table):
        gaps = session.copy_state.gaps(copy, _MANY)
        if gaps:  # what is kept beside the mirror would lack them
            session.end_records(table)
        fits = _fits(session, copy, checkpoint)
        goes_on = records_in_order(session, table) if fits else ()
        moment = session.moment(table)
        kept = session.kept_shape(table)
        if kept.enriched and checkpoint.phase == "copying":
            # of an old mirror nobody knows any more when its rows were written
            _fill(session, copy, session.shaping(table).enrich)
            _put_through(session, copy)
            kept = replace(kept, enriched=())
        if fits:
            found = _compared(
                session, copy, kept, moment, tracing=tracing, write=True, recorded=goes_on
            )
        else:
            found = session.stages.replace(
                copy,
                session.kept_shape(table),
                lsn=checkpoint.lsn,
                carried=carried_columns(session, table),
            )
        recorded = dict.fromkeys(goes_on, found.count)
        if checkpoint.phase == "copying":
            # whoever deleted rows of the mirror has left no difference where the source did, too
            for keep in goes_on:
                records = session.warehouse.records[keep]
                recorded[keep] += records.append_gone(table, kept, moment)
        begins = [keep for keep in wanted_records(session, table) if keep not in goes_on]
        if checkpoint.phase != "copying" or gaps:
            begins = []  # `begin_wanted` begins them, once the stream has passed what is read anew
        begin_recording(session, table, begins)
        for keep in goes_on:
            session.warehouse.records[keep].resume(table, moment)
        if gaps:
            read_anew(session, table, gaps)
        _trace(session, tracing, table, found, recorded)
        for keep in begins:
            tracing.recorded(table, keep, session.mirrors.row_count(record_table(table, keep)))
        tracing.write(moment.lsn, moment.lsn)
        if checkpoint.phase == "copying":
            session.state.write(placed)
            session.state.note_placed(table, checkpoint.shape)
        note_lineage(session, [table])
        session.drop_copy(copy)
        session.state.renew_stamp()
        reached("copy_staged")
    session.checkpoints[table] = placed
    note_begun(session, table, begins)
    reached("copy_placed")
    return found


def _put_changes_in_place(session: Session, copy: Copy, placed: Checkpoint) -> Differences:
    """Put a change table that was begun anew in the place of the one of before, if there is one."""
    table, change_tables = copy.table, session.change_tables
    tracing = Tracing(session)
    with session.warehouse.transaction(), refusals_of(table):
        before = session.mirrors.row_count(change_tables.name(table))
        read = change_tables.put_in_place(table, copy.stage, session.moment(table))
        session.warehouse.moments.drop(table)  # of before; without a key there are none
        tracing.placed(table, copy.rows, read)
        tracing.write(placed.lsn, placed.lsn)
        note_lineage(session, [table])
        if session.is_copied_anew(table):
            session.state.write(placed)
        session.drop_copy(copy)
        session.state.renew_stamp()
        reached("copy_staged")
    session.checkpoints[table] = placed
    note_begun(session, table, [CHANGES])
    reached("copy_placed")
    return Differences(rows=copy.rows, mirror_rows=before, missing=copy.rows, different=0, extra=0)


def _compared(
    session: Session,
    copy: Copy,
    shape: TableShape,
    moment: Moment,
    *,
    tracing: Tracing,
    plan: Sequence[Bucket] = (),
    write: bool,
    recorded: Collection[str],
) -> Differences:
    """Compare a copy with its mirror; what is written then goes to its records as well.

    What rows take of others is compared where they have what these are now; else two right values
    may differ, and rows that are written get what there is now.
    """
    shaping = session.shaping(copy.table)
    enrich = shaping.enrich if shape.enriched else ()
    of_then = [one for one in enrich if not one.is_current]
    if shape.enriched and shaping.is_late:
        # what a function makes of it is compared, as of what the mirror's row has taken
        _fill(session, copy, enrich)
        session.warehouse.enriched.keep(copy, of_then, shape)
        _put_through(session, copy)
        of_then = []
    elif shape.enriched:
        _fill(session, copy, [one for one in enrich if one.is_current])
    left_out = {name for one in of_then for name in one.columns.values()}
    shape = replace(
        shape, enriched=tuple(column for column in shape.enriched if column.name in left_out)
    )

    def record() -> None:
        _fill(session, copy, of_then, differing=True)
        for table, rows in renew_differing(session, copy).items():
            tracing.placed(table, rows, [moment.lsn] if rows else [])
        for keep in recorded:
            records = session.warehouse.records[keep]
            records.append_differing(copy, shape, moment)

    return session.stages.compare(
        copy, shape, lsn=moment.lsn, plan=plan, write=write, before_write=record
    )


def _fill(
    session: Session, copy: Copy, enrich: Sequence[Enrichment], *, differing: bool = False
) -> None:
    """Give a copy's rows what they take of others, or those of them that differ."""
    tables = [copy.table, *(one.partner for one in enrich)]
    shapes = {table: session.kept_shape(table) for table in tables}
    session.warehouse.enriched.fill(copy, enrich, shapes, differing=differing)


def _trace(
    session: Session,
    tracing: Tracing,
    table: TableName,
    found: Differences,
    recorded: Mapping[str, int],
) -> None:
    """Note the rows that differed, where they were read, and how many went where else."""
    ahead = {fence.lsn for fence in session.fences.get(table, [])}  # read to complete the copy
    tracing.placed(table, found.count, found.read_lsns | ahead)
    for keep, rows in recorded.items():
        tracing.recorded(table, keep, rows)


def _put_through(session: Session, copy: Copy) -> None:
    """Put a copy's rows through the function that waits for what they take of others."""
    table = copy.table
    shaping, source = session.shaping(table), session.checkpoints[table].shape
    if not shaping.is_late:
        return
    made = TableName(copy.stage.schema, f"{copy.stage.name}_made")
    session.stages.create(made, session.kept_shape(table))
    for rows in session.stages.pages(copy.stage, session.staged_shape(table)):
        try:
            session.mirrors.insert(made, shaping.late_rows(rows, source))
        except FunctionError as error:
            raise not_transformed(table, error, session.checkpoints[table].lsn) from None
    session.stages.take_over(made, copy.stage)


def _fits(session: Session, copy: Copy, checkpoint: Checkpoint) -> bool:
    """Whether the mirror is one into which single rows of the copy can be written."""
    if checkpoint.phase == "streaming":
        return True
    if not session.mirrors.exists(copy.table):
        return False
    kept = session.kept_shape(copy.table)
    if session.mirrors.altered({copy.table: kept}):
        return False
    if kept.keeps_deleted and carried_columns(session, copy.table) != kept.names:
        return False
    # of another server, or of a later state of this one: a truncation would pass them over
    return session.stages.newest_lsn(copy.table) <= checkpoint.lsn


def compare(session: Session, copy: Copy, plan: Sequence[Bucket], *, write: bool) -> Differences:
    """End a copy that is as of its table's checkpoint, as the mirror is, and say how that differed.

    Args:
        session: The run's.
        copy: The copy.
        plan: The table's buckets.
        write: Whether what differs is made right.
    """
    tracing = Tracing(session)
    with session.warehouse.transaction(), refusals_of(copy.table):
        shape = session.kept_shape(copy.table)
        recorded = records_in_order(session, copy.table)
        moment = session.moment(copy.table)
        found = _compared(
            session,
            copy,
            shape,
            moment,
            tracing=tracing,
            plan=plan,
            write=write,
            recorded=recorded,
        )
        session.drop_copy(copy)
        if write:
            _trace(session, tracing, copy.table, found, dict.fromkeys(recorded, found.count))
            tracing.write(moment.lsn, moment.lsn)
            session.state.renew_stamp()
        reached("copy_staged")
    reached("copy_placed")
    return found


def is_settled(session: Session, copy: Copy, *, with_gaps: bool = False) -> bool:
    """Whether a copy is as of its table's checkpoint, as the mirror is.

    Args:
        session: The run's.
        copy: The copy.
        with_gaps: Whether it may lack rows of which a change did not carry all values.
    """
    lsn = session.checkpoints[copy.table].lsn
    of_chunks = [fence.lsn for fence in session.chunk_fences[copy.table, copy.part]]
    of_rows = [fence.lsn for fence in session.fences.get(copy.table, [])]
    if not are_partners_there(session, copy.table):
        return False
    is_linked = copy.table in session.config.links.tables
    goes_on = session.records_of(copy.table) and not session.is_copied_anew(copy.table)
    if is_linked or goes_on:
        with_gaps = False
    return (
        copy.is_read
        and max([*of_chunks, *of_rows], default=lsn) <= lsn
        and (with_gaps or not session.copy_state.gaps(copy, 1))
    )
