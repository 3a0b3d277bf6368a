"""What is kept beside mirrors in a DuckDB file: what change tables and histories have in common.

Which are ours is noted, and between which LSNs each has everything; past its end, and while its
table was not followed, there is a gap. One that can't go on keeps its rows under another name, and
another one begins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

import pyarrow as pa

from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName, quote, record_table
from cdc_assets.lsn import LSN
from cdc_assets.warehouse.layout import difference, read_stored
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.types import column_type
from cdc_assets.warehouse.values import Bounds, Moment

_TABLES = {"changes": "change_tables", "history": "histories"}


class Records(ABC):
    """One pipeline's change tables, or its histories; what writes belongs into a transaction.

    Args:
        mirrors: Of the open file.
        pipeline: Whose.
        keep: `changes` or `history`.
    """

    def __init__(self, mirrors: DuckDBMirrors, pipeline: str, keep: str) -> None:
        self._mirrors, self._pipeline, self._keep = mirrors, pipeline, keep
        self._noted = f"{mirrors.catalog}._cdc.{_TABLES[keep]}"
        self._gaps = f"{mirrors.catalog}._cdc.record_gaps"

    @abstractmethod
    def _schema(self, shape: TableShape) -> pa.Schema:
        """Give the columns of one, of the kept shape."""

    @abstractmethod
    def _put_all(self, table: TableName, shape: TableShape, moment: Moment) -> None:
        """Put all rows of the mirror in, which is as of a moment."""

    def name(self, table: TableName) -> TableName:
        """Name the one of now."""
        return record_table(table, self._keep)

    def sql_name(self, table: TableName) -> str:
        """Write the name of the one of now in SQL."""
        return self._mirrors.name(self.name(table))

    def names(self, tables: Collection[TableName]) -> dict[TableName, list[TableName]]:
        """Give all that were made of some tables: those of now, and those set aside."""
        found: dict[TableName, list[TableName]] = {table: [] for table in tables}
        if self._is_there():
            rows = self._mirrors.connection.execute(
                f"SELECT source_table, name FROM {self._noted} WHERE pipeline = ?"
                " AND source_table IN (SELECT unnest(?::VARCHAR[])) ORDER BY since_lsn, name",
                (self._pipeline, [str(table) for table in tables]),
            ).fetchall()
            for table, name in rows:
                found[TableName.parse(table)].append(TableName.parse(name))
        return found

    def read(self) -> frozenset[TableName]:
        """Give the tables whose own goes on."""
        if not self._is_there():
            return frozenset()
        rows = self._mirrors.connection.execute(
            f"SELECT source_table FROM {self._noted} WHERE pipeline = ? AND until_lsn IS NULL",
            (self._pipeline,),
        ).fetchall()
        return frozenset(TableName.parse(table) for (table,) in rows)

    def bounds(self, table: TableName) -> Bounds | None:
        """Give between which places the one of now has everything, if there is one."""
        if not self._is_there():
            return None
        found = self._mirrors.connection.execute(
            "SELECT since_lsn, epoch_us(coalesce(since_time, now())), until_lsn"
            f" FROM {self._noted} WHERE pipeline = ? AND source_table = ? AND name = ?",
            (self._pipeline, str(table), str(self.name(table))),
        ).fetchall()
        for since, micros, until in found:
            return Bounds(Moment(LSN(since), micros), None if until is None else LSN(until))
        return None

    def _is_there(self) -> bool:
        return self._mirrors.has_state(_TABLES[self._keep])

    def altered(self, shapes: Mapping[TableName, TableShape]) -> dict[TableName, str]:
        """Find tables whose one of now is not what it was made, and say what it is instead.

        Args:
            shapes: The kept ones, by table.
        """
        if not shapes:
            return {}
        stored = read_stored(self._mirrors.connection)
        listed = {table: self._declared(shape) for table, shape in shapes.items()}
        kinds = self._as_stored({kind for columns in listed.values() for _, kind in columns})
        found = {
            table: difference(
                stored.get(self.name(table).folded), [(name, kinds[kind]) for name, kind in columns]
            )
            for table, columns in listed.items()
        }
        return {table: what for table, what in found.items() if what}

    def _as_stored(self, kinds: Collection[str]) -> dict[str, str]:
        """Write types as the catalog has them."""
        asked = ", ".join(f"typeof(NULL::{kind})" for kind in kinds)
        (found,) = self._mirrors.connection.execute(f"SELECT {asked}").fetchall()
        return dict(zip(kinds, found, strict=True))

    def begin(self, table: TableName, shape: TableShape, moment: Moment) -> None:
        """Begin one with all rows of the mirror, which is as of a moment.

        One that was there before keeps its rows, under another name.
        """
        self._set_aside(table, moment)
        self._create(self.name(table), shape)
        self._note(table, moment)
        self._put_all(table, shape, moment)

    def _create(self, name: TableName, shape: TableShape) -> None:
        listed = ", ".join(f"{quote(column)} {kind}" for column, kind in self._declared(shape))
        self._execute(f"CREATE TABLE {self._mirrors.name(name)} ({listed})")

    def _note(self, table: TableName, since: Moment) -> None:
        self._forget_gaps(self.name(table))  # of one that somebody dropped
        self._execute(
            f"INSERT INTO {self._noted} (pipeline, source_table, name, since_lsn, since_time)"
            f" SELECT ?, ?, ?, ?, {time_sql(since.micros)}",
            (self._pipeline, str(table), str(self.name(table)), int(since.lsn)),
        )

    def _declared(self, shape: TableShape) -> list[tuple[str, str]]:
        return [(field.name, column_type(field.type)) for field in self._schema(shape)]

    def pause(self, table: TableName, moment: Moment) -> None:
        """Say that one shows no state past a moment, unless it was said of an earlier one."""
        open_gaps = f"(FROM {self._gaps} WHERE to_lsn IS NULL)"
        self._execute(
            f"INSERT INTO {self._gaps} SELECT pipeline, name, ?, {time_sql(moment.micros)}, NULL,"
            f" NULL FROM {self._noted} ANTI JOIN {open_gaps} USING (pipeline, name)"
            " WHERE pipeline = ? AND source_table = ? AND until_lsn IS NULL",
            (int(moment.lsn), self._pipeline, str(table)),
        )

    def resume(self, table: TableName, moment: Moment) -> None:
        """Say that one shows every state from a moment on."""
        self._execute(
            f"UPDATE {self._gaps} SET to_lsn = ?, to_time = {time_sql(moment.micros)}"
            " WHERE pipeline = ? AND name = ? AND to_lsn IS NULL",
            (int(moment.lsn), self._pipeline, str(self.name(table))),
        )

    def gaps(self, table: TableName) -> list[tuple[LSN, LSN | None]]:
        """Give between which LSNs, both left out, the one of now shows no state.

        None for what has no end so far: the table is not followed, or this one has ended.
        """
        rows = self._mirrors.connection.execute(
            f"SELECT from_lsn, to_lsn FROM {self._gaps} WHERE pipeline = ? AND name = ?"
            " ORDER BY from_lsn",
            (self._pipeline, str(self.name(table))),
        ).fetchall()
        return [(LSN(start), None if end is None else LSN(end)) for start, end in rows]

    def end(self, table: TableName, moment: Moment) -> None:
        """Say that one has nothing past a moment, or past where it was paused."""
        self.pause(table, moment)
        self._execute(
            f"UPDATE {self._noted} AS noted SET until_lsn = gap.from_lsn FROM {self._gaps} AS gap"
            " WHERE (gap.pipeline, gap.name) = (noted.pipeline, noted.name) AND gap.to_lsn IS NULL"
            " AND noted.pipeline = ? AND noted.source_table = ? AND noted.until_lsn IS NULL",
            (self._pipeline, str(table)),
        )

    def _set_aside(self, table: TableName, moment: Moment) -> None:
        """Give one that can't go on another name; it keeps what it has."""
        name = self.name(table)
        if name not in self.names([table])[table]:
            return
        self.end(table, moment)
        until = str(self._until(name)).replace("/", "_")
        kept = TableName(name.schema, f"{name.name}__until_{until}")
        while self._mirrors.exists(kept):
            kept = TableName(kept.schema, kept.name + "_")
        if self._mirrors.exists(name):
            self._mirrors.rename(name, kept)
        for noted in (self._noted, self._gaps):
            self._execute(
                f"UPDATE {noted} SET name = ? WHERE pipeline = ? AND name = ?",
                (str(kept), self._pipeline, str(name)),
            )

    def move(self, table: TableName, to: TableName) -> None:
        """Give the one of now the name that another table's has; those set aside keep theirs."""
        name, other = self.name(table), self.name(to)
        if name not in self.names([table])[table]:
            return
        if self._mirrors.exists(name):
            self._mirrors.move(name, other)
        for noted in (self._noted, self._gaps):
            self._execute(
                f"UPDATE {noted} SET name = ? WHERE pipeline = ? AND name = ?",
                (str(other), self._pipeline, str(name)),
            )

    def _until(self, name: TableName) -> LSN:
        """Give how far one goes that has ended."""
        ((lsn,),) = self._mirrors.connection.execute(
            f"SELECT until_lsn FROM {self._noted} WHERE pipeline = ? AND name = ?",
            (self._pipeline, str(name)),
        ).fetchall()
        return LSN(lsn)

    def drop(self, table: TableName) -> None:
        """Drop all that were made of a table."""
        for name in self.names([table])[table]:
            self._mirrors.drop(name)
            self._forget_gaps(name)

    def _forget_gaps(self, name: TableName) -> None:
        self._execute(
            f"DELETE FROM {self._gaps} WHERE pipeline = ? AND name = ?",
            (self._pipeline, str(name)),
        )

    def _execute(self, sql: str, parameters: tuple[object, ...] = ()) -> None:
        self._mirrors.connection.execute(sql, parameters).fetchall()


def time_sql(micros: object) -> str:
    """Write a time, given in Unix microseconds, in SQL."""
    return f"make_timestamptz(({micros})::BIGINT)"
