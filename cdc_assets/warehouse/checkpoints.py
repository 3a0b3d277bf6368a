"""The pipeline's own state in schema `_cdc`: a checkpoint per table, and the fences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from cdc_assets.changes.fence import Fence, KeyText, Snapshot
from cdc_assets.changes.shape import TableShape
from cdc_assets.errors import CheckpointConflictError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN, WalIdentity
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.plans import BucketPlans
from cdc_assets.warehouse.schema import STATE_SCHEMA
from cdc_assets.warehouse.traces import Traces
from cdc_assets.warehouse.values import Checkpoint, LastTransaction

_OF_TABLE = "pipeline = ? AND source_table = ?"


class Checkpoints:
    """One pipeline's checkpoints and fences; writes belong into the rows' transaction."""

    def __init__(self, mirrors: DuckDBMirrors, pipeline: str) -> None:
        self._mirrors, self._pipeline = mirrors, pipeline
        self._schema = f"{mirrors.catalog}._cdc"  # a file may be called _cdc.duckdb

    def prepare(self) -> None:
        """Make the state tables if they are not there."""
        self._mirrors.connection.execute(STATE_SCHEMA.format(schema=self._schema))

    def warehouse_id(self) -> str | None:
        """Give what tells this warehouse from every other; None before `prepare`."""
        return self._only_text("id", "warehouse")

    def content_stamp(self) -> str | None:
        """Give what is another whenever rows have changed; None before `prepare`."""
        return self._only_text("stamp", "content")

    def renew_stamp(self) -> None:
        """Say that rows have changed, in the transaction that changes them."""
        self._mirrors.connection.execute(f"UPDATE {self._schema}.content SET stamp = uuid()")

    def _only_text(self, column: str, table: str) -> str | None:
        if not self._mirrors.has_state(table):
            return None
        rows = self._mirrors.connection.execute(
            f"SELECT {column}::VARCHAR FROM {self._schema}.{table}"
        ).fetchall()
        return str(rows[0][0]) if rows else None

    def memory_bytes(self) -> int:
        """Give what DuckDB was found to need for this file, or 0."""
        rows = self._mirrors.connection.execute(
            f"SELECT limit_bytes FROM {self._schema}.memory"
        ).fetchall()
        return int(rows[0][0]) if rows else 0

    def keep_memory_bytes(self, memory_bytes: int) -> None:
        """Keep what DuckDB needs for this file, so that the next run starts with it."""
        self._mirrors.connection.execute(f"DELETE FROM {self._schema}.memory")
        self._mirrors.connection.execute(
            f"INSERT INTO {self._schema}.memory VALUES (?)", (memory_bytes,)
        )

    def read(self) -> dict[TableName, Checkpoint]:
        """Read every table's checkpoint; empty when the warehouse has no state yet."""
        if not self._mirrors.has_state("checkpoints"):
            return {}
        rows = self._mirrors.connection.execute(
            "SELECT source_table, lsn, phase, shape, identity, last_transaction, error,"
            f" epoch_us(updated_at) FROM {self._schema}.checkpoints WHERE pipeline = ?",
            (self._pipeline,),
        ).fetchall()
        checkpoints = [_checkpoint(*row) for row in rows]
        return {checkpoint.table: checkpoint for checkpoint in checkpoints}

    def refuse_other_owners(self, tables: Collection[TableName]) -> None:
        """Check that no other pipeline keeps one of these tables here.

        Raises:
            CheckpointConflictError: One does.
        """
        if not self._mirrors.has_state("checkpoints"):
            return
        rows = self._mirrors.connection.execute(
            f"SELECT pipeline, source_table FROM {self._schema}.checkpoints WHERE pipeline <> ?",
            (self._pipeline,),
        ).fetchall()
        ours = {table.folded: table for table in tables}
        for pipeline, source_table in rows:
            if TableName.parse(source_table).folded in ours:
                raise CheckpointConflictError(
                    f"table {source_table!r} in this warehouse belongs to pipeline {pipeline!r}, "
                    f"not to {self._pipeline!r}",
                    hint="give this pipeline a warehouse.duckdb.path of its own, or its old name",
                )

    def write(self, checkpoint: Checkpoint) -> None:
        """Set one table's checkpoint, its first or another phase."""
        self.forget_checkpoint(checkpoint.table)
        self._mirrors.connection.execute(
            f"INSERT INTO {self._schema}.checkpoints"
            " VALUES (?, ?, ?, ?, ?, NULL, ?, ?, ?, ?, now())",
            (
                self._pipeline,
                str(checkpoint.table),
                int(checkpoint.lsn),
                str(checkpoint.lsn),
                checkpoint.phase,
                json.dumps(checkpoint.shape.to_json()),
                json.dumps(asdict(checkpoint.identity)),
                json.dumps(asdict(checkpoint.last)) if checkpoint.last else None,
                checkpoint.error,
            ),
        )

    def advance(
        self, before: Collection[Checkpoint], lsn: LSN, last: LastTransaction | None
    ) -> None:
        """Move tables on to the end of a window.

        Raises:
            CheckpointConflictError: A checkpoint is not where this run left it.
        """
        # By name: DuckDB 1.5 counts the parameters of FROM before those of SET
        rows = self._mirrors.connection.execute(
            f"UPDATE {self._schema}.checkpoints AS point SET lsn = $lsn, lsn_text = $lsn_text,"
            " error = '', updated_at = now(),"
            " last_transaction = coalesce($last, last_transaction)"
            " FROM (SELECT unnest($names::VARCHAR[]) AS name, unnest($lsns::UBIGINT[]) AS lsn)"
            " AS was"
            " WHERE pipeline = $pipeline AND source_table = was.name AND point.lsn = was.lsn"
            " RETURNING source_table",
            {
                "lsn": int(lsn),
                "lsn_text": str(lsn),
                "last": json.dumps(asdict(last)) if last else None,
                "names": [str(checkpoint.table) for checkpoint in before],
                "lsns": [int(checkpoint.lsn) for checkpoint in before],
                "pipeline": self._pipeline,
            },
        ).fetchall()
        moved = Counter(name for (name,) in rows)
        for checkpoint in before:
            if moved[str(checkpoint.table)] != 1:
                raise CheckpointConflictError(
                    f"the checkpoint of {str(checkpoint.table)!r} is not at {checkpoint.lsn} any "
                    "more, where this run left it",
                    hint="another process writes this warehouse: let one pipeline do so alone",
                )

    def note_reached(self, tables: Collection[TableName], micros: int) -> None:
        """Say that tables have all that committed up to a time, in Unix microseconds."""
        connection, named = self._mirrors.connection, [str(table) for table in tables]
        connection.execute(
            f"DELETE FROM {self._schema}.reached WHERE pipeline = ?"
            " AND list_contains(?::VARCHAR[], source_table)",
            (self._pipeline, named),
        )
        connection.execute(
            f"INSERT INTO {self._schema}.reached"
            " SELECT ?, unnest(?::VARCHAR[]), make_timestamptz(?::BIGINT)",
            (self._pipeline, named, micros),
        )

    def forget(self, table: TableName) -> None:
        """Remove all that is kept of a table."""
        self.forget_checkpoint(table)
        if self._mirrors.has_state("buckets"):
            BucketPlans(self._mirrors, self._pipeline).forget(table)
        self.drop_fences(table)
        Traces(self._mirrors, self._pipeline).forget(table)
        for noted in ("change_tables", "copied_rows", "histories", "placed", "reached", "unread"):
            if self._mirrors.has_state(noted):
                self._mirrors.connection.execute(
                    f"DELETE FROM {self._schema}.{noted} WHERE pipeline = ? AND source_table = ?",
                    (self._pipeline, str(table)),
                )

    def move(self, table: TableName, to: TableName) -> None:
        """Let all that is noted of a table be noted of it under another name."""
        Traces(self._mirrors, self._pipeline).forget(table)  # the next run notes it
        noted = self._mirrors.connection.execute(
            "SELECT table_name FROM duckdb_columns() WHERE database_name = current_database()"
            " AND schema_name = '_cdc' AND column_name = 'source_table' AND table_name <> 'lineage'"
        ).fetchall()
        for (name,) in noted:
            self._mirrors.connection.execute(
                f"UPDATE {self._schema}.{name} SET source_table = ?"
                " WHERE pipeline = ? AND source_table = ?",
                (str(to), self._pipeline, str(table)),
            )

    def forget_checkpoint(self, table: TableName) -> None:
        """Remove a table's checkpoint."""
        self._mirrors.connection.execute(
            f"DELETE FROM {self._schema}.checkpoints WHERE pipeline = ? AND source_table = ?",
            (self._pipeline, str(table)),
        )

    def note_placed(self, table: TableName, shape: TableShape) -> None:
        """Keep the source's shape of which a mirror is now, where it keeps deleted rows."""
        of_table, connection = (self._pipeline, str(table)), self._mirrors.connection
        placed = f"{self._schema}.placed"
        connection.execute(
            f"DELETE FROM {placed} WHERE pipeline = ? AND source_table = ?", of_table
        )
        if shape.keeps_deleted:
            plain = json.dumps(shape.to_json())
            connection.execute(f"INSERT INTO {placed} VALUES (?, ?, ?)", (*of_table, plain))

    def placed_shape(self, table: TableName) -> TableShape | None:
        """Give the shape of which a mirror with deleted rows is; None where it has none."""
        found = self._mirrors.connection.execute(
            f"SELECT shape FROM {self._schema}.placed WHERE pipeline = ? AND source_table = ?",
            (self._pipeline, str(table)),
        ).fetchall()
        return TableShape.from_json(json.loads(found[0][0])) if found else None

    def read_fences(self) -> dict[TableName, list[Fence]]:
        """Read the fences of all tables that have any."""
        rows = self._mirrors.connection.execute(
            f"SELECT source_table, low, snapshot, lsn FROM {self._schema}.fences"
            " WHERE pipeline = ? ORDER BY lsn, rowid",
            (self._pipeline,),
        ).fetchall()
        found: dict[TableName, list[Fence]] = {}
        for table, key, text, lsn in rows:
            fence = Fence(load_key(key), Snapshot.parse(text), LSN(lsn))
            found.setdefault(TableName.parse(table), []).append(fence)
        return found

    def add_fences(
        self, table: TableName, keys: Sequence[KeyText], snapshot: Snapshot, lsn: LSN
    ) -> None:
        """Put up a fence for each of some keys."""
        self._mirrors.connection.execute(
            f"INSERT INTO {self._schema}.fences SELECT ?, ?, one.key, one.key, true, ?, ?"
            " FROM (SELECT unnest(?::VARCHAR[]) AS key) AS one",
            (self._pipeline, str(table), str(snapshot), int(lsn), [dump_key(key) for key in keys]),
        )
        self._execute(  # from the checkpoint on, unless others stand already
            f"INSERT INTO {self._schema}.unread SELECT pipeline, source_table, lsn, NULL"
            f" FROM {self._schema}.checkpoints AS point WHERE {_OF_TABLE} AND NOT EXISTS"
            f" (FROM {self._schema}.unread WHERE {_OF_TABLE} AND upto_lsn IS NULL)",
            table,
            times=2,
        )

    def drop_fences(self, table: TableName, passed: LSN | None = None) -> None:
        """Remove a table's fences, or those that the stream has passed."""
        upto = "" if passed is None else f" AND lsn <= {int(passed)}"
        self._execute(f"DELETE FROM {self._schema}.fences WHERE {_OF_TABLE}{upto}", table)
        if not self._mirrors.has_state("unread"):
            return
        if passed is None:
            ended = f"DELETE FROM {self._schema}.unread"
        else:
            ended = f"UPDATE {self._schema}.unread SET upto_lsn = {int(passed)}"
        self._execute(
            f"{ended} WHERE {_OF_TABLE} AND upto_lsn IS NULL"
            f" AND NOT EXISTS (FROM {self._schema}.fences WHERE {_OF_TABLE})",
            table,
            times=2,
        )

    def read_ahead(self, table: TableName) -> list[tuple[LSN, LSN | None]]:
        """Give between which LSNs some rows of a table were not known; None: they are not yet."""
        rows = self._mirrors.connection.execute(
            f"SELECT from_lsn, upto_lsn FROM {self._schema}.unread WHERE {_OF_TABLE} ORDER BY 1",
            (self._pipeline, str(table)),
        ).fetchall()
        return [(LSN(low), None if upto is None else LSN(upto)) for low, upto in rows]

    def _execute(self, sql: str, table: TableName, *, times: int = 1) -> None:
        """Run a statement over a table's own rows, which it names so many times."""
        self._mirrors.connection.execute(sql, (self._pipeline, str(table)) * times).fetchall()


def _checkpoint(
    source_table: str,
    lsn: int,
    phase: str,
    shape: str,
    identity: str,
    last: str | None,
    error: str,
    updated_micros: int,
) -> Checkpoint:
    return Checkpoint(
        table=TableName.parse(source_table),
        lsn=LSN(lsn),
        phase="copying" if phase == "copying" else "streaming",
        shape=TableShape.from_json(json.loads(shape)),
        identity=WalIdentity(**json.loads(identity)),
        last=_last_transaction(json.loads(last)) if last else None,
        error=error,
        updated_at=datetime.fromtimestamp(updated_micros / 1_000_000, UTC),
    )


def _last_transaction(plain: dict[str, int]) -> LastTransaction:
    return LastTransaction(
        xid=plain["xid"],
        commit_micros=plain["commit_micros"],
        commit_lsn=LSN(plain["commit_lsn"]),
        end_lsn=LSN(plain["end_lsn"]),
    )


def dump_key(key: KeyText) -> str:
    """Write a key as the state tables have it."""
    return json.dumps(key)


def load_key(text: str) -> KeyText:
    """Read what `dump_key` wrote."""
    return tuple(json.loads(text))
