"""A table that something else has copied becomes a mirror once it is proven."""

from __future__ import annotations

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.progress import TableCompared
from cdc_assets.replication.adopting import adopt
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, mirror_rows

T = TableName("public", "t")


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    database.execute("INSERT INTO t SELECT i, 'a' || i FROM generate_series(1, 50) i")
    return pipeline("public.t")


def copy(database: ScratchDatabase, config: PipelineConfig, columns: str) -> LSN:
    """Copy the table with another tool, and give the LSN at which it was."""
    rows = database.execute("SELECT id, a FROM t")
    ((lsn,),) = database.execute("SELECT pg_current_wal_insert_lsn()::text")
    config.warehouse_path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(f"CREATE SCHEMA public; CREATE TABLE public.t ({columns})")
        warehouse.executemany("INSERT INTO public.t VALUES (?, ?)", rows)
    return LSN.parse(lsn)


def test_a_table_is_adopted_and_goes_on(database: ScratchDatabase, config: PipelineConfig) -> None:
    lsn = copy(database, config, "id INTEGER, a VARCHAR")
    database.execute("UPDATE t SET a = 'later' WHERE id < 9; DELETE FROM t WHERE id = 30")
    (compared,) = [one for one in adopt(config, T, lsn) if isinstance(one, TableCompared)]
    assert compared.equal
    database.execute("INSERT INTO t VALUES (60, 'more')")
    converge(database, config)
    assert mirror_rows(config, "public.t", "_cdc_lsn")[0] == (int(lsn),)


def test_a_table_is_adopted_with_deleted_rows(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    tables = [{"source": "public.t", "deletes": "soft"}]
    config = load_config(rewrite(config, tables=tables))
    lsn = copy(database, config, "id INTEGER, a VARCHAR")
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(
            "ALTER TABLE public.t ADD _cdc_lsn UBIGINT; ALTER TABLE public.t ADD _cdc_commit_ts"
            " TIMESTAMPTZ; ALTER TABLE public.t ADD _cdc_deleted BOOLEAN;"
            f" UPDATE public.t SET _cdc_lsn = {int(lsn)};"
            " INSERT INTO public.t VALUES (70, 'gone', 1, NULL, true)"
        )
    database.execute("DELETE FROM t WHERE id = 30")
    (compared,) = [one for one in adopt(config, T, lsn) if isinstance(one, TableCompared)]
    assert compared.equal
    converge(database, config)
    dead = [row for row in mirror_rows(config, "public.t", "id, _cdc_deleted") if row[1]]
    assert dead == [(30, True), (70, True)]


def test_a_table_that_differs_is_given_back(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    lsn = copy(database, config, "id INTEGER, a VARCHAR")
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("DELETE FROM public.t WHERE id = 4")
    with pytest.raises(TableError, match="was not adopted: it differs from the source"):
        list(adopt(config, T, lsn))
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        assert warehouse.execute("SELECT count(*) FROM _cdc.checkpoints").fetchall() == [(0,)]


def test_what_can_not_be_adopted(database: ScratchDatabase, config: PipelineConfig) -> None:
    with pytest.raises(TableError, match="is not in the warehouse"):
        list(adopt(config, T, LSN.parse("0/1")))
    lsn = copy(database, config, "id BIGINT, a VARCHAR")
    with pytest.raises(TableError, match=r"changes of 'public\.t' are gone"):
        list(adopt(config, T, LSN.parse("0/1")))
    with pytest.raises(TableError, match="the source's WAL ends at"):
        list(adopt(config, T, LSN(lsn + 10**9)))
    with pytest.raises(TableError, match="has BIGINT as type of column 'id', expected INTEGER"):
        list(adopt(config, T, lsn))
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute("DROP TABLE public.t")
    converge(database, config)
    with pytest.raises(TableError, match="has a checkpoint already"):
        list(adopt(config, T, lsn))
