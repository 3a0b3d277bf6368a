"""A plan of buckets is kept and used again while it is the table's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cdc_assets.changes.buckets import Bucket, BucketPlan, cut, key_declaration
from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.pgoutput.types import SourceType
from cdc_assets.warehouse.duckdb import DuckDBWarehouse
from cdc_assets.warehouse.file import DuckDBFile
from cdc_assets.warehouse.plans import BucketPlans

TABLE = TableName("public", "t")
NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)
TYPE = SourceType("integer", 23, -1, is_array=False, is_enum=False)
COLUMN = SourceColumn("id", 1, TYPE, 23, -1, nullable=False)
SHAPE = TableShape(16_400, (COLUMN,), ("id",))
NAMES = ("00", "01", "02")


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    opened = DuckDBWarehouse(DuckDBFile(tmp_path / "shop.duckdb"), "shop")
    opened.prepare()
    yield opened
    opened.close()


def plan(*cuts: tuple[str, ...]) -> BucketPlan:
    return BucketPlan(cut(NAMES, cuts), key_declaration(SHAPE), NOW)


@pytest.mark.parametrize("cuts", [(), (("a'b",), ("\U0001f600",)), (("1", "x"),)])
def test_a_plan_is_read_as_it_was_written(
    warehouse: DuckDBWarehouse, cuts: tuple[tuple[str, ...], ...]
) -> None:
    plans = warehouse.plans
    assert plans.read(TABLE) is None
    plans.write(TABLE, plan(("other",)))
    plans.write(TABLE, plan(*cuts))

    assert plans.read(TABLE) == plan(*cuts)
    assert BucketPlans(warehouse.mirrors, "another").read(TABLE) is None


def test_a_table_that_is_forgotten_has_no_plan(warehouse: DuckDBWarehouse) -> None:
    plans = warehouse.plans
    plans.write(TABLE, plan())

    warehouse.state.forget(TABLE)

    assert plans.read(TABLE) is None


def test_a_warehouse_of_an_earlier_version_forgets_a_table(warehouse: DuckDBWarehouse) -> None:
    warehouse.mirrors.connection.execute("DROP TABLE _cdc.buckets")

    warehouse.state.forget(TABLE)


def test_buckets_follow_one_another() -> None:
    assert cut(NAMES, [("1",), ("5",)]) == (
        Bucket("00", None, ("1",)),
        Bucket("01", ("1",), ("5",)),
        Bucket("02", ("5",), None),
    )


@pytest.mark.parametrize(
    ("names", "shape", "hours", "under_way", "serves"),
    [
        (NAMES, SHAPE, 23, False, True),
        (NAMES, SHAPE, 24, False, False),
        (NAMES, SHAPE, 100, True, True),
        (NAMES[:2], SHAPE, 0, True, False),
        (NAMES, replace(SHAPE, oid=16_401), 0, True, False),
        (NAMES, replace(SHAPE, columns=(replace(COLUMN, attnum=2),)), 0, True, False),
        (NAMES, replace(SHAPE, files="others", versions="others"), 0, False, True),
    ],
)
def test_a_plan_serves_a_day_or_as_long_as_a_backfill_goes_on(
    names: tuple[str, ...], shape: TableShape, hours: int, under_way: bool, serves: bool
) -> None:
    now = NOW + timedelta(hours=hours)
    assert plan().serves(shape, names, now, under_way=under_way) is serves
