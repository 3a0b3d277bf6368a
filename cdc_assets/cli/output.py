"""What a command prints, and the codes it ends with."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from cdc_assets.errors import CdcError, ConfigError

DONE, FAILED, BAD_USAGE = 0, 1, 2


def say_done(options: argparse.Namespace, done: list[str], *, otherwise: str) -> int:
    """Print what was done, or that nothing was."""
    if options.json:
        say_json({"done": done})
    else:
        print("\n".join(done) or otherwise)
    return DONE


def say_json(value: dict[str, Any]) -> None:
    """Print a result as JSON."""
    print(json.dumps(value, indent=2))


def plain_error(error: CdcError) -> dict[str, str]:
    """Give an error as JSON has it."""
    return {"kind": type(error).__name__, "error": error.message, "hint": error.hint}


def say_error(error: CdcError) -> None:
    """Print an error, its parts and its hint."""
    problems = error.problems if isinstance(error, ConfigError) else ()
    head = error.message.split(": ", 1)[0] if problems else error.message
    print(f"error: {head}", file=sys.stderr)
    for problem in problems:
        print(f"  {problem}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
