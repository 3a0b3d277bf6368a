"""The command line: the same config and the same use cases as in Dagster, without Dagster.

Exit codes: 0 done, 1 failed, 2 bad usage or config. An error is one line and a hint, no traceback.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cdc_assets.config import PipelineConfig, find_config, load_config
from cdc_assets.errors import CdcError, ConfigError
from cdc_assets.lsn import LSN

DONE, FAILED, BAD_USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except ConfigError as error:
        _say_error(error)
        return BAD_USAGE
    except CdcError as error:
        _say_error(error)
        return FAILED
    except KeyboardInterrupt:
        print("stopped: what was committed stays, the next run goes on from there", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cdc-assets",
        description="Postgres change data capture into a warehouse, exact and fast.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int], about: str) -> Any:
        sub = commands.add_parser(name, help=about, description=about)
        sub.set_defaults(command=command)
        if name != "demo":
            sub.add_argument(
                "--config", type=Path, help="default: the one pipeline under cdc_assets/defs/"
            )
            sub.add_argument("--json", action="store_true", help="print the result as JSON")
        return sub

    add("check", _check, "find every problem of config, source and warehouse, each with its fix")
    add("setup", _setup, "create publication and slot on the source; safe to repeat")
    sync = add("sync", _sync, "apply everything that committed before the command started")
    sync.add_argument("--table", action="append", default=[], help="only this table; repeatable")
    sync.add_argument("--until-lsn", type=_lsn, help="stop at the first commit at or past this LSN")
    add("status", _status, "show how far slot and tables are")
    teardown = add("teardown", _teardown, "remove slot, publication and checkpoints")
    teardown.add_argument(
        "--table",
        action="append",
        default=[],
        help="only drop this table's mirror and checkpoint: the next sync copies it anew",
    )
    teardown.add_argument(
        "--drop-tables",
        action="store_true",
        help="drop the mirrors, too; with --table also one that has no checkpoint",
    )
    demo = add("demo", _demo, "run a shop with a live workload on an embedded Postgres")
    demo.add_argument("--once", action="store_true", help="without Dagster: sync, compare, exit")
    demo.add_argument("--directory", type=Path, default=Path("data/demo"), help="%(default)s")
    demo.add_argument("--port", type=int, default=3000, help="of Dagster's page, %(default)s")
    return parser


def _lsn(text: str) -> LSN:
    try:
        return LSN.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _config(options: argparse.Namespace) -> PipelineConfig:
    return load_config(options.config or find_config(Path.cwd()))


def _check(options: argparse.Namespace) -> int:
    config = _config(options)
    from cdc_assets.operating import find_problems

    problems = find_problems(config)
    if options.json:
        _say_json({"pipeline": config.name, "problems": [_plain_error(one) for one in problems]})
    elif not problems:
        print(f"pipeline {config.name!r} is ready: {len(config.tables)} tables")
    for problem in () if options.json else problems:
        _say_error(problem)
    return FAILED if problems else DONE


def _setup(options: argparse.Namespace) -> int:
    config = _config(options)
    from cdc_assets.source.setup import setup

    return _say_done(options, setup(config), otherwise="publication and slot are there already")


def _sync(options: argparse.Namespace) -> int:
    config = _config(options)
    tables = config.select(options.table)
    from cdc_assets.progress import SyncFinished
    from cdc_assets.replicate import sync
    from cdc_assets.reporting import finished_as_json, finished_lines, line

    code = FAILED
    for event in sync(config, tables=tables or None, until_lsn=options.until_lsn):
        if not isinstance(event, SyncFinished):
            print(line(event), file=sys.stderr, flush=True)
            continue
        if options.json:
            _say_json(finished_as_json(event))
        else:
            print("\n".join(finished_lines(event)))
        code = FAILED if event.failed else DONE
    return code


def _status(options: argparse.Namespace) -> int:
    config = _config(options)
    from cdc_assets.operating import read_status
    from cdc_assets.reporting import status_as_json, status_lines

    status = read_status(config)
    if options.json:
        _say_json(status_as_json(status))
    else:
        print("\n".join(status_lines(status)))
    return FAILED if any(table.error for table in status.tables) else DONE


def _teardown(options: argparse.Namespace) -> int:
    config = _config(options)
    tables = config.select(options.table)
    from cdc_assets.operating import forget_tables, teardown

    if tables:
        done = forget_tables(config, tables, drop_unknown=options.drop_tables)
    else:
        done = teardown(config, drop_tables=options.drop_tables)
    return _say_done(options, done, otherwise="there was nothing to remove")


def _demo(options: argparse.Namespace) -> int:
    try:
        from cdc_assets.demo.demo import run_demo
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the demo needs the package {error.name!r}", hint="pip install 'cdc-assets[demo]'"
        ) from error

    return run_demo(once=options.once, directory=options.directory, port=options.port)


def _say_done(options: argparse.Namespace, done: list[str], *, otherwise: str) -> int:
    if options.json:
        _say_json({"done": done})
    else:
        print("\n".join(done) or otherwise)
    return DONE


def _say_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2))


def _plain_error(error: CdcError) -> dict[str, str]:
    return {"kind": type(error).__name__, "error": error.message, "hint": error.hint}


def _say_error(error: CdcError) -> None:
    problems = error.problems if isinstance(error, ConfigError) else ()
    head = error.message.split(": ", 1)[0] if problems else error.message
    print(f"error: {head}", file=sys.stderr)
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
