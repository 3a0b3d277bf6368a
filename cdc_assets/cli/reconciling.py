"""The commands that prove that a mirror equals its source."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from cdc_assets.cli.output import DONE, FAILED, say, say_json, say_progress
from cdc_assets.cli.selection import selected

if TYPE_CHECKING:
    from cdc_assets.progress import ReconcileEvent, TableCompared


def reconcile(options: argparse.Namespace) -> int:
    """Compare mirrors with their source tables."""
    config = selected(options)
    tables = config.select(options.tables)
    from cdc_assets.replication.reconcile import reconcile

    events = reconcile(config, tables=tables or None, sample=options.sample, repair=options.repair)
    with closing(events):
        return _say_compared(events, as_json=options.json)


def adopt(options: argparse.Namespace) -> int:
    """Take a table that something else copied as complete, and prove it."""
    config = selected(options)
    (table,) = config.select([options.table])
    from cdc_assets.replication.adopting import adopt

    with closing(adopt(config, table, options.at_lsn)) as events:
        return _say_compared(events, as_json=options.json)


def _say_compared(events: Iterator[ReconcileEvent], *, as_json: bool) -> int:
    from cdc_assets.operations.reconcile_text import (
        compared_as_json,
        compared_lines,
        reconcile_line,
    )
    from cdc_assets.progress import TableCompared

    compared: list[TableCompared] = []
    for event in events:
        say_progress(reconcile_line(event))
        if isinstance(event, TableCompared):
            compared.append(event)
    if as_json:
        say_json(compared_as_json(compared))
    else:
        say(compared_lines(compared))
    return DONE if all(table.equal or table.no_mirror for table in compared) else FAILED
