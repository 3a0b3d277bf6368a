"""Takes tables, or a whole pipeline, away again."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.replication.session import open_mirrors
from cdc_assets.source import setup as source_setup
from cdc_assets.warehouse.checkpoints import Checkpoints
from cdc_assets.warehouse.duckdb import DuckDBMirrors


def forget_tables(
    config: PipelineConfig, tables: Collection[TableName], *, drop_unknown: bool = False
) -> list[str]:
    """Drop tables' mirrors and checkpoints, so that the next sync copies them anew.

    Args:
        config: The pipeline.
        tables: Which.
        drop_unknown: Whether to drop tables of these names, too, that have no checkpoint: mirrors
            that outlived their pipeline, or somebody's own.

    Returns:
        What was done, a line each.

    Raises:
        WarehouseError: The warehouse can't be opened, or a table belongs to another pipeline.
    """
    with _opened_warehouse(config) as mirrors:
        if mirrors is None:
            return []
        done = _forget(mirrors, config, only=tables, drop=True)
        if drop_unknown:
            Checkpoints(mirrors, config.name).refuse_other_owners(tables)
            for table in tables:
                if mirrors.exists(table):
                    mirrors.drop(table)
                    done.append(f"dropped table {str(table)!r}, which had no checkpoint")
        return done


def teardown(config: PipelineConfig, *, drop_tables: bool = False) -> list[str]:
    """Remove the pipeline: slot, publication and checkpoints; the mirrors too with `drop_tables`.

    The warehouse is opened before the source is touched: it may be held by another process.

    Returns:
        What was done, a line each.

    Raises:
        CdcError: The slot is in use, or one of the ends refuses.
    """
    with _opened_warehouse(config) as mirrors:
        done = source_setup.teardown(config)
        if mirrors is not None:
            done += _forget(mirrors, config, only=None, drop=drop_tables)
        return done


@contextmanager
def _opened_warehouse(config: PipelineConfig) -> Iterator[DuckDBMirrors | None]:
    if not config.warehouse_path.exists():
        yield None
        return
    mirrors = open_mirrors(config)
    try:
        yield mirrors
    finally:
        mirrors.close()


def _forget(
    mirrors: DuckDBMirrors,
    config: PipelineConfig,
    *,
    only: Collection[TableName] | None,
    drop: bool,
) -> list[str]:
    state, done = Checkpoints(mirrors, config.name), []
    with mirrors.transaction():
        for table in state.read():
            if only is None or table in only:
                state.forget(table)
                if drop:
                    mirrors.drop(table)
                what = "mirror and checkpoint" if drop else "checkpoint"
                done.append(f"dropped {what} of {str(table)!r}")
    return done
