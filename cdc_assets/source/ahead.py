"""Reads ahead in a thread: the source works on the next part while this one is written."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from queue import Empty, Queue
from threading import Event, Thread
from typing import TypeVar

Part = TypeVar("Part")

_DEPTH = 3  # batches of some megabytes
_LOOK_SECONDS = 0.1


def read_ahead(parts: Iterator[Part], *, give_up: Callable[[], None]) -> Generator[Part]:
    """Give what an iterator gives, which is asked for the next parts meanwhile.

    Args:
        parts: Asked in a thread of its own; nobody else may use what it uses before the end.
        give_up: Called where the run is to stop at once: makes a part that is waited for fail.

    Raises:
        BaseException: What the iterator raised.
    """
    ready: Queue[Part | _End] = Queue(_DEPTH)
    stopped = Event()
    thread = Thread(target=_read, args=(parts, ready, stopped), name="cdc-assets-read", daemon=True)
    thread.start()
    try:
        while not isinstance(part := ready.get(), _End):
            yield part
        if part.error is not None:
            raise part.error
    except (KeyboardInterrupt, SystemExit):
        give_up()
        raise
    finally:
        stopped.set()
        while thread.is_alive():
            _discard(ready)
            thread.join(_LOOK_SECONDS)


class _End:
    """The last thing that the thread gives."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def _read(parts: Iterator[Part], ready: Queue[Part | _End], stopped: Event) -> None:
    try:
        for part in parts:
            ready.put(part)
            if stopped.is_set():
                return
    except BaseException as error:  # raised again by whoever waits for the parts
        ready.put(_End(error))
    else:
        ready.put(_End())


def _discard(ready: Queue[Part | _End]) -> None:
    try:
        while True:
            ready.get_nowait()
    except Empty:
        return
