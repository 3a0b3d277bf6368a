"""`status --watch`: the same again and again, until Ctrl-C."""

from __future__ import annotations

import sys
import time

from cdc_assets.cli.output import DONE, say, say_json
from cdc_assets.config import PipelineConfig
from cdc_assets.operations.status import read_status
from cdc_assets.operations.status_text import status_as_json, status_line, status_lines

WATCH_SECONDS = 2.0
_HOME_AND_CLEAR = "\x1b[H\x1b[J"


def watch(config: PipelineConfig, *, as_json: bool) -> int:
    """Show a pipeline's status over and over.

    On a terminal the whole is drawn anew; elsewhere a line is added each time, as JSON a document.

    Returns:
        The exit code once Ctrl-C ends it, whatever was shown: to watch has succeeded.
    """
    redraws = sys.stdout.isatty() and not as_json
    try:
        while True:
            status = read_status(config)
            if as_json:
                say_json(status_as_json(status), in_a_line=True)
            elif redraws:
                print(_HOME_AND_CLEAR, end="")
                say([*status_lines(status), "", f"{status.at:%H:%M:%S} UTC, Ctrl-C ends"])
            else:
                say([status_line(status)])
            time.sleep(WATCH_SECONDS)
    except KeyboardInterrupt:
        return DONE
