"""Parts that are read ahead come as they are, errors too, and nothing goes on behind the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from threading import Event
from threading import enumerate as running_threads

import pytest

from cdc_assets.source.ahead import read_ahead


def reading() -> bool:
    return any(thread.name == "cdc-assets-read" for thread in running_threads())


def test_all_parts_come_in_order() -> None:
    assert list(read_ahead(iter(range(100)), give_up=pytest.fail)) == list(range(100))
    assert not reading()


def test_an_error_comes_behind_the_parts_before_it() -> None:
    def parts() -> Iterator[int]:
        yield from (1, 2)
        raise LookupError("gone")

    got = []
    with pytest.raises(LookupError, match="gone"):
        got.extend(read_ahead(parts(), give_up=pytest.fail))
    assert not reading()


def test_who_stops_early_ends_the_reading() -> None:
    ended = Event()

    def parts() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            ended.set()

    source = parts()
    with closing(read_ahead(source, give_up=pytest.fail)) as ahead:
        assert next(ahead) == 0
    assert not reading()
    source.close()
    assert ended.is_set()


def test_a_stop_gives_up_what_is_waited_for() -> None:
    given_up = Event()

    def parts() -> Iterator[int]:
        yield 1
        assert given_up.wait(30)
        raise ConnectionError

    ahead = read_ahead(parts(), give_up=given_up.set)
    assert next(ahead) == 1
    with pytest.raises(KeyboardInterrupt):
        ahead.throw(KeyboardInterrupt)
    assert not reading()
