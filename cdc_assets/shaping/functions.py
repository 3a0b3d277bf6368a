"""Functions of the project, found by their names, and what is said where one fails.

What is said of an exception is its type and where it was raised, never its message: that may quote
a row.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_OURS = str(Path(__file__).parent)


class FunctionError(ValueError):
    """A function is not there, or has failed.

    Attributes:
        hint: The way out.
        trace: Its own part of the traceback, a line each, without the exception's message.
        raised: The exception's type, where the function has raised one.
    """

    def __init__(
        self,
        why: str,
        *,
        hint: str = "",
        trace: tuple[str, ...] = (),
        raised: type[BaseException] | None = None,
    ) -> None:
        super().__init__(why)
        self.hint, self.trace, self.raised = hint, trace, raised


@dataclass(frozen=True, slots=True)
class Loaded:
    """A function, and the digest of its source: of itself, not of what it calls."""

    call: Callable[..., Any]
    digest: str


@cache
def load(reference: str, root: Path) -> Loaded:
    """Import a function.

    Args:
        reference: `package.module:name`.
        root: The project's; modules are looked for there and in its `src`, behind those that are
            installed.

    Raises:
        FunctionError: It can't be imported, or its source can't be read.
    """
    _make_importable(root)
    name, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _no_module(name, root, error) from None
    for part in path.split("."):
        if not hasattr(found, part):
            raise FunctionError(f"module {name!r} has no {part!r}", hint=f"write {path!r} there")
        found = getattr(found, part)
    if not callable(found):
        raise FunctionError(f"{reference!r} is no function", hint="write it with def")
    try:
        source = inspect.getsource(inspect.unwrap(found))
    except (OSError, TypeError):
        raise FunctionError(
            f"the source of {reference!r} can't be read, so that nobody would see it change",
            hint="write it with def in a module of the project",
        ) from None
    return Loaded(found, hashlib.sha256(source.encode()).hexdigest()[:16])


def _make_importable(root: Path) -> None:
    for folder in (root / "src", root):
        path = str(folder.resolve())
        if folder.is_dir() and path not in sys.path:
            sys.path.append(path)
            importlib.invalidate_caches()


def _no_module(name: str, root: Path, error: BaseException) -> FunctionError:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return FunctionError(
            f"module {error.name!r} is not there",
            hint="it is looked for where packages are installed, and in 'src' and"
            f" {str(root.resolve())!r}",
        )
    where, trace = failure_of(error, root)
    return FunctionError(f"module {name!r} fails to import: {where}", hint="mend it", trace=trace)


def failure_of(
    error: BaseException, root: Path, function: Callable[..., Any] | None = None
) -> tuple[str, tuple[str, ...]]:
    """Say what was raised and where, and give the lines of code that led there.

    Where it was raised is told by the last line of the project's own, or of the function's file: a
    library's says little.

    Args:
        error: What was raised.
        root: The project's.
        function: What was called, if it came so far.
    """
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_OURS, "<frozen importlib"))
    ]
    kind = type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{kind} at {error.filename}:{error.lineno}", ()
    file = inspect.getsourcefile(inspect.unwrap(function)) if function else None
    own = [frame for frame in frames if frame.filename == file or _is_own(frame.filename, root)]
    where = "".join(f" at {last.filename}:{last.lineno}" for last in (own or frames)[-1:])
    lines = (line.rstrip() for text in traceback.format_list(frames) for line in text.splitlines())
    return f"{kind}{where}", (*lines, kind)


def _is_own(file: str, root: Path) -> bool:
    return Path(file).is_relative_to(root.resolve()) and "site-packages" not in Path(file).parts
