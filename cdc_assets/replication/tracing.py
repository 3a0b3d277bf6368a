"""Notes in the warehouse where its rows come from, in the transaction that writes them.

A row is found again by what it carries: the `end_lsn` of its transaction, or the LSN at which it
was read. So a note has, of every kept table, past which LSN the transactions are that went into it,
and the LSNs of rows that were read. What has written no row leaves no note.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain

from cdc_assets.identifiers import TableName, record_table
from cdc_assets.lsn import LSN
from cdc_assets.replication.session import Session
from cdc_assets.shaping.origins import origins_of
from cdc_assets.warehouse.values import Loaded, Trace


class Tracing:
    """Gathers what one transaction of the warehouse writes; its tables are where it finds them."""

    def __init__(self, session: Session) -> None:
        self._session, self._started = session, time.monotonic()
        self._tables: dict[TableName, Loaded] = {}

    def streamed(
        self,
        table: TableName,
        changes: int,
        *,
        read: Collection[LSN] = (),
        recorded: Collection[LSN] = (),
    ) -> None:
        """Take in what a window has of a table.

        Args:
            table: Whose.
            changes: How many; the mirror's copy has them as well, or alone.
            read: Of rows that were read into the mirror by themselves.
            recorded: Of such rows that went into what is kept beside it.
        """
        session = self._session
        self._add(table, session.kept_name(table), changes, read)
        if session.is_mirrored(table) and not session.is_copied_anew(table):
            for keep in session.records_of(table):
                self._add(table, record_table(table, keep), changes, recorded)

    def placed(self, table: TableName, rows: int, read: Collection[LSN]) -> None:
        """Take in rows of a copy that were written."""
        self._add(table, self._session.kept_name(table), rows, read)

    def recorded(self, table: TableName, keep: str, rows: int) -> None:
        """Take in rows that went beside a mirror where it is."""
        read = [self._session.checkpoints[table].lsn] if rows else []
        self._add(table, record_table(table, keep), rows, read)

    def _add(self, table: TableName, name: TableName, rows: int, read: Collection[LSN]) -> None:
        if rows or read:
            session = self._session
            lsn, code = session.checkpoints[table].lsn, session.code_versions[table]
            self._tables[name] = Loaded(rows, lsn, code, read)

    def write(self, start: LSN, end: LSN, transactions: int = 0) -> None:
        """Leave the note, behind the last row, if there is anything to note.

        Args:
            start: Where the window starts; where rows were read, that of its end.
            end: And where it ends.
            transactions: How many of the source's it has.
        """
        if not self._tables:
            return
        trace = Trace(
            run=self._session.run,
            start_lsn=start,
            end_lsn=end,
            transactions=transactions,
            tables=self._tables,
            seconds=round(time.monotonic() - self._started, 3),
            version=version("cdc-assets"),
            written_at=datetime.now(UTC),
        )
        self._session.warehouse.traces.write(trace)


def note_lineage(session: Session, tables: Collection[TableName]) -> None:
    """Note of what the columns of kept tables are made, where that is not what was noted last.

    Inside a transaction. The caller leaves out tables whose rows are not what the config says:
    these keep the lineage that they were made with.
    """
    traces = session.warehouse.traces
    kept = {table: _kept_names(session, table) for table in tables}
    noted, shapes = traces.lineage([*chain(*kept.values())]), session.source_shapes
    for table, names in kept.items():
        origins = origins_of(table, session.shapings, shapes)
        wanted = (
            session.code_versions[table],
            [origin for column in origins.values() for origin in column],
        )
        for name in names:
            if noted.get(name) != wanted:
                traces.write_lineage(name, *wanted)


def _kept_names(session: Session, table: TableName) -> set[TableName]:
    records = (record_table(table, keep) for keep in session.config.table(table).records)
    return {session.kept_name(table), *records}
