"""Bounded waits, and a word on each: from wherever a run waits to whoever shows it.

A wait lies deep in the source or the warehouse, where no event can be given out. Whoever shows a
run (the command line, Dagster, the run's journal) listens while it goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POLL_SECONDS = 0.02
SAY_AFTER_SECONDS = 0.3  # what is over by then is not worth a line

_listeners: list[tuple[Callable[[str], None], Callable[[], None]]] = []


def say(what: str) -> None:
    """Tell whoever listens what the run waits for now.

    Args:
        what: A line, "waiting for …", without a row's value or a DSN.
    """
    for listener, _ in tuple(_listeners):
        listener(what)


def over() -> None:
    """Tell whoever listens that the run goes on after what was said."""
    for _, goes_on in tuple(_listeners):
        goes_on()


@contextmanager
def listening(
    listener: Callable[[str], None], goes_on: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Inside the block, hear of every wait, and of its end; from any of the run's threads."""
    entry = (listener, goes_on)
    _listeners.append(entry)
    try:
        yield
    finally:
        _listeners.remove(entry)


def until(
    happened: Callable[[], bool],
    what: Callable[[], str],
    *,
    seconds: float,
    poll_seconds: float = POLL_SECONDS,
) -> bool:
    """Ask again and again, for so long at the most, and say once what is waited for.

    Args:
        happened: Asked at least once.
        what: What is waited for, as a noun; only asked where the wait lasts.
        seconds: How long at the most.
        poll_seconds: How long between one question and the next.

    Returns:
        Whether it happened.
    """
    started, said = time.monotonic(), False
    while not happened():
        waited = time.monotonic() - started
        if waited > seconds:
            return False
        if waited > SAY_AFTER_SECONDS and not said:
            say(f"waiting for {what()}, up to {seconds:.0f} s")
            said = True
        time.sleep(poll_seconds)
    if said:
        over()
    return True
