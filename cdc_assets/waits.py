"""Says what a run waits for: from wherever it waits to whoever shows it.

A wait lies deep in the source or the warehouse, where no event can be given out. Whoever shows a
run (the command line, Dagster, the run's journal) listens while it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_listeners: list[Callable[[str], None]] = []


def say(what: str) -> None:
    """Tell whoever listens what the run waits for now: a line, without a row's value or a DSN."""
    for listener in tuple(_listeners):
        listener(what)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Inside the block, hear of every wait."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
