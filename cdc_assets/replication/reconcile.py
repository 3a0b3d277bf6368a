"""Whether mirrors equal their source, proven at one LSN while both go on.

A table is copied beside its mirror, as a backfill does it; when both are as of one LSN they are
compared row by row. Whatever was written meanwhile is in both, so what differs then was not brought
by the stream: there is nothing that could be a false alarm.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from cdc_assets.changes.buckets import key_may_be_shown
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError, TableError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.progress import (
    BackfillEvent,
    BucketCompared,
    ReconcileEvent,
    RunMark,
    SchemaChanged,
    TableCompared,
)
from cdc_assets.replication.allocator import return_freed_memory
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.beginning import begin_beside
from cdc_assets.replication.beside_syncs import Beside
from cdc_assets.replication.evolving import way_on
from cdc_assets.replication.noting import note_well
from cdc_assets.replication.opening import in_sessions
from cdc_assets.replication.placing import compare
from cdc_assets.replication.planning import planned_buckets
from cdc_assets.replication.session import Session, recopy_hint, shape_error
from cdc_assets.source.snapshot import SnapshotReader
from cdc_assets.warehouse.values import Copy, Differences

_WHOLE = ""
_UNDER_WAY = "'cdc-assets status' says how far it is"


def reconcile(
    config: PipelineConfig,
    *,
    tables: Collection[TableName] | None = None,
    sample: float = 1.0,
    repair: bool = False,
    run: RunMark | None = None,
) -> Generator[ReconcileEvent]:
    """Compare mirrors with the source, one after the other.

    Args:
        config: The pipeline.
        tables: Its tables to compare; all by default.
        sample: Which share of the tables' buckets is compared, drawn anew each time.
        repair: Whether rows that differ are made right.
        run: What is noted of who writes; by default a run that nobody else has a name for.

    Yields:
        An event per chunk and window, and `TableCompared` per table.

    Raises:
        CdcError: The source or the warehouse refuses.
    """
    return_freed_memory()
    run = run or RunMark("reconcile")
    for table in config.table_names:
        if table in config.unmirrored:
            if tables is None or table in tables:
                yield _unmirrored(table, is_named=tables is not None)
        elif tables is None or table in tables:
            yield from _reconcile(config, table, sample=sample, repair=repair, run=run)


def _unmirrored(table: TableName, *, is_named: bool) -> TableCompared:
    return TableCompared(
        table=table,
        at_lsn=LSN(0),
        buckets=(),
        not_compared=f"table {str(table)!r} has no mirror to compare: its changes alone are kept",
        no_mirror=not is_named,
    )


def _reconcile(
    config: PipelineConfig, table: TableName, *, sample: float, repair: bool, run: RunMark
) -> Iterator[ReconcileEvent]:
    names = config.table(table).backfill.bucket_names
    count = max(1, round(sample * len(names)))
    parts = [_WHOLE] if count == len(names) else sorted(random.sample(names, count))
    started, work = time.monotonic(), _Comparison(config, table, "", parts, repair=repair)
    why = hint = ""
    try:
        yield from in_sessions(  # type: ignore[misc]  # a backfill's events but for its result
            config,
            work.turn,
            run=run,
            is_done=lambda: not work.parts,
            copies_anew=True,
            takes_turns=True,
        )
    except TableError as error:
        why, hint = error.message, error.hint
    repaired = repair and any(not bucket.equal for bucket in work.compared)
    if repair and why and work.has_failed:
        yield from backfill(config, table, run=run)  # type: ignore[misc]  # as above
        repaired = True
    yield TableCompared(
        table=table,
        at_lsn=max((bucket.at_lsn for bucket in work.compared), default=LSN(0)),
        buckets=tuple(work.compared),
        columns=tuple(sorted(work.columns)),
        keys=tuple(work.keys[:_SHOWN]),
        repaired=repaired,
        not_compared=why,
        hint=hint,
        seconds=time.monotonic() - started,
    )


_SHOWN = 20


@dataclass(slots=True)
class _Comparison(Beside):
    """What is left to compare of one table, and what was found."""

    _what: ClassVar[Literal["backfill", "reconcile"]] = "reconcile"
    repair: bool = False
    compared: list[BucketCompared] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)
    keys: list[tuple[str, ...]] = field(default_factory=list)
    has_failed: bool = False  # the stream did not fit the mirror while it was compared

    def _begin(self, session: Session, reader: SnapshotReader) -> Sequence[SchemaChanged]:
        """Begin the next part, unless it has begun.

        Raises:
            TableError: The mirror is not one that could equal its source now.
        """
        self._refuse_standing(session)
        part = self.parts[0]
        if (self.table, part) not in session.copies:
            begin_beside(session, reader, self.table, part=part, bucket=self._bucket(session, part))
        return ()

    def _refuse_standing(self, session: Session) -> None:
        checkpoint = session.checkpoints.get(self.table)
        if checkpoint is None:
            raise _standing(
                self.table, "it was not copied yet", hint="run 'cdc-assets sync' to copy it"
            )
        if checkpoint.phase == "copying":
            raise _standing(self.table, "it is being copied", hint=_UNDER_WAY)
        error: CdcError | None = session.failed.get(self.table)
        error = error or shape_error(session, self.table)
        if error is not None:
            raise _standing(self.table, error.message, hint=way_on(session, self.table, error))
        if checkpoint.error:
            raise _standing(self.table, checkpoint.error)

    def _fail(self, session: Session, error: CdcError) -> None:
        """Leave the table behind: a mirror that stands still can't be compared, only replaced.

        Raises:
            TableError: Always.
        """
        with session.warehouse.transaction():
            session.drop_copies(self.table)
        session.fail(self.table, error)
        self.has_failed = True
        raise _standing(
            self.table, error.message, hint=way_on(session, self.table, error)
        ) from error

    def _ended(self, session: Session, copy: Copy) -> Iterator[BackfillEvent]:
        plan = planned_buckets(session, self.table) if copy.part == _WHOLE else ()
        found = compare(session, copy, plan, write=self.repair)
        if self.repair or not (found.missing or found.extra or found.different):
            note_well(session, self.table)
        checkpoint = session.checkpoints[self.table]
        names = [bucket.name for bucket in plan] or [copy.part]
        for name, part in zip(names, found.parts or [found], strict=True):
            self.compared.append(_compared(name, checkpoint.lsn, part))
        self.columns.update(found.columns)
        if key_may_be_shown(checkpoint.shape):
            self.keys.extend(found.keys)
        yield from ()  # the table's result is told when all of its parts are compared


def _compared(bucket: str, lsn: LSN, found: Differences) -> BucketCompared:
    return BucketCompared(
        bucket=bucket,
        at_lsn=lsn,
        source_rows=found.rows,
        warehouse_rows=found.mirror_rows,
        missing=found.missing,
        extra=found.extra,
        different=found.different,
    )


def _standing(table: TableName, why: str, *, hint: str = "") -> TableError:
    return TableError(
        f"table {str(table)!r} can't be compared: {why}",
        table=str(table),
        hint=hint or recopy_hint(table),
    )
