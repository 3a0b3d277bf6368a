"""How a table is cut into buckets: planned once, and kept while it serves."""

from __future__ import annotations

from datetime import UTC, datetime

from cdc_assets.changes.buckets import Bucket, BucketPlan, cut, key_declaration
from cdc_assets.identifiers import TableName
from cdc_assets.replication.session import Session
from cdc_assets.source.buckets import plan_buckets


def planned_buckets(session: Session, table: TableName) -> tuple[Bucket, ...]:
    """Give a table's buckets, all of them in their order.

    Raises:
        TableError: The table can't be read.
    """
    plans = session.warehouse.plans
    names = session.config.table(table).backfill.bucket_names
    if session.shaping(table).masks_key(session.checkpoints[table].shape):
        return cut(names, [])  # no bound of the source's is one in the warehouse
    shape, now = session.checkpoints[table].shape, datetime.now(UTC)
    plan, under_way = plans.read(table), bool(session.copies_of(table))
    if plan is None or not plan.serves(shape, names, now, under_way=under_way):
        buckets = plan_buckets(session.control, session.source_table(table), names)
        plan = BucketPlan(buckets, key_declaration(shape), now)
        with session.warehouse.transaction():
            plans.write(table, plan)
    return plan.buckets
