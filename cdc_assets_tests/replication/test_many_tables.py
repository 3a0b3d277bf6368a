"""What is asked of both ends does not grow with the number of tables."""

from __future__ import annotations

from collections.abc import Callable

from cdc_assets.config import PipelineConfig
from cdc_assets.operations.checking import find_problems
from cdc_assets.operations.status import read_status
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.statements import counted
from cdc_assets_tests.syncs import kept, sync_all

# Apart by more than what one run asks once more than another, which has no window
FEW, MORE = 1, 10


def _of_tables(database: ScratchDatabase, pipeline: MakePipeline, count: int) -> PipelineConfig:
    tables = [f"public.of_{count}_{number}" for number in range(count)]
    database.execute(
        ";".join(
            f"CREATE TABLE {table} (id int PRIMARY KEY, v int);"
            f" ALTER TABLE {table} REPLICA IDENTITY FULL; INSERT INTO {table} VALUES (1, 1)"
            for table in tables
        )
    )
    made = pipeline(*tables, name=f"of_{count}")
    config = kept(made, ["mirror", "changes", "history"], deletes="soft")
    sync_all(config)
    return config


def test_no_statement_is_run_for_each_table(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    def change_one(config: PipelineConfig) -> None:
        database.execute(f"UPDATE {config.table_names[0].sql} SET v = v + 1")
        assert sync_all(config).counts.updated == 1

    few, more = (_of_tables(database, pipeline, count) for count in (FEW, MORE))
    asked: tuple[Callable[[PipelineConfig], object], ...]
    asked = (sync_all, change_one, find_problems, read_status)
    for asks in asked:
        with counted() as of_few:
            asks(few)
        with counted() as of_more:
            asks(more)
        assert of_few
        grown = of_more - of_few
        assert [place for place, count in grown.items() if count >= MORE - FEW] == []
