"""Rows of many megabytes, and rows that Postgres itself can't give out."""

from __future__ import annotations

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ReplicationError
from cdc_assets.identifiers import TableName
from cdc_assets.progress import BucketBackfilled
from cdc_assets.replication.backfill import backfill
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import errors_of, mirror_rows, query, sync_all, sync_once

MEGABYTES = 10
# So many each; bytea takes twice that on the stream
ROW = f"""
repeat(md5('text'), {MEGABYTES} * 32768),
convert_to(repeat(md5('bytes'), {MEGABYTES} * 32768), 'UTF8'),
jsonb_build_object('k', repeat(md5('json'), {MEGABYTES} * 32768))
"""
SUMS = "id, n, md5(body), md5(bytes), md5(attrs ->> 'k')"


def test_a_row_of_many_megabytes_is_copied_streamed_moved_and_compared(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE large (id int PRIMARY KEY, n int, body text, bytes bytea, attrs jsonb);"
        "ALTER TABLE large ALTER body SET STORAGE EXTERNAL, ALTER bytes SET STORAGE EXTERNAL,"
        f" ALTER attrs SET STORAGE EXTERNAL; INSERT INTO large SELECT 1, 0, {ROW}"
    )
    config = pipeline("public.large")

    def assert_equal() -> None:
        source = database.execute(f"SELECT {SUMS} FROM large ORDER BY id")
        assert mirror_rows(config, "public.large", SUMS) == source

    sync_all(config)
    assert_equal()
    database.execute(f"INSERT INTO large SELECT 2, 0, {ROW}; UPDATE large SET n = 1")
    sync_all(config)
    assert_equal()
    events = backfill(config, TableName("public", "large"))
    (found,) = [event for event in events if isinstance(event, BucketBackfilled)]
    assert (found.rows_read, found.rows_changed) == (2, 0)


# A row of more than 1 GB is refused with the same code as a text of that length, which takes no
# memory: the row filter makes one of a row with a large number.
TOO_LONG = 1_100_000_000


def _filtered(database: ScratchDatabase, pipeline: MakePipeline, rows: str = "") -> PipelineConfig:
    database.execute(
        "CREATE TABLE long (n int PRIMARY KEY); CREATE TABLE other (id int PRIMARY KEY);"
        f"INSERT INTO long SELECT unnest('{{{rows}}}'::int[]); INSERT INTO other VALUES (1)"
    )
    config = pipeline("public.long", "public.other")
    name = config.source.publication
    database.execute(
        f"ALTER PUBLICATION {name} SET TABLE other, long WHERE (length(repeat('x', n)) >= 0)"
    )
    return config


def test_a_row_that_can_not_be_copied_stops_its_table_alone(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = _filtered(database, pipeline, rows=str(TOO_LONG))

    errors = errors_of(sync_once(config))

    assert [*errors] == ["public.long"]
    assert "a row that is longer than the 1 GB" in errors["public.long"].message
    assert "columns.exclude" in errors["public.long"].hint
    assert query(config, "SELECT * FROM public.other") != []


def test_a_change_that_can_not_be_decoded_says_the_way_behind_it(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    config = _filtered(database, pipeline)
    sync_all(config)
    database.execute(f"INSERT INTO long VALUES ({TOO_LONG})")

    with pytest.raises(ReplicationError, match="longer than the 1 GB") as refused:
        sync_once(config)

    assert "source.push_down: true" in refused.value.hint
    assert "cdc-assets resync" in refused.value.hint
