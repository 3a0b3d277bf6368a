"""What a command prints, and the codes it ends with.

Everything goes out by here, because commands that a text names get the options of the command that
prints it: whoever said `--pipeline shop` can run a hint as it stands.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TextIO

from cdc_assets.errors import CdcError, ConfigError
from cdc_assets.operations.hints import with_options

DONE, FAILED, BAD_USAGE, UNREAD = 0, 1, 2, 128 + signal.SIGPIPE

_carried = ContextVar("_carried", default="")


def carry(options: argparse.Namespace) -> None:
    """Remember what the command was told of its pipeline."""
    given = [(f"--{key}", getattr(options, key, None)) for key in ("config", "pipeline")]
    _carried.set(" ".join(f"{key} {shlex.quote(str(value))}" for key, value in given if value))


class UsageError(CdcError):
    """The command line is not understood."""


class UnreadError(Exception):
    """Whoever read the command's result is gone, as in `cdc-assets status | head`."""


def say(lines: Iterable[str]) -> None:
    """Print lines.

    Raises:
        UnreadError: Nobody reads them any more.
    """
    for line in lines:
        _print(with_options(line, _carried.get()))


def say_progress(line: str) -> None:
    """Print a line on what a command is at, beside its result; it goes on if nobody reads that."""
    with suppress(UnreadError):
        _print(with_options(line, _carried.get()), file=sys.stderr)


def confirmed(question: str) -> bool:
    """Ask on the terminal; only y and yes are a yes.

    Raises:
        ConfigError: There is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise ConfigError(
            "this asks before it does anything, and there is no terminal to ask on",
            hint="say --yes where nobody can be asked",
        )
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def say_done(options: argparse.Namespace, done: list[str], *, otherwise: str) -> int:
    """Print what was done, or that nothing was."""
    if options.json:
        say_json({"done": done})
    else:
        say(done or [otherwise])
    return DONE


def say_json(value: dict[str, Any], *, in_a_line: bool = False) -> None:
    """Print a result as JSON.

    Raises:
        UnreadError: Nobody reads it any more.
    """
    _print(json.dumps(_completed(value), indent=None if in_a_line else 2))


def plain_error(error: CdcError) -> dict[str, Any]:
    """Give an error as JSON has it."""
    plain = {"kind": type(error).__name__, "error": error.message, "hint": error.hint}
    problems = error.problems if isinstance(error, ConfigError) else ()
    return {**plain, "problems": list(problems)} if problems else plain


def say_error(error: CdcError, *, as_json: bool = False) -> None:
    """Print an error, its parts and its hint; as JSON it is the last line on stderr."""
    if as_json:
        say_progress(json.dumps(_completed(plain_error(error))))
        return
    problems = error.problems if isinstance(error, ConfigError) else ()
    head = error.message.split(": ", 1)[0] if problems else error.message
    say_progress(f"error: {head}")
    for problem in problems:
        say_progress(f"  {problem}")
    if error.hint:
        say_progress(f"hint: {error.hint}")


def _print(text: str, *, file: TextIO | None = None) -> None:
    file = file or sys.stdout
    try:
        print(text, file=file, flush=True)
    except BrokenPipeError:
        # else the interpreter complains at its end, when it writes out what was left
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, file.fileno())
        os.close(nowhere)
        raise UnreadError from None


def _completed(value: Any) -> Any:
    if isinstance(value, str):
        return with_options(value, _carried.get())
    if isinstance(value, list):
        return [_completed(part) for part in value]
    return (
        {key: _completed(part) for key, part in value.items()} if isinstance(value, dict) else value
    )
