"""The command line: the same config and the same use cases as in Dagster, without Dagster.

Exit codes: 0 done, 1 failed, 2 bad usage or config, 130 stopped by Ctrl-C, 143 by SIGTERM, 141 when
nobody reads the result to its end. An error is one line and a hint, no traceback.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from cdc_assets import waits
from cdc_assets.cli.options import parser
from cdc_assets.cli.output import (
    BAD_USAGE,
    FAILED,
    UNREAD,
    UnreadError,
    UsageError,
    carry,
    say_error,
    say_progress,
)
from cdc_assets.cli.stopping import StoppedError, stopped_by_signals
from cdc_assets.errors import CdcError, ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        options = parser().parse_args(given)
    except UsageError as error:
        say_error(error, as_json="--json" in given)
        return BAD_USAGE
    as_json = bool(getattr(options, "json", False))
    carry(options)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        with stopped_by_signals(), waits.listening(say_progress):
            return command(options)
    except (ConfigError, UsageError) as error:
        say_error(error, as_json=as_json)
        return BAD_USAGE
    except CdcError as error:
        say_error(error, as_json=as_json)
        return FAILED
    except UnreadError:
        return UNREAD
    except StoppedError as stopped:
        say_progress("stopped: what was committed stays, the next run goes on from there")
        return stopped.code
