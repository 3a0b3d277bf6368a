"""A program of Dagster's that runs beside the demo and ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from cdc_assets.errors import CdcError

_STOP_TIMEOUT_SECONDS = 30
_ASK_EVERY_SECONDS = 0.25


class ServiceError(CdcError):
    """A part of the demo ended by itself, or did not come up."""


class Service:
    """A Python module run as a program, in a session of its own; a context manager.

    Ctrl-C in a terminal goes to every program in the foreground: in a session of its own, this
    one is stopped when its turn comes. It also ends when we are killed: see `tied`.

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

    def __enter__(self) -> Self:
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
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._running is None:
            return
        self._running.send_signal(signal.SIGINT)
        try:
            self._running.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._running.pid, signal.SIGKILL)  # its own session: it and its children
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
