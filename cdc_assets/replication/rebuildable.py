"""What a rebuild is of, and what keeps a table from being rebuilt."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from cdc_assets.changes.shape import TableShape
from cdc_assets.config import PipelineConfig
from cdc_assets.config.tables import CHANGES, HISTORY, RECORDS
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName, fold, record_table
from cdc_assets.lsn import LSN
from cdc_assets.replication.session import recopy_hint, reshaped_error
from cdc_assets.replication.shaping import shapings
from cdc_assets.warehouse.base import Warehouse
from cdc_assets.warehouse.values import Checkpoint, Rebuild
from cdc_assets.wording import counted


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """What is made of which changes.

    Attributes:
        checkpoint: The table's.
        made: What is made.
        upto: As of which LSN.
        into: The name that it gets; None: it takes the mirror's place.
        ahead: Between which LSNs the changes do not tell all rows: some were read by themselves,
            and follow at the end.
        notes: What has to be said of it.
    """

    checkpoint: Checkpoint
    made: Rebuild
    upto: LSN
    into: TableName | None
    ahead: Sequence[tuple[LSN, LSN | None]]
    notes: tuple[str, ...] = ()

    def lacks_rows(self, first: LSN, last: LSN) -> bool:
        """Whether some rows are not known while changes of these LSNs are applied."""
        return any(low < last and (upto is None or first <= upto) for low, upto in self.ahead)


def plan_rebuild(
    config: PipelineConfig,
    warehouse: Warehouse,
    table: TableName,
    *,
    to_lsn: LSN | None,
    into: TableName | None,
) -> RebuildPlan:
    """Find what a rebuild is of; nothing is written.

    Raises:
        TableError: It can't be, and why.
    """
    said = config.table(table)
    if not said.keeps_mirror:
        raise _refusal(table, "it has no mirror", "its change table is all there is of it")
    if CHANGES not in said.records:
        raise _refusal(
            table,
            "its changes are not kept",
            f"keep: [mirror, changes] keeps them from the next sync on; until then {_anew(table)}",
        )
    checkpoint, bounds = warehouse.state.read().get(table), warehouse.change_tables.bounds(table)
    if checkpoint is None or bounds is None:
        raise _refusal(table, "its change table has not begun", "run 'cdc-assets sync'")
    since, ended = bounds.since.lsn, bounds.until
    shape = kept_shape(config, warehouse, checkpoint)
    last = checkpoint.lsn if ended is None else ended
    upto = last if to_lsn is None else to_lsn
    if not since <= upto <= last:
        raise _refusal(
            table,
            f"{upto} is not between {since} and {last}, where its change table has everything",
            f"give an LSN between them; at {since} the change table begins",
        )
    if into is None:
        _refuse_in_place(warehouse, checkpoint, ended, upto)
        if shape.keeps_deleted and (
            count := warehouse.rebuilds.untold_deletes(table, shape, since)
        ):
            raise _refusal(
                table,
                f"its mirror keeps {counted(count, 'row')} that were deleted before its changes "
                "were kept, which these do not tell",
                f"--into NAME makes it without them; {_anew(table)}",
            )
    else:
        _refuse_name(config, warehouse, table, into)
    ahead = warehouse.state.read_ahead(table)
    for between, why in (
        (ahead, "some of its rows are not known, as they were read ahead of the stream"),
        (warehouse.change_tables.gaps(table), "it was not followed, and was copied anew later"),
    ):
        _refuse_between(table, upto, between, why)
    notes = list[str]()
    if into is None and (begins := older_history(config, warehouse, table, since)) is not None:
        notes.append(
            f"the history of {table} begins at {begins}, its changes only at {since}: it is left "
            "as it is"
        )
    made = Rebuild(
        table=table,
        stage=stage_name(into or table),
        shape=shape,
        since=bounds.since,
        has_history=HISTORY in said.records and not notes,
    )
    return RebuildPlan(checkpoint, made, upto, into, ahead, tuple(notes))


def stage_name(name: TableName) -> TableName:
    """Name what is made while it is made, by what it will be."""
    return TableName(name.schema, f"{name.name}__cdc_rebuild")


def older_history(
    config: PipelineConfig, warehouse: Warehouse, table: TableName, since: LSN
) -> LSN | None:
    """Give where a table's history begins, if that is before its changes do."""
    bounds = warehouse.histories.bounds(table)
    if HISTORY not in config.table(table).records or bounds is None:
        return None
    return bounds.since.lsn if bounds.since.lsn < since else None


