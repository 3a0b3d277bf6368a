"""What a run has done to its tables, and what is said of them at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName, record_table
from cdc_assets.lsn import LSN
from cdc_assets.progress import ChangeCounts, Column, TableResult
from cdc_assets.replication.applying import AppliedTable
from cdc_assets.replication.session import Session
from cdc_assets.shaping.origins import origins_of
from cdc_assets.source.descriptions import Description, read_descriptions
from cdc_assets.warehouse.values import RowCounts

_NOT_THERE = RowCounts(0, None)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What both ends are asked once, for all tables.

    Attributes:
        end: The source's.
        said: Of its tables, by their oids.
        counts: Of the warehouse's tables that are there.
        shapes: As `Session.source_shapes`.
    """

    end: LSN
    said: Mapping[int, Description]
    counts: Mapping[TableName, RowCounts]
    shapes: Mapping[TableName, TableShape]


@dataclass(slots=True)
class Tally:
    """What a run has done to its tables, over all of its sessions.

    Attributes:
        slot_start: Where the run found the slot.
        starts: And the tables; those that were never copied are not here.
        applied: What windows did.
        copied: How many rows of chunks.
        altered: Tables that got other columns.
    """

    slot_start: LSN
    starts: Mapping[TableName, LSN]
    applied: dict[TableName, AppliedTable] = field(default_factory=dict)
    copied: Counter[TableName] = field(default_factory=Counter)
    altered: set[TableName] = field(default_factory=set)

    @classmethod
    def at(cls, session: Session) -> Tally:
        """Begin where a run finds its ends."""
        starts = {table: point.lsn for table, point in session.checkpoints.items()}
        return cls(session.slot.confirmed_lsn, starts)

    def add(self, applied: Mapping[TableName, AppliedTable]) -> None:
        """Take in what windows did."""
        for table, of in applied.items():
            self.applied.setdefault(table, AppliedTable()).merge(of)

    def results(
        self, session: Session, tables: Collection[TableName], end: LSN
    ) -> tuple[TableResult, ...]:
        """Describe tables as they are now, and what the run did to them.

        Args:
            session: The run's last one.
            tables: Which.
            end: The source's.
        """
        oids = [point.shape.oid for point in session.checkpoints.values()]
        asked = _Asked(
            end,
            said=read_descriptions(session.control, oids),
            counts=session.mirrors.row_counts([*_kept_tables(session, tables)]),
            shapes=session.source_shapes,
        )
        return tuple(self._result(session, table, asked) for table in tables)

    def _result(self, session: Session, table: TableName, asked: _Asked) -> TableResult:
        checkpoint, source = session.checkpoints.get(table), session.catalog.tables.get(table)
        lsn = checkpoint.lsn if checkpoint else LSN(0)
        description = asked.said.get(checkpoint.shape.oid if checkpoint else 0, Description())
        counts = asked.counts.get(session.kept_name(table), _NOT_THERE)
        read = _source_columns(session, table, description) if checkpoint else ()
        applied = self.applied.get(table, AppliedTable())
        return TableResult(
            table=table,
            start_lsn=self.starts.get(table, self.slot_start),
            confirmed_lsn=lsn,
            counts=applied.counts + ChangeCounts(copied=self.copied[table]),
            lag_bytes=max(0, asked.end - lsn) if checkpoint else 0,
            row_count=counts.live,
            deleted_rows=counts.deleted,
            columns=tuple(_kept_columns(session, table, read, asked)) if checkpoint else (),
            source_columns=read,
            warehouse_table=str(session.kept_name(table)),
            first_commit=applied.first_commit,
            last_commit=applied.last_commit,
            phase=phase_of(session, table),
            error=session.failed.get(table),
            left_out=source.left_out if source else (),
            comment=description.comment,
            source_rows=description.rows,
            renewed=applied.renewed,
            altered=table in self.altered,
            record_rows={
                keep: asked.counts.get(record_table(table, keep), _NOT_THERE).live
                for keep in session.records_of(table)
            },
        )


def _kept_tables(session: Session, tables: Collection[TableName]) -> Iterator[TableName]:
    """Give the warehouse's tables that have rows of some of the source's."""
    for table in tables:
        if table in session.checkpoints:
            yield session.kept_name(table)
            yield from (record_table(table, keep) for keep in session.records_of(table))


def phase_of(session: Session, table: TableName) -> str:
    """Name the phase that a table is in."""
    checkpoint = session.checkpoints.get(table)
    if checkpoint is not None:
        return checkpoint.phase
    waits = session.config.table(table).backfill.first == "wait"
    return "waiting" if waits and table not in session.failed else "missing"


def _source_columns(
    session: Session, table: TableName, description: Description
) -> tuple[Column, ...]:
    """Give the source's columns that are kept, as they are there."""
    shape = session.checkpoints[table].shape
    return tuple(
        Column(
            name=column.name,
            source_type=column.type.name,
            warehouse_type=session.mirrors.column_type(column.type.arrow),
            nullable=column.nullable,
            is_key=column.name in shape.key,
            comment=description.column_comments.get(column.attnum, ""),
            is_widened=column.is_widened,
        )
        for column in shape.columns
    )


def _kept_columns(
    session: Session, table: TableName, read: tuple[Column, ...], asked: _Asked
) -> Iterator[Column]:
    """Give the warehouse's columns: those of the source, those taken of partners, those made."""
    own = {column.name: column for column in read}
    origins = origins_of(table, session.shapings, asked.shapes)
    for column in session.kept_shape(table).columns:
        of, kind = origins.get(column.name, ()), session.mirrors.column_type(column.type.arrow)
        first = next(iter(of), None)
        if first is not None and first.table == table and not first.is_made:
            known = own[first.source_column]
            yield replace(known, name=column.name, warehouse_type=kind, origins=of)
        else:
            yield Column(
                name=column.name,
                source_type=first.function if first and first.is_made else column.type.name,
                warehouse_type=kind,
                nullable=True,
                is_key=False,
                origins=of,
            )
