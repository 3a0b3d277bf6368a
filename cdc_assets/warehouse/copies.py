"""The copies that are under way, in schema `_cdc`: how far each is, its fences, and its gaps."""

from __future__ import annotations

from collections.abc import Collection

from cdc_assets.changes.buckets import Bucket
from cdc_assets.changes.fence import ChunkFence, KeyText, Snapshot
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.warehouse.checkpoints import dump_key, load_key
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.values import Copy, MadeBy

_OF_COPY = "pipeline = ? AND source_table = ? AND part = ?"


class Copies:
    """One pipeline's copies; writes belong into the rows' transaction."""

    def __init__(self, mirrors: DuckDBMirrors, pipeline: str) -> None:
        self._mirrors, self._pipeline = mirrors, pipeline
        self._schema = f"{mirrors.catalog}._cdc"

    def read(self) -> list[Copy]:
        """Read every copy that is under way; empty when the warehouse has no state yet."""
        if not self._mirrors.has_state("copies"):
            return []
        rows = self._mirrors.connection.execute(
            "SELECT source_table, part, stage, made_by, low, high, predicate, baseline, files,"
            f" next_place, end_place, rows_read, bytes_read FROM {self._schema}.copies"
            " WHERE pipeline = ? ORDER BY source_table, part",
            (self._pipeline,),
        ).fetchall()
        return [_copy(*row) for row in rows]

    def abandoned(self, seconds: float) -> set[tuple[TableName, str]]:
        """Find the copies that have not got on for so long, by table and part."""
        rows = self._mirrors.connection.execute(
            f"SELECT source_table, part FROM {self._schema}.copies WHERE pipeline = ?"
            " AND progressed_at < now() - to_seconds(?)",
            (self._pipeline, seconds),
        ).fetchall()
        return {(TableName.parse(table), part) for table, part in rows}

    def write(self, copy: Copy) -> None:
        """Put down how far a copy is."""
        self._forget_row(copy)
        self._mirrors.connection.execute(
            f"INSERT INTO {self._schema}.copies"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, now())",
            (
                *self._key(copy),
                str(copy.stage),
                copy.made_by,
                _bound(copy.bucket.low if copy.bucket else None),
                _bound(copy.bucket.high if copy.bucket else None),
                copy.predicate,
                str(copy.baseline),
                copy.files,
                copy.next_place,
                copy.end_place,
                copy.rows,
                copy.nbytes,
            ),
        )

    def forget(self, copy: Copy) -> None:
        """Remove a copy, its fences and its gaps; its stage is another matter."""
        self._forget_row(copy)
        for table in ("chunks", "gaps"):
            self._execute(f"DELETE FROM {self._schema}.{table} WHERE {_OF_COPY}", copy)

    def drop(self, table: TableName) -> None:
        """Give up all copies of a table, and their stages."""
        for copy in self.read():
            if copy.table == table:
                self.forget(copy)
                self._mirrors.drop(copy.stage)

    def _forget_row(self, copy: Copy) -> None:
        self._execute(f"DELETE FROM {self._schema}.copies WHERE {_OF_COPY}", copy)

    def fences(self, copy: Copy) -> list[ChunkFence]:
        """Read the fences of a copy's chunks that the stream has not passed."""
        rows = self._mirrors.connection.execute(
            f"SELECT snapshot, lsn FROM {self._schema}.chunks WHERE {_OF_COPY} ORDER BY lsn, rowid",
            self._key(copy),
        ).fetchall()
        return [ChunkFence(Snapshot.parse(snapshot), LSN(lsn)) for snapshot, lsn in rows]

    def add_fence(self, copy: Copy, fence: ChunkFence) -> None:
        """Put up a chunk's fence."""
        self._mirrors.connection.execute(
            f"INSERT INTO {self._schema}.chunks VALUES (?, ?, ?, ?, ?)",
            (*self._key(copy), str(fence.snapshot), int(fence.lsn)),
        )

    def drop_fences(self, copy: Copy, passed: LSN) -> None:
        """Remove the fences that the stream has passed."""
        self._execute(
            f"DELETE FROM {self._schema}.chunks WHERE {_OF_COPY} AND lsn <= {int(passed)}", copy
        )

    def gaps(self, copy: Copy, limit: int) -> list[KeyText]:
        """Give keys, up to so many, of which a change did not carry all values."""
        rows = self._mirrors.connection.execute(
            f"SELECT DISTINCT key FROM {self._schema}.gaps WHERE {_OF_COPY} ORDER BY key"
            f" LIMIT {limit}",
            self._key(copy),
        ).fetchall()
        return [load_key(key) for (key,) in rows]

    def add_gaps(self, copy: Copy, keys: Collection[KeyText]) -> None:
        """Remember keys whose rows are to be read by themselves."""
        self._mirrors.connection.execute(
            f"INSERT INTO {self._schema}.gaps SELECT ?, ?, ?, unnest(?::VARCHAR[])",
            (*self._key(copy), [dump_key(key) for key in keys]),
        )

    def close_gaps(self, copy: Copy, keys: Collection[KeyText]) -> None:
        """Forget keys whose rows were read."""
        self._mirrors.connection.execute(
            f"DELETE FROM {self._schema}.gaps WHERE {_OF_COPY}"
            " AND list_contains(?::VARCHAR[], key)",
            (*self._key(copy), [dump_key(key) for key in keys]),
        )

    def _key(self, copy: Copy) -> tuple[str, str, str]:
        return self._pipeline, str(copy.table), copy.part

    def _execute(self, sql: str, copy: Copy) -> None:
        self._mirrors.connection.execute(sql, self._key(copy))


def _bound(key: KeyText | None) -> str | None:
    return None if key is None else dump_key(key)


def _copy(
    source_table: str,
    part: str,
    stage: str,
    made_by: MadeBy,
    low: str | None,
    high: str | None,
    predicate: str,
    baseline: str,
    files: str,
    next_place: int,
    end_place: int,
    rows: int,
    nbytes: int,
) -> Copy:
    bounds = [None if text is None else load_key(text) for text in (low, high)]
    return Copy(
        table=TableName.parse(source_table),
        part=part,
        stage=TableName.parse(stage),
        made_by=made_by,
        bucket=Bucket(part, *bounds) if part and not predicate else None,
        predicate=predicate,
        baseline=Snapshot.parse(baseline),
        files=files,
        next_place=next_place,
        end_place=end_place,
        rows=rows,
        nbytes=nbytes,
    )
