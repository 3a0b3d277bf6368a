"""Ends a command by a signal the way it ends by Ctrl-C: everything is let go of, and it says so."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StoppedError(Exception):
    """A signal has ended the command; `code` is the exit code that shells know it by."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.code = 128 + number


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside the block, a signal unwinds what goes on; a second one does not disturb that.

    Raises:
        StoppedError: There was one. What it has interrupted may have raised anything: a driver
            tells of a statement that was cancelled, DuckDB of a query.
    """
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        for other in _SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not received:
            raise
        raise StoppedError(received[0]) from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
