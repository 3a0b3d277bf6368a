"""What each command does; what a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from cdc_assets.cli.output import (
    DONE,
    FAILED,
    confirmed,
    plain_error,
    say,
    say_done,
    say_error,
    say_json,
    say_progress,
)
from cdc_assets.cli.selection import selected, selected_if_any
from cdc_assets.errors import ConfigError
from cdc_assets.wording import counted

if TYPE_CHECKING:
    from cdc_assets.config import PipelineConfig
    from cdc_assets.operations.removal import Removal


def check(options: argparse.Namespace) -> int:
    """Find every problem."""
    config = selected(options)
    from cdc_assets.operations.checking import find_problems
    from cdc_assets.operations.grouping import grouped
    from cdc_assets.operations.instance import in_a_line, lacking_here

    notes: list[str] = []
    problems, missing = find_problems(config, notes.append), lacking_here()
    notes += [in_a_line(missing)] if missing else []
    if options.json:
        plain = [plain_error(one) for one in problems]
        say_json({"pipeline": config.name, "problems": plain, "notes": notes})
    elif not problems:
        say([f"pipeline {config.name!r} is ready: {counted(len(config.tables), 'table')}"])
    for problem in () if options.json else grouped(problems):
        say_error(problem)
    for note in () if options.json else notes:
        say_progress(f"note: {note}")
    return FAILED if problems else DONE


def setup(options: argparse.Namespace) -> int:
    """Create publication and slot."""
    config = selected(options)
    from cdc_assets.operations.ownership import setup

    done = setup(config, take_over=options.take_over)
    return say_done(options, done, otherwise="publication and slot are there already")


def sync(options: argparse.Namespace) -> int:
    """Run one sync."""
    config = selected(options)
    tables = config.select(options.table)
    from cdc_assets.operations.reporting import finished_as_json, finished_lines, line
    from cdc_assets.progress import SyncFinished
    from cdc_assets.replication.sync import sync

    code = FAILED
    with closing(sync(config, tables=tables or None, until_lsn=options.until_lsn)) as events:
        for event in events:
            if not isinstance(event, SyncFinished):
                say_progress(line(event))
                continue
            if options.json:
                say_json(finished_as_json(event))
            else:
                say(finished_lines(event))
            code = FAILED if event.failed else DONE
    return code


def status(options: argparse.Namespace) -> int:
    """Show how far the pipeline is."""
    config = selected(options)
    from cdc_assets.cli.watching import watch
    from cdc_assets.operations.status import read_status
    from cdc_assets.operations.status_text import status_as_json, status_lines

    if options.watch:
        return watch(config, as_json=options.json)
    status = read_status(config)
    if options.json:
        say_json(status_as_json(status))
    else:
        say(status_lines(status))
    return DONE if status.healthy else FAILED


def teardown(options: argparse.Namespace) -> int:
    """Remove the pipeline, or some of its tables."""
    config = selected(options)
    tables = config.select(options.table)
    from cdc_assets.operations.removal import forget_tables, planned, teardown

    if tables:
        done = forget_tables(config, tables, drop_unknown=options.drop_tables)
    elif options.yes or _may_remove(config, planned(config, drop_tables=options.drop_tables)):
        done = teardown(config, drop_tables=options.drop_tables)
    else:
        say_progress("nothing was removed")
        return FAILED
    return say_done(options, done, otherwise="there was nothing to remove")


def sql(options: argparse.Namespace) -> int:
    """Print what an operator runs on the source by hand."""
    config = selected_if_any(options)
    from cdc_assets.operations.operator_sql import operator_sql

    text = operator_sql(options.file, config)
    if options.json:
        say_json({"sql": text})
    else:
        say([text.rstrip("\n")])
    return DONE


def scaffold(options: argparse.Namespace) -> int:
    """Write a file to start from."""
    from cdc_assets.operations.instance import write_template

    home = os.environ.get("DAGSTER_HOME")
    folder = options.directory or Path(home or ".").expanduser()
    path = write_template(folder).resolve()
    done = [f"wrote {str(path)!r}"]
    if home is None or Path(home).resolve() != path.parent:
        done.append(f"Dagster reads it with DAGSTER_HOME={str(path.parent)!r} in its environment")
    return say_done(options, done, otherwise="")


def _may_remove(config: PipelineConfig, removal: Removal) -> bool:
    """Ask, unless there is nothing to take away."""
    if not removal.goes:
        return True
    say_progress(f"teardown of pipeline {config.name!r} takes away:")
    for line in removal.goes:
        say_progress(f"  {line}")
    for line in removal.stays:
        say_progress(f"and leaves, {line}")
    return confirmed("remove it?")


def demo(options: argparse.Namespace) -> int:
    """Run the demo."""
    try:
        from cdc_assets.demo.demo import run_demo
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the demo needs the package {error.name!r}", hint="pip install 'cdc-assets[demo]'"
        ) from error

    return run_demo(once=options.once, directory=options.directory, port=options.port)
