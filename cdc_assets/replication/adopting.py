"""A table that something else has copied, taken as complete at an LSN, and proven.

What was copied can't be compared at that LSN any more, since the source has gone on. So the stream
is applied from there, which checks every change against the rows, and then both ends are compared
at one LSN. A table that differs is given back: it is no mirror then.
"""

from __future__ import annotations

from collections.abc import Generator

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pages import page
from cdc_assets.progress import ReconcileEvent, RunMark, TableCompared
from cdc_assets.replication.opening import open_session
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.replication.session import Session
from cdc_assets.replication.tracing import Tracing
from cdc_assets.source.slot import current_end
from cdc_assets.source.tables import table_problems
from cdc_assets.warehouse.values import Checkpoint


def adopt(config: PipelineConfig, table: TableName, at_lsn: LSN) -> Generator[ReconcileEvent]:
    """Take a table of the warehouse as the mirror that it was at an LSN, and prove it.

    Args:
        config: The pipeline.
        table: One of its tables, without a checkpoint, in the warehouse with the columns that its
            mirror would have; those that the product adds may be lacking.
        at_lsn: The rows are those of all transactions that end at or before it, and of no other.

    Yields:
        An event per chunk and window, and `TableCompared`.

    Raises:
        TableError: The table can't be adopted, or it differs; then it has no checkpoint.
        CdcError: The source or the warehouse refuses.
    """
    run = RunMark("adopt")
    with open_session(config, run=run, copies_anew=True, takes_turns=True) as session:
        _take(session, table, at_lsn)
    compared: TableCompared | None = None
    for event in reconcile(config, tables=[table], run=run):
        compared = event if isinstance(event, TableCompared) else compared
        yield event
    if compared is None or not compared.equal:
        with (
            open_session(config, run=run, copies_anew=True, takes_turns=True) as session,
            session.warehouse.transaction(),
        ):
            session.state.forget(table)
        why = compared.not_compared if compared is not None else ""
        raise TableError(
            f"table {str(table)!r} was not adopted: {why or 'it differs from the source'}",
            table=str(table),
            hint="the changes since then are applied to it; drop it and copy it again, or let "
            f"'cdc-assets teardown --drop-tables --table {table}' and a sync make a mirror",
        )


def _take(session: Session, table: TableName, at_lsn: LSN) -> None:
    if not session.is_mirrored(table):
        raise TableError(
            f"table {str(table)!r} can't be adopted: its changes alone are kept, and what there is "
            "in the warehouse has none",
            table=str(table),
            hint="run 'cdc-assets sync', which begins a change table",
        )
    problem = table_problems(session.catalog, [table]).get(table)
    if problem is not None:
        raise problem
    _refuse(session, table, at_lsn)
    shape, tracing = session.source_shape(table), Tracing(session)
    with session.warehouse.transaction():
        kept = session.shaping(table).kept(shape)
        session.mirrors.add_missing_columns(table, kept, at_lsn)
        altered = session.mirrors.altered({table: kept})
        if altered:
            raise TableError(
                f"table {str(table)!r} can't be adopted: it {altered[table]}",
                table=str(table),
                hint=f"copy it with the columns that a mirror has: {page('types')} lists the types",
            )
        session.put(
            Checkpoint(
                table=table,
                lsn=at_lsn,
                phase="streaming",
                shape=shape,
                identity=session.identity,
            )
        )
        session.state.note_placed(table, shape)
        tracing.placed(table, session.mirrors.row_count(table), [at_lsn])
        tracing.write(at_lsn, at_lsn)


def _refuse(session: Session, table: TableName, at_lsn: LSN) -> None:
    name, slot = repr(str(table)), session.config.source.slot
    confirmed, end = session.slot.confirmed_lsn, current_end(session.control)
    why = hint = ""
    if table in session.checkpoints:
        why = f"table {name} has a checkpoint already"
        hint = "run 'cdc-assets reconcile' to prove it"
    elif not session.mirrors.exists(table):
        why, hint = f"table {name} is not in the warehouse", "run 'cdc-assets sync' to copy it"
    elif at_lsn < confirmed:
        why = f"slot {slot!r} is at {confirmed}, past {at_lsn}: changes of {name} are gone"
        hint = "copy the table again while the slot is there, at an LSN past the slot's"
    elif at_lsn > end:
        why = f"the source's WAL ends at {end}, before {at_lsn}"
        hint = "give the LSN at which the table was copied: pg_current_wal_lsn() of that snapshot"
    elif session.shaping(table).enrich:
        why = f"table {name} takes columns of another, and nobody knows as of when it has them"
        hint = "drop it from the warehouse, and run 'cdc-assets sync' to copy it"
    if why:
        raise TableError(why, table=str(table), hint=hint)
