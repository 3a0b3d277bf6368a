"""A program of Dagster's that runs beside the demo and ends with it, and with it all it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

from cdc_assets.errors import CdcError

STOP_TIMEOUT_SECONDS = 2.0  # nothing that they do then is missed: what counts is committed
_ASK_EVERY_SECONDS = 0.25
_LOOK_EVERY_SECONDS = 0.05


class ServiceError(CdcError):
    """A part of the demo ended by itself, or did not come up."""


class Service:
    """A Python module run as a program, in a session of its own.

    Ctrl-C in a terminal goes to every program in the foreground: in a session of its own, this
    one is stopped when its turn comes. Its code servers and their runs are in that session, too,
    so that it ends as a whole. It also ends when we are killed: see `tied`.

    Args:
        name: For messages, and its log file's name.
        module: The module and its arguments.
        directory: Where it works.
        home: DAGSTER_HOME, and where its log goes.
    """

    def __init__(self, name: str, module: Sequence[str], *, directory: Path, home: Path) -> None:
        self.name = name
        self.log = home / f"{name}.log"
        self._command = [sys.executable, "-m", "cdc_assets.demo.tied", *module]
        self._directory = directory
        self._environment = {**os.environ, "DAGSTER_HOME": str(home)}
        self._running: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the program."""
        with self.log.open("wb") as log:
            self._running = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def interrupt(self) -> None:
        """Ask it to end."""
        if self._running is not None:
            self._running.send_signal(signal.SIGINT)

    def end(self, deadline: float) -> None:
        """Wait for its end and that of all it started; past `deadline` (monotonic) kill them."""
        if self._running is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._running.wait(max(0.0, deadline - monotonic()))
        pause = threading.Event()
        while left := _session(self._running.pid):
            for pid in left if monotonic() >= deadline else ():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            pause.wait(_LOOK_EVERY_SECONDS)
        self._running.wait()

    def check(self) -> None:
        """Fail if it has ended.

        Raises:
            ServiceError: It has.
        """
        code = self._running.poll() if self._running else None
        if code is not None:
            raise ServiceError(
                f"Dagster's {self.name} ended with exit code {code}", hint=f"see {self.log}"
            )

    def wait_for(self, address: str, stop: threading.Event, *, seconds: float) -> bool:
        """Wait until `address` answers.

        Returns:
            False when `stop` was set meanwhile.

        Raises:
            ServiceError: It ended, or did not answer in time.
        """
        deadline = monotonic() + seconds
        while monotonic() < deadline:
            self.check()
            try:
                with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - our own address
                    return True
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                if stop.wait(_ASK_EVERY_SECONDS):
                    return False
        raise ServiceError(
            f"Dagster's {self.name} did not answer in {seconds:.0f} s", hint=f"see {self.log}"
        )


@contextmanager
def running(services: Sequence[Service]) -> Iterator[None]:
    """Run services for as long as the block does; they are stopped side by side."""
    try:
        for service in services:
            service.start()
        yield
    finally:
        for service in services:
            service.interrupt()
        deadline = monotonic() + STOP_TIMEOUT_SECONDS
        for service in services:
            service.end(deadline)


def _session(leader: int) -> list[int]:
    """Find the processes of a session; those that are dead and not reaped are not counted."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        if int(session) == leader and state not in "ZX":
            found.append(int(entry.name))
    return found
