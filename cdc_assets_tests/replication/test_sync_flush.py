from __future__ import annotations

from contextlib import closing
from time import monotonic

from cdc_assets.replication.sync import sync
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source

UNFLUSHED = "SELECT pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn()"


def test_a_sync_does_not_wait_for_wal_that_the_idle_server_leaves_unflushed(
    database: ScratchDatabase, pipeline: MakePipeline
):
    """An open transaction's or a read's WAL (pruning) is flushed by nobody for up to 15 s."""
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    config = pipeline("public.t")
    database.execute("INSERT INTO t VALUES (1)")
    with closing(database.connect()) as other, other.transaction():
        other.execute("INSERT INTO t VALUES (2)")
        assert database.execute(UNFLUSHED)[0][0] > 0
        started = monotonic()
        *_, finished = sync(config)
        assert monotonic() - started < 5
        assert finished.lag_bytes < 10_000
        assert_equal_to_source(database, config)
