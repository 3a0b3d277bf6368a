"""A DuckDB that does not keep the sign of a zero gets none that has one."""

from __future__ import annotations

import pyarrow as pa
import pytest

from cdc_assets.warehouse import zeros
from cdc_assets.warehouse.zeros import first_negative_zero
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

TINY = 5e-324


@pytest.mark.parametrize(
    ("values", "row"),
    [
        ([0.0, 1.0, None, float("nan"), float("-inf"), -TINY], None),
        ([0.0, None, -0.0, -0.0], 2),
        ([], None),
        ([None, [], [0.0, 1.0], [-TINY, -0.0]], 3),
        ([[0.0], None], None),
        ([1, 0], None),
        (["-0.0"], None),
    ],
)
def test_a_negative_zero_is_found(values: list[object], row: int | None) -> None:
    assert first_negative_zero(pa.array(values)) == row


@pytest.mark.parametrize("kind", ["real", "double precision", "double precision[]"])
def test_one_stops_its_table_alone(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    zero = "'{1,-0}'" if kind.endswith("[]") else "'-0'"
    for table in "ab":
        database.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v {kind})")
    config = pipeline("public.a", "public.b")
    converge(database, config)
    database.execute(f"INSERT INTO a VALUES (1, {zero}); INSERT INTO b VALUES (1, NULL)")
    monkeypatch.setattr(zeros, "KEPT", False)

    streamed = errors_of(sync_once(config))["public.a"]

    assert str(streamed).startswith("column 'v' of table 'public.a' (")
    assert streamed.hint.startswith("install DuckDB 2.0")
    assert mirror_rows(config, "public.a", "id") == []
    assert mirror_rows(config, "public.b", "id") == [(1,)]


def test_a_copy_stops_likewise(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute("CREATE TABLE a (id int PRIMARY KEY, v real); INSERT INTO a VALUES (1, '-0')")
    config = pipeline("public.a")
    monkeypatch.setattr(zeros, "KEPT", False)

    assert "holds a -0.0" in str(errors_of(sync_once(config))["public.a"])

    database.execute("UPDATE a SET v = 0")
    converge(database, config)
