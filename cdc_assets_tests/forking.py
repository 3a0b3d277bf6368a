"""Processes for our own programs, without the second that imports take in each.

One process imports what the programs need and then only waits; for each call of `run` it forks
another one, which has its own environment, its own standard streams and its own end, by a signal as
well. Nothing that a program did is there when the next one begins.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import NoReturn

PROJECT = Path(__file__).resolve().parents[1]
_PRELOADED = (
    "cdc_assets.cli.commands",
    "cdc_assets.cli.previewing",
    "cdc_assets_tests.interrupting",
    "pandas",
)
_MOST_BYTES = 1 << 20


def run(
    program: str,
    *arguments: str,
    environment: Mapping[str, str],
    directory: Path = PROJECT,
    stdin: int | None = None,
    timeout_seconds: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in a process of its own.

    Args:
        program: A function without arguments, as `module:function`; it may give an exit code.
        arguments: What it finds in `sys.argv`.
        environment: The whole of its environment.
        directory: Where it runs.
        stdin: A descriptor; nothing by default.
        timeout_seconds: After which it is killed.

    Raises:
        subprocess.TimeoutExpired: It did not end.
    """
    with ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(2))
        null = stack.enter_context(Path(os.devnull).open())
        answer, answers = os.pipe()
        stack.callback(os.close, answer)
        streams = [null.fileno() if stdin is None else stdin, out.fileno(), err.fileno(), answers]
        order = json.dumps([program, arguments, dict(environment), str(directory)]).encode()
        try:
            socket.send_fds(_forks(), [order], streams)
        finally:
            os.close(answers)
        pid = int.from_bytes(os.read(answer, 4))
        if not select.select([answer], [], [], timeout_seconds)[0]:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired([program, *arguments], timeout_seconds)
        code = int.from_bytes(os.read(answer, 4), signed=True)
        for stream in (out, err):
            stream.seek(0)
        return subprocess.CompletedProcess([program, *arguments], code, out.read(), err.read())


@cache
def _forks() -> socket.socket:
    """Start the process that forks; it ends with this one, whatever ends that."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # no threads where it forks
        )
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST_BYTES)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _fork_for(orders: socket.socket) -> Callable[[], object]:
    """Fork for each order, and tell how each process ended; return in the forked ones only."""
    poll, running = select.poll(), dict[int, tuple[int, int]]()
    poll.register(orders, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != orders.fileno():
                poll.unregister(descriptor)
                pid, answers = running.pop(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with suppress(BrokenPipeError):  # nobody waits for it any more
                    os.write(answers, code.to_bytes(4, signed=True))
                os.close(answers)
                os.close(descriptor)
                continue
            order, streams, *_ = socket.recv_fds(orders, _MOST_BYTES, 4)
            if not order:
                os._exit(0)
            *standard, answers = streams
            pid = os.fork()
            if pid == 0:
                orders.close()
                for open_descriptor, (_, answered) in running.items():
                    os.close(open_descriptor)
                    os.close(answered)
                os.close(answers)
                return _program(standard, *json.loads(order))
            os.write(answers, pid.to_bytes(4))
            running[os.pidfd_open(pid)] = (pid, answers)
            poll.register(list(running)[-1], select.POLLIN)
            for stream in standard:
                os.close(stream)


def _program(
    standard: Sequence[int],
    name: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    directory: str,
) -> Callable[[], object]:
    for number, stream in enumerate(standard):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    os.chdir(directory)
    sys.path.insert(0, directory)  # as `python -m` has it
    module, _, function = name.partition(":")
    sys.argv = [module, *arguments]
    found: Callable[[], object] = getattr(importlib.import_module(module), function)
    return found


def _end(program: Callable[[], object]) -> NoReturn:
    """Run it, and end without taking the interpreter to pieces: that takes longer than it ran."""
    code: object = 1
    try:
        code = program() or 0
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _main(descriptor: str) -> NoReturn:
    orders = socket.socket(fileno=int(descriptor))
    for module in _PRELOADED:
        importlib.import_module(module)
    gc.freeze()  # the forked ones need not look through all of it
    _end(_fork_for(orders))


if __name__ == "__main__":
    _main(*sys.argv[1:])
