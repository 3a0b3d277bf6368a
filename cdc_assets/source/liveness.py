"""Tells a source that works for long from one that is not there any more.

A statement may take long for good reasons: the server decodes a whole window before its first row
comes. And a connection may be dead without an end: a proxy that hangs keeps its TCP connections, so
neither keepalives nor a timeout of the socket notices. What tells the two apart is another session:
it asks what the silent one's backend does. One that works, or waits for a lock or its disk, is
waited for. One that waits for us, while we wait for it, shows that something between them is stuck.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from psycopg.rows import TupleRow

from cdc_assets import waits
from cdc_assets.errors import SourceSilentError

ASK_SECONDS = 2.0  # of silence, before another session asks; then twice as long each time
GIVE_UP_SECONDS = 120.0  # of silence without a sign of life
PROBE_SECONDS = 10
_SELDOM_SECONDS = 30.0
_BACKEND = """
SELECT wait_event_type IS DISTINCT FROM 'Client',
    CASE WHEN wait_event_type = 'Lock' THEN pg_catalog.pg_blocking_pids(pid) ELSE '{}' END
FROM pg_catalog.pg_stat_activity WHERE pid = %s
"""

T = TypeVar("T")


def attended(
    statement: Generator[Any, Any, T], while_silent: Callable[[], None]
) -> Generator[Any, Any, T]:
    """Call `while_silent` whenever psycopg has waited a moment and nothing has come.

    Args:
        statement: What psycopg does on a connection, as it drives it: it is told whether the socket
            is ready, a falsy value where it is not.
        while_silent: May raise, which ends the wait.
    """
    try:
        wanted = next(statement)
        while True:
            ready = yield wanted
            if not ready:
                while_silent()
            wanted = statement.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


class _Probe(psycopg.Connection[TupleRow]):
    """A session that waits for an answer for `PROBE_SECONDS` at the most."""

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        deadline = time.monotonic() + PROBE_SECONDS

        def while_silent() -> None:
            if time.monotonic() > deadline:
                self.close()
                raise psycopg.OperationalError("no answer")

        return super().wait(attended(gen, while_silent), *args, **kwargs)


def _probe(conninfo: str) -> _Probe:
    return _Probe.connect(
        conninfo, autocommit=True, prepare_threshold=None, connect_timeout=PROBE_SECONDS
    )


def end_backend(conninfo: str, pid: int | None) -> None:
    """End a session of the source that is of no use any more, if another one can."""
    with suppress(psycopg.Error), _probe(conninfo) as other:
        other.execute("SELECT pg_catalog.pg_terminate_backend(%s)", (pid,))


@dataclass(slots=True)
class Silence:
    """One wait for a session's answer, from its start.

    Args:
        conninfo: Of the source, for another session.
        pid: The silent session's backend; None where it is not known yet.
        what: What is waited for, as a noun.
        says: Whether the run waits for it; else it only reads ahead.

    Attributes:
        holders: Sessions that hold a lock which it waited for when it was last asked.
    """

    conninfo: str
    pid: int | None
    what: str
    says: bool = True
    holders: list[int] = field(default_factory=list, init=False)
    _said: bool = field(default=False, init=False)
    _since: float = field(default_factory=time.monotonic)
    _alive: float = field(default_factory=time.monotonic)
    _ask_after: float = field(default_factory=lambda: ASK_SECONDS)

    def goes_on(self) -> None:
        """Look after the source if it is time to; called every moment while the wait goes on.

        Raises:
            SourceSilentError: There was no sign of life for too long.
        """
        silent = time.monotonic() - self._since
        if silent < self._ask_after:
            return
        is_first = self._ask_after == ASK_SECONDS
        found, self.holders = self._ask()
        if self.says and is_first:
            by = f", held up by pid {self.holders[0]} on the source" if self.holders else ""
            waits.say(f"waiting for {self.what}{by}")
            self._said = True
        if not found:
            self._alive = time.monotonic()
        elif time.monotonic() - self._alive > GIVE_UP_SECONDS:
            raise SourceSilentError(
                f"the connection to the source is dead: waited {silent:.0f} s for {self.what}, "
                f"and {found}",
                hint="nothing is lost: the next run goes on from the checkpoint; look at what is "
                "between here and the source, a proxy or a firewall",
            )
        self._ask_after = time.monotonic() - self._since + min(silent, _SELDOM_SECONDS)

    def ended(self) -> None:
        """Take back what was said of the wait: the answer has come."""
        if self._said:
            waits.over()

    def _ask(self) -> tuple[str, list[int]]:
        """Say what speaks for a dead connection, if anything does, and who holds up a live one."""
        if self.pid is None:
            return "it was not set up", []
        try:
            with _probe(self.conninfo) as other:
                row = other.execute(_BACKEND, (self.pid,)).fetchone()
        except psycopg.Error:
            return "another session can't be opened either", []
        if row is None:
            return "its session is not on the source any more", []
        if not row[0]:
            return "its session on the source waits for us", []
        return "", list(row[1])
