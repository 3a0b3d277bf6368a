"""Commands and their options."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from cdc_assets.cli import backfilling, commands, previewing, rebuilding, reconciling
from cdc_assets.cli.output import UsageError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"'{self.prog} --help' says what it takes")


def parser() -> argparse.ArgumentParser:
    """Make the parser of the whole command line, which raises `UsageError`."""
    root = _Parser(
        prog="cdc-assets",
        description="Postgres change data capture into a warehouse, exact and fast.",
    )
    root.add_argument("--version", action="version", version=f"cdc-assets {version('cdc-assets')}")
    subparsers = root.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], about: str) -> Any:
        sub = subparsers.add_parser(name, help=about, description=about)
        sub.set_defaults(command=command)
        if name not in ("demo", "scaffold"):
            sub.add_argument(
                "--config",
                type=Path,
                metavar="PATH",
                help="the pipeline's defs.yaml, or a folder with it; default: the Dagster project "
                "of the current directory",
            )
            sub.add_argument(
                "--pipeline", metavar="NAME", help="which one, where there are several"
            )
            sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub

    add(
        "check",
        commands.check,
        "find every problem of config, source and warehouse, each with its fix",
    )
    making = add(
        "setup", commands.setup, "create publication and slot on the source; safe to repeat"
    )
    making.add_argument(
        "--take-over",
        action="store_true",
        help="make the slot serve this warehouse, which copies anew what it can't go on with; the "
        "one that it served can't go on",
    )
    run = add("sync", commands.sync, "apply everything that committed before the command started")
    run.add_argument("--table", action="append", default=[], help="only this table; repeatable")
    run.add_argument("--until-lsn", type=_lsn, help="stop at the first commit at or past this LSN")
    _add_backfill(add)
    _add_reconcile(add)
    _add_rebuild(add)
    anew = add(
        "resync",
        backfilling.resync,
        "make the slot and every table anew after something was lost; says what, and asks",
    )
    anew.add_argument("--yes", action="store_true", help="do not ask")
    taken = add(
        "adopt",
        reconciling.adopt,
        "take a table that something else copied as complete at an LSN, and prove it",
    )
    taken.add_argument("table", metavar="TABLE")
    taken.add_argument(
        "--at-lsn", type=_lsn, required=True, help="everything committed up to it is in the table"
    )
    shown = add(
        "preview",
        previewing.preview,
        "show what the config makes of a table's rows; writes nothing and confirms nothing",
    )
    shown.add_argument("table", metavar="TABLE")
    shown.add_argument(
        "--rows", type=_rows, default=5, metavar="N", help="how many; default: %(default)s"
    )
    state = add("status", commands.status, "show how far slot and tables are, and what is wrong")
    state.add_argument("--watch", action="store_true", help="show it again every 2 s until Ctrl-C")
    removal = add("teardown", commands.teardown, "remove slot, publication and checkpoints")
    removal.add_argument(
        "--table",
        action="append",
        default=[],
        help="only drop this table's mirror and checkpoint: the next sync copies it anew",
    )
    removal.add_argument(
        "--drop-tables",
        action="store_true",
        help="drop the mirrors, too; with --table also one that has no checkpoint",
    )
    removal.add_argument("--yes", action="store_true", help="do not ask")
    files = add("sql", commands.sql, "print SQL for the source, with the pipeline's own names")
    files.add_argument(
        "file",
        choices=["role", "publication", "monitoring"],
        help="what an administrator runs, what the tables' owner runs, what to watch",
    )
    written = add("scaffold", commands.scaffold, "write a dagster.yaml that holds up")
    written.add_argument("what", choices=["instance"])
    written.add_argument(
        "directory",
        nargs="?",
        type=Path,
        metavar="DIR",
        help="where to; default: $DAGSTER_HOME, else here",
    )
    written.set_defaults(json=False)
    shop = add("demo", commands.demo, "run a shop with a live workload on an embedded Postgres")
    shop.add_argument("--once", action="store_true", help="without Dagster: sync, compare, exit")
    shop.add_argument("--directory", type=Path, default=Path("data/demo"), help="%(default)s")
    shop.add_argument("--port", type=_port, default=3000, help="of Dagster's page, %(default)s")
    return root


def _add_backfill(add: Callable[..., Any]) -> None:
    copied = add(
        "backfill",
        backfilling.backfill,
        "make tables, or parts of them, what they are on the source, while syncs go on",
    )
    copied.add_argument("tables", nargs="*", metavar="TABLE")
    copied.add_argument(
        "--bucket",
        action="append",
        default=[],
        metavar="N",
        help="only this range of keys, 00 or another; repeatable",
    )
    copied.add_argument(
        "--where",
        metavar="SQL",
        help="only rows of which this is true on the source; removes none",
    )
    copied.add_argument("--all-tables", action="store_true", help="one after the other")


def _add_reconcile(add: Callable[..., Any]) -> None:
    compared = add(
        "reconcile",
        reconciling.reconcile,
        "say whether mirrors have the rows of their source tables, while both are written",
    )
    compared.add_argument("tables", nargs="*", metavar="TABLE", help="default: all")
    compared.add_argument(
        "--sample",
        type=_share,
        default=1.0,
        metavar="SHARE",
        help="only this share of each table's buckets, 0.1 for a tenth; drawn anew each time",
    )
    compared.add_argument("--repair", action="store_true", help="backfill the buckets that differ")


def _add_rebuild(add: Callable[..., Any]) -> None:
    made = add(
        "rebuild",
        rebuilding.rebuild,
        "make a mirror, and the history, anew from the change table alone, without the source",
    )
    made.add_argument("table", metavar="TABLE")
    made.add_argument(
        "--to-lsn",
        type=_lsn,
        metavar="L",
        help="as of this LSN, with --into; default: as of the table's checkpoint",
    )
    made.add_argument(
        "--into",
        type=_table,
        metavar="NAME",
        help="leave it under this name, schema.table, and what is there as it is",
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0, up to 1, got {text!r}")
    return share


def _lsn(text: str) -> LSN:
    try:
        return LSN.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _table(text: str) -> TableName:
    try:
        return TableName.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _rows(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number <= 1000:
        raise argparse.ArgumentTypeError(f"expected 1 to 1000 rows, got {text!r}")
    return number


def _port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < number < 2**16:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return number
