"""Columns that take names which the config uses: nothing is masked, chosen or joined by a name."""

from __future__ import annotations

import hashlib

import pytest

from cdc_assets.config import load_config
from cdc_assets.identifiers import TableName
from cdc_assets.progress import SchemaChanged, SyncEvent
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.rebuilding import rebuild
from cdc_assets.replication.sync import sync
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.equality import assert_equal_to_source
from cdc_assets_tests.syncs import errors_of, kept, mirror_rows, query, sync_all, sync_once

SWAP = (
    "ALTER TABLE t RENAME {0} TO x; ALTER TABLE t RENAME {1} TO {0};ALTER TABLE t RENAME x TO {1}"
)
T = TableName("public", "t")
NUMBERS = (
    "CREATE TABLE t (id int PRIMARY KEY, b int, c int);"
    "INSERT INTO t SELECT i, i, 10 - i FROM generate_series(1, 8) i"
)


def ways(events: list[SyncEvent]) -> list[str]:
    return [event.how for event in events if isinstance(event, SchemaChanged)]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("keep", [["mirror"], ["mirror", "changes", "history"]])
@pytest.mark.parametrize("then", ["", "; INSERT INTO t VALUES (3, 'plain-3')"])
def test_a_column_that_takes_the_name_of_a_masked_one_is_masked_throughout(
    database: ScratchDatabase, pipeline: MakePipeline, keep: list[str], then: str
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, email text, other text);"
        "INSERT INTO t VALUES (1, 'mail-1', 'plain-1'), (2, 'mail-2', NULL)"
    )
    config = kept(
        pipeline("public.t"),
        keep,
        mask={"email": "sha256"},
        schema_changes={"dropped_columns": "drop"},
    )
    sync_all(config)
    database.execute(f"ALTER TABLE t DROP email; ALTER TABLE t RENAME other TO email{then}")

    assert ways(list(sync(config))) == ["copied anew"]

    rows = [(1, sha256("plain-1")), (2, None), *([(3, sha256("plain-3"))] if then else [])]
    assert mirror_rows(config, "public.t", "id, email") == rows


def test_masks_that_are_swapped_stop_the_table(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text, b text)")
    database.execute("INSERT INTO t VALUES (1, 'canary-a', 'bbbbbb-b')")
    config = kept(pipeline("public.t"), ["mirror"], mask={"a": "sha256", "b": "last4"})
    sync_all(config)
    database.execute(f"{SWAP.format('a', 'b')}; UPDATE t SET id = 2")

    error = errors_of(sync_once(config))["public.t"]

    assert "'a', which is masked by sha256, is called 'b' now" in error.message
    swapped = kept(config, ["mirror"], mask={"b": "sha256", "a": "last4"})
    list(backfill(swapped, T))
    ((a, b),) = mirror_rows(swapped, "public.t", "a, b")
    assert (a[-4:], b) == ("bb-b", sha256("canary-a"))
    assert b"canary" not in swapped.warehouse_path.read_bytes()


def test_rows_are_chosen_by_the_column_that_has_the_name(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(NUMBERS)
    config = kept(pipeline("public.t"), ["mirror"], where="b < 4")
    sync_all(config)
    database.execute(SWAP.format("b", "c"))

    assert ways(list(sync(config))) == ["copied anew"]

    assert mirror_rows(config, "public.t", "id, b, c") == [(7, 3, 7), (8, 2, 8)]


def test_names_that_nothing_is_computed_of_are_swapped_in_place(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(NUMBERS)
    config = kept(pipeline("public.t"), ["mirror", "changes"])
    sync_all(config)
    database.execute(f"{SWAP.format('b', 'c')}; INSERT INTO t VALUES (9, 0, 0)")

    assert ways(list(sync(config))) == ["in place"]

    assert_equal_to_source(database, config)


@pytest.mark.parametrize("keep", ["current", "as_written"])
def test_what_others_take_of_a_column_is_not_another_ones(
    database: ScratchDatabase, pipeline: MakePipeline, keep: str
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text, w text);"
        "CREATE TABLE o (id int PRIMARY KEY, t int);"
        "INSERT INTO t SELECT i, 'v' || i, 'w' || i FROM generate_series(1, 4) i;"
        "INSERT INTO o SELECT i, i FROM generate_series(1, 4) i"
    )
    taken = {"from": "public.t", "on": {"t": "id"}, "columns": {"v": "t_v"}, "keep": keep}
    tables = [{"source": "public.t"}, {"source": "public.o", "enrich": [taken]}]
    config = load_config(rewrite(pipeline("public.t", "public.o"), tables=tables))
    sync_all(config)
    database.execute(SWAP.format("v", "w"))

    assert "backfill" in errors_of(sync_once(config))["public.t"].hint

    for table in ("public.t", "public.o"):
        list(backfill(config, TableName.parse(table)))
    sync_all(config)
    assert mirror_rows(config, "public.o", "id, t_v") == [(i, f"w{i}") for i in range(1, 5)]


@pytest.mark.parametrize("then", ["", "; ALTER TABLE t RENAME other TO big"])
def test_values_that_a_change_left_out_are_not_those_of_a_column_that_is_gone(
    database: ScratchDatabase, pipeline: MakePipeline, then: str
) -> None:
    database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, big text, other text);"
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL;"
        "INSERT INTO t SELECT i, repeat('z' || i, 3000), 'old' || i FROM generate_series(1, 3) i"
    )
    config = kept(
        pipeline("public.t"),
        ["mirror", "changes", "history"],
        schema_changes={"dropped_columns": "drop"},
    )
    sync_all(config)
    database.execute("UPDATE t SET other = 'new' WHERE id = 1")
    database.execute(f"ALTER TABLE t DROP big{then}")
    database.execute("INSERT INTO t VALUES (9, 'nine')")
    assert ways(list(sync(config))) == ["in place"]
    assert_equal_to_source(database, config)

    unchanged = "SELECT DISTINCT _cdc_unchanged FROM public.t__changes WHERE _cdc_op = 'update'"
    assert query(config, unchanged) == [([],)]
    rows = mirror_rows(config, "public.t")
    list(rebuild(config, T))
    assert mirror_rows(config, "public.t") == rows
    assert_equal_to_source(database, config)
