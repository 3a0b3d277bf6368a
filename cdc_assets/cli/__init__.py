"""The command line: the same config and the same use cases as in Dagster, without Dagster.

Exit codes: 0 done, 1 failed, 2 bad usage or config. An error is one line and a hint, no traceback.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from cdc_assets.cli.options import parser
from cdc_assets.cli.output import BAD_USAGE, FAILED, carry, say_error
from cdc_assets.errors import CdcError, ConfigError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code.
    """
    options = parser().parse_args(arguments)
    as_json = bool(getattr(options, "json", False))
    carry(options)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except ConfigError as error:
        say_error(error, as_json=as_json)
        return BAD_USAGE
    except CdcError as error:
        say_error(error, as_json=as_json)
        return FAILED
    except KeyboardInterrupt:
        print("stopped: what was committed stays, the next run goes on from there", file=sys.stderr)
        return 130
