"""How tables are cut into buckets, kept so that a backfill's buckets stay what they are."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from cdc_assets.changes.buckets import Bucket, BucketPlan
from cdc_assets.identifiers import TableName
from cdc_assets.warehouse.mirrors import DuckDBMirrors


class BucketPlans:
    """One pipeline's plans; writes belong into a transaction, after `Checkpoints.prepare`."""

    def __init__(self, mirrors: DuckDBMirrors, pipeline: str) -> None:
        self._mirrors, self._pipeline = mirrors, pipeline
        self._table = f"{mirrors.catalog}._cdc.buckets"  # a file may be called _cdc.duckdb

    def read(self, table: TableName) -> BucketPlan | None:
        """Read a table's plan, if it has one."""
        rows = self._mirrors.connection.execute(
            f"SELECT bounds, key, epoch_us(planned_at) FROM {self._table}"
            " WHERE pipeline = ? AND source_table = ?",
            (self._pipeline, str(table)),
        ).fetchall()
        if not rows:
            return None
        bounds, key, planned_micros = rows[0]
        planned_at = datetime.fromtimestamp(planned_micros / 1_000_000, UTC)
        return BucketPlan(tuple(map(_bucket, json.loads(bounds))), key, planned_at)

    def write(self, table: TableName, plan: BucketPlan) -> None:
        """Set a table's plan."""
        self.forget(table)
        bounds = [(bucket.name, bucket.low, bucket.high) for bucket in plan.buckets]
        self._mirrors.connection.execute(
            f"INSERT INTO {self._table} VALUES (?, ?, ?, ?, ?)",
            (self._pipeline, str(table), json.dumps(bounds), plan.key, plan.planned_at),
        )

    def forget(self, table: TableName) -> None:
        """Remove a table's plan."""
        self._mirrors.connection.execute(
            f"DELETE FROM {self._table} WHERE pipeline = ? AND source_table = ?",
            (self._pipeline, str(table)),
        )


def _bucket(plain: tuple[str, list[str] | None, list[str] | None]) -> Bucket:
    name, *bounds = plain
    low, high = (None if bound is None else tuple(bound) for bound in bounds)
    return Bucket(name, low, high)
