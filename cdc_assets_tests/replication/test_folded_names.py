"""Which names are one in the warehouse, and which are two."""

from __future__ import annotations

import duckdb
import pytest

from cdc_assets.identifiers import TableName, quote
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, errors_of, has_mirror, sync_all, sync_once

# One by Unicode's case folding
PAIRS = [
    ("\u00c4", "\u00e4"),
    ("stra\u00dfe", "strasse"),
    ("\u0130", "i\u0307"),
    ("\u03a9", "\u03c9"),
    ("\u017f", "s"),
]


def test_names_that_other_rules_than_the_warehouses_fold_are_two(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    columns = ", ".join(f"{quote(name)} int" for pair in PAIRS for name in pair)
    tables = [TableName("public", f"of {name}") for pair in PAIRS[:2] for name in pair]
    for number, table in enumerate(tables):
        values = ", ".join(str(number + at) for at in range(2 * len(PAIRS)))
        database.execute(
            f"CREATE TABLE {table.sql} (id int PRIMARY KEY, {columns});"
            f"INSERT INTO {table.sql} VALUES (1, {values})"
        )
    config = pipeline(*map(str, tables))
    converge(database, config)
    for table in tables:
        database.execute(f"INSERT INTO {table.sql} SELECT 2")
    assert sync_all(config).counts.inserted == len(tables)
    converge(database, config)


def test_tables_of_other_case_that_others_have_in_the_warehouse_are_in_nobodys_way(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute('CREATE TABLE "Ä" (id int PRIMARY KEY); INSERT INTO "Ä" VALUES (1)')
    config = pipeline("public.Ä")
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute('CREATE SCHEMA public; CREATE TABLE public."ä" (other int)')
    converge(database, config)
    converge(database, config)


@pytest.mark.parametrize("key", ['"Id" int PRIMARY KEY, id int', 'id int PRIMARY KEY, "ID" int'])
def test_columns_that_differ_in_case_alone_are_refused_before_anything_is_written(
    database: ScratchDatabase, pipeline: MakePipeline, key: str
) -> None:
    database.execute(f"CREATE TABLE t ({key}); CREATE TABLE u (id int PRIMARY KEY)")
    config = pipeline("public.t", "public.u")
    errors = errors_of(sync_once(config))
    assert [*errors] == ["public.t"]
    assert "are one name in the warehouse" in errors["public.t"].message
    assert not has_mirror(config, "public.t")
    assert has_mirror(config, "public.u")
