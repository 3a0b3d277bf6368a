"""Intervals that last as long are other values: a month, 30 days, 720 hours."""

from __future__ import annotations

import duckdb
import pytest

from cdc_assets.changes.shape import TableShape
from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.identifiers import TableName
from cdc_assets.pgoutput.types import intervals_as_text
from cdc_assets.progress import TableCompared
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.source import columns
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, kept, mirror_rows, query, sync_all

TABLE = TableName("public", "t")


@pytest.fixture
def made(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v interval, l interval[])")
    database.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    database.execute("INSERT INTO t SELECT n, '1 mon', '{1 mon}' FROM generate_series(1, 3) AS n")
    database.execute("CREATE TABLE r (id int PRIMARY KEY, t int)")
    database.execute("INSERT INTO r SELECT id, id FROM t")
    return pipeline("public.t", "public.r")


def test_each_change_between_them_is_a_version(
    database: ScratchDatabase, made: PipelineConfig
) -> None:
    config = kept(made, ["mirror", "changes", "history"])
    converge(database, config)
    for value in ("30 days", "720:00:00", "29 days 24:00:00"):
        database.execute("UPDATE t SET v = %s::text::interval WHERE id = 1", [value])
        database.execute("UPDATE t SET l = ARRAY[%s::text::interval] WHERE id = 2", [value])
    converge(database, config)
    versions = (
        "SELECT {}::VARCHAR FROM public.t__history WHERE id = {} ORDER BY _cdc_valid_from_lsn"
    )
    seen = ["1 month", "30 days", "720:00:00", "29 days 24:00:00"]
    assert [row[0] for row in query(config, versions.format("v", 1))] == seen
    assert [row[0] for row in query(config, versions.format("l[1]", 2))] == seen
    before = query(
        config,
        "SELECT _cdc_before.v::VARCHAR FROM public.t__changes WHERE id = 1 ORDER BY _cdc_lsn",
    )
    assert [row[0] for row in before] == [None, "1 month", "30 days", "720:00:00"]


@pytest.mark.parametrize("column", ["v", "l"])
def test_a_mirror_that_has_another_one_is_found(
    database: ScratchDatabase, made: PipelineConfig, column: str
) -> None:
    converge(database, made)
    other = {"v": "INTERVAL 30 days", "l": "[INTERVAL 720 hours]"}[column]
    with duckdb.connect(str(made.warehouse_path)) as warehouse:
        warehouse.execute("CREATE TEMP TABLE other AS FROM public.t WHERE id = 2")
        warehouse.execute("DELETE FROM public.t WHERE id = 2")
        warehouse.execute(
            f"INSERT INTO public.t SELECT * REPLACE ({other} AS {column}) FROM temp.other"
        )
    found = [event for event in reconcile(made, tables=[TABLE]) if isinstance(event, TableCompared)]
    assert [(one.equal, one.columns) for one in found] == [(False, (column,))]
    list(backfill(made, TABLE))
    converge(database, made)


def test_what_rows_take_of_a_partner_becomes_the_one_that_it_is(
    database: ScratchDatabase, made: PipelineConfig
) -> None:
    enrich = {"from": "public.t", "on": {"t": "id"}, "columns": {"v": "v"}, "keep": "current"}
    config = load_config(
        rewrite(made, tables=[{"source": "public.t"}, {"source": "public.r", "enrich": [enrich]}])
    )
    sync_all(config)
    for value in ("30 days", None, "720:00:00", "1 mon"):
        database.execute("UPDATE t SET v = %s::text::interval WHERE id < 3", [value])
        sync_all(config)
        theirs = mirror_rows(config, "public.t", "id, v::VARCHAR")
        assert mirror_rows(config, "public.r", "id, v::VARCHAR") == theirs


def as_older(config: PipelineConfig) -> None:
    """Leave the warehouse as a version has that does not know of other types to keep."""
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        for kind in ("", "text", "text[]"):
            plain = f', "kept": "{kind}"'
            warehouse.execute("UPDATE _cdc.checkpoints SET shape = replace(shape, ?, '')", [plain])


def texts(config: PipelineConfig, table: str = "t") -> list[str]:
    sql = (
        "SELECT data_type FROM duckdb_columns() WHERE schema_name = 'public'"
        f" AND table_name = '{table}' AND column_name IN ('v', 'l') ORDER BY column_index"
    )
    return [row[0] for row in query(config, sql)]


@pytest.mark.parametrize("deletes", ["hard", "soft"])
def test_a_mirror_of_an_older_version_keeps_texts_until_it_is_backfilled(
    database: ScratchDatabase,
    made: PipelineConfig,
    monkeypatch: pytest.MonkeyPatch,
    deletes: str,
) -> None:
    enrich = {"from": "public.t", "on": {"t": "id"}, "columns": {"v": "v"}}
    tables = [
        {"source": "public.t", "keep": ["mirror", "changes", "history"], "deletes": deletes},
        {"source": "public.r", "enrich": [enrich]},
    ]
    config = load_config(rewrite(made, tables=tables))
    with monkeypatch.context() as older:
        resolve = columns._resolve
        older.setattr(columns, "_resolve", lambda *args: intervals_as_text(resolve(*args)))
        sync_all(config)
        database.execute("DELETE FROM t WHERE id = 3")
        sync_all(config)
    as_older(config)
    database.execute("INSERT INTO t VALUES (4, '1 mon', '{infinity}'); INSERT INTO r VALUES (4, 4)")
    converge(database, config)
    assert texts(config) == ["VARCHAR", "VARCHAR[]"]
    assert mirror_rows(config, "public.r", "v")[-1] == ("1 mon",)
    list(backfill(config, TABLE, buckets=["00"]))
    converge(database, config)
    database.execute("UPDATE t SET l = NULL WHERE id = 4")
    list(backfill(config, TABLE))
    list(backfill(config, TableName("public", "r")))
    converge(database, config)
    expected = ["VARCHAR", "VARCHAR[]"] if deletes == "soft" else ["INTERVAL", "INTERVAL[]"]
    assert texts(config) == texts(config, "t__changes")[:2] == expected
    assert texts(config, "r") == expected[:1]
    if deletes == "soft":
        assert mirror_rows(config, "public.t", "v, _cdc_deleted")[-1] == ("1 mon", True)


def test_a_key_is_a_text(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute("CREATE TABLE t (v interval PRIMARY KEY, n int)")
    database.execute("INSERT INTO t VALUES ('1 mon', 1), ('infinity', 2)")
    config = pipeline("public.t")
    converge(database, config)
    assert texts(config) == ["VARCHAR"]


def test_a_shape_that_an_older_version_wrote_has_texts() -> None:
    kind = {"name": "interval", "oid": 1186, "typmod": -1, "is_array": False, "is_enum": False}
    column = {"name": "v", "attnum": 1, "type": kind, "type_oid": 1186, "typmod": -1}
    plain = {"oid": 1, "columns": [{**column, "nullable": True}], "key": [], "publication": {}}
    (read,) = TableShape.from_json(plain).columns
    assert read.type.kept == "text"
    assert TableShape.from_json(TableShape.from_json(plain).to_json()).columns == (read,)
