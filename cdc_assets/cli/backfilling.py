"""The commands that make tables what they are on the source, while syncs go on."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from cdc_assets.cli.output import (
    DONE,
    FAILED,
    UsageError,
    confirmed,
    say,
    say_json,
    say_progress,
)
from cdc_assets.cli.selection import selected
from cdc_assets.errors import CdcError, PreflightError, TableError

_SAYS = "'cdc-assets backfill --help' says what it takes"

if TYPE_CHECKING:
    from cdc_assets.config import PipelineConfig
    from cdc_assets.identifiers import TableName
    from cdc_assets.progress import BucketBackfilled, SyncFinished


def backfill(options: argparse.Namespace) -> int:
    """Make tables, or parts of them, anew while syncs go on."""
    config = selected(options)
    tables = _to_backfill(config, options)
    asked = {table: config.table(table).select_buckets(options.bucket) for table in tables}
    from cdc_assets.operations.backfill_text import backfilled_as_json, backfilled_lines

    done: list[BucketBackfilled] = []
    failed: dict[TableName, CdcError] = {}
    for table, buckets in asked.items():
        try:
            done += _backfill(config, table, buckets=buckets, where=options.where or "")
        except (TableError, PreflightError) as error:
            say_progress(f"{table} was not backfilled: {error}")
            failed[table] = error
    if options.json:
        say_json(backfilled_as_json(tables, done, failed))
    else:
        say(backfilled_lines(done))
    return FAILED if failed else DONE


def _to_backfill(config: PipelineConfig, options: argparse.Namespace) -> tuple[TableName, ...]:
    if bool(options.tables) == options.all_tables:
        raise UsageError("expected tables to backfill, or --all-tables", hint=_SAYS)
    if options.where is not None and not options.where.strip():
        raise UsageError("expected a predicate behind --where, got none", hint=_SAYS)
    if options.where and (options.bucket or options.all_tables or len(options.tables) > 1):
        raise UsageError("--where goes with one table, and without --bucket", hint=_SAYS)
    return config.table_names if options.all_tables else config.select(options.tables)


def _backfill(
    config: PipelineConfig, table: TableName, *, buckets: tuple[str, ...], where: str
) -> Iterator[BucketBackfilled]:
    from cdc_assets.operations.backfill_text import backfill_line
    from cdc_assets.progress import BucketBackfilled
    from cdc_assets.replication.backfill import backfill

    with closing(backfill(config, table, buckets=buckets or None, where=where)) as events:
        for event in events:
            say_progress(backfill_line(event))
            if isinstance(event, BucketBackfilled):
                yield event


def resync(options: argparse.Namespace) -> int:
    """Make the slot anew where it, or the source, is not what it was, and every table with it."""
    config = selected(options)
    from cdc_assets.replication.resync import find_losses

    losses = find_losses(config)
    told = {"found": list(losses.found), "will": list(losses.will)}
    if not losses.found:
        if options.json:
            say_json(told)
        else:
            say([f"nothing of pipeline {config.name!r} is lost: syncs go on by themselves"])
        return DONE
    for line in losses.found:
        say_progress(f"found: {line}")
    for line in losses.will:
        say_progress(f"resync will {line}")
    if not options.yes and not confirmed("go on?"):
        say_progress("nothing was done")
        return FAILED
    return _resync(config, told, as_json=options.json)


def _resync(config: PipelineConfig, told: dict[str, list[str]], *, as_json: bool) -> int:
    from cdc_assets.operations.reporting import finished_as_json, finished_lines, line
    from cdc_assets.progress import SyncFinished
    from cdc_assets.replication.resync import resync

    finished: SyncFinished | None = None
    with closing(resync(config)) as events:
        for event in events:
            if isinstance(event, SyncFinished):
                finished = event
            else:
                say_progress(line(event))
    if as_json:
        say_json({**told, **(finished_as_json(finished) if finished else {})})
    elif finished:
        say(finished_lines(finished))
    return FAILED if finished and finished.failed else DONE