def _refuse_between(
    table: TableName, upto: LSN, between: Sequence[tuple[LSN, LSN | None]], why: str
) -> None:
    for low, high in between:
        if low < upto and (high is None or upto < high):
            way = f"or of {high}" if high else "and 'cdc-assets sync' brings it to where it is"
            raise _refusal(
                table,
                f"at {upto} {why}",
                f"--to-lsn {low} --into NAME makes it as of {low}, {way}",
            )


def kept_shape(config: PipelineConfig, warehouse: Warehouse, checkpoint: Checkpoint) -> TableShape:
    """Give the columns that a table's changes have.

    Raises:
        TableError: They are not what the config says, or what the table is made of now.
    """
    table, shaping = checkpoint.table, shapings(config)[checkpoint.table]
    if checkpoint.shape.shaping != shaping.declaration:
        raise reshaped_error(table, checkpoint.shape.shaping, shaping.declaration)
    if checkpoint.phase == "copying":
        raise _refusal(
            table, "it is being copied anew", "let 'cdc-assets sync' finish that; it needs no other"
        )
    kept = shaping.kept(checkpoint.shape)
    altered = warehouse.change_tables.altered({table: kept})
    if altered:
        raise _refusal(table, f"its change table {altered[table]}", _anew(table))
    return kept


def _refuse_in_place(
    warehouse: Warehouse, checkpoint: Checkpoint, ended: LSN | None, upto: LSN
) -> None:
    table = checkpoint.table
    if ended is not None and ended != checkpoint.lsn:
        raise _refusal(
            table,
            f"its change table ended at {ended}, its checkpoint is at {checkpoint.lsn}",
            f"--into NAME makes it as of {ended}; {_anew(table)}",
        )
    if upto < checkpoint.lsn:
        raise _refusal(
            table,
            f"{upto} is before its checkpoint {checkpoint.lsn}, from which syncs go on",
            "--into NAME leaves the table as it was then beside the mirror",
        )
    if any(copy.table == table for copy in warehouse.copies.read()):
        raise _refusal(
            table,
            "a backfill of it is under way",
            f"let it finish: cdc-assets backfill {shlex.quote(str(table))}",
        )


def _refuse_name(
    config: PipelineConfig, warehouse: Warehouse, table: TableName, into: TableName
) -> None:
    ours = {
        name.folded
        for one in config.tables
        for name in (one.name, *(record_table(one.name, keep) for keep in one.records))
    }
    if into.folded in ours or fold(into.schema) == "_cdc":
        raise _refusal(
            table, f"{str(into)!r} is a table of the pipeline", "give another name behind --into"
        )
    names = [into, *(record_table(into, keep) for keep in RECORDS)]
    there = [
        name
        for name in names
        if warehouse.mirrors.exists(name) and not warehouse.rebuilds.has_left(name)
    ]
    if there:
        raise _refusal(
            table,
            f"table {str(there[0])!r} exists in the warehouse, and no rebuild has made it",
            "give another name behind --into, or drop it",
        )


def _anew(table: TableName) -> str:
    return recopy_hint(table)


def _refusal(table: TableName, why: str, hint: str) -> TableError:
    return TableError(f"table {str(table)!r} can't be rebuilt: {why}", table=str(table), hint=hint)
