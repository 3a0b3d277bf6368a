"""Interrupts a sync at its steps: by whatever a test wants to do there, or by a signal.

Run as a program it is the sync that sends itself one:
`python -m cdc_assets_tests.interrupting <config> <step> <number> <signal> <work>`, where the work
is empty for a sync, `resync`, `reconcile [repair]`, `rebuild <table>`, `retain <table>`, or
`backfill <table> [<bucket> …]`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.identifiers import TableName
from cdc_assets.replication import applying, copying
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.rebuilding import rebuild
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.replication.resync import resync
from cdc_assets.replication.retaining import retain
from cdc_assets.replication.sync import sync
from cdc_assets.source import arrow, reader, window
from cdc_assets.steps import Step, observers
from cdc_assets.warehouse import rebuilds
from cdc_assets_tests.forking import PROJECT, run

_SMALL = (
    (copying, "CHUNK_ROWS", 70),
    (applying, "APPLY_BYTES", 100_000),
    (arrow, "BATCH_BYTES", 60_000),
    (reader, "_FIRST_WINDOW_BYTES", 150_000),
    (window, "MEMORY_BYTES", 50_000),
    (rebuilds, "PART_ROWS", 1000),
    (rebuilds, "SLICE_BYTES", 100_000),
)


def make_small(put: Callable[[object, str, object], None] = setattr) -> None:
    """Make chunks, batches and slices so small that a small load has many of each."""
    for module, name, value in _SMALL:
        put(module, name, value)


@contextmanager
def at_step(step: Step, number: int, act: Callable[[], object]) -> Iterator[None]:
    """Inside the block, act when a run comes to a step for the `number`-th time."""
    count = 0

    def observe(reached: Step) -> None:
        nonlocal count
        count += reached == step
        if reached == step and count == number:
            act()

    observers.append(observe)
    try:
        yield
    finally:
        observers.remove(observe)
    assert count >= number, f"{step!r} came {count} times, expected {number}"


def config_path(config: PipelineConfig) -> Path:
    """Give the file that a pipeline of the fixtures was read from."""
    return config.root / "defs.yaml"


def kill_at(config: PipelineConfig, step: Step, number: int, *, work: str = "") -> bool:
    """Sync in a process that kills itself when it comes to a step for the `number`-th time.

    Returns:
        Whether it came that far; else it has ended well.
    """
    arguments = _arguments(config, step, number, work=work)
    done = run("cdc_assets_tests.interrupting:main", *arguments, environment=os.environ)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == -signal.SIGKILL


def _arguments(
    config: PipelineConfig,
    step: Step | None,
    number: int,
    sends: signal.Signals = signal.SIGKILL,
    *,
    work: str,
) -> list[str]:
    return [str(config_path(config)), step or "", str(number), str(int(sends)), work]


def start_sync(
    config: PipelineConfig,
    step: Step | None = None,
    number: int = 0,
    sends: signal.Signals = signal.SIGKILL,
    *,
    work: str = "",
) -> subprocess.Popen[str]:
    """Start a sync, or other work, in a process of its own."""
    arguments = _arguments(config, step, number, sends, work=work)
    return subprocess.Popen(
        [sys.executable, "-m", "cdc_assets_tests.interrupting", *arguments],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def held_at(
    config: PipelineConfig, step: Step, number: int, *, work: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """Inside the block a sync in another process stands still at a step; then it is killed."""
    with start_sync(config, step, number, signal.SIGSTOP, work=work) as process:
        try:
            stopped = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            assert stopped is not None
            assert stopped.si_code == os.CLD_STOPPED, process.communicate()
            yield process
        finally:
            process.kill()


def main() -> None:
    """Do what the arguments of the program say."""
    path, step, number, sends, work = sys.argv[1:]
    make_small()
    left = int(number)

    def observe(reached: Step) -> None:
        nonlocal left
        left -= reached == step
        if reached == step and left == 0:
            os.kill(os.getpid(), int(sends))

    observers.append(observe)
    for _ in _events(load_config(Path(path)), *work.split()):
        continue


def _events(config: PipelineConfig, what: str = "", *more: str) -> Iterable[object]:
    if what == "resync":
        return resync(config)
    if what == "reconcile":
        return reconcile(config, repair="repair" in more)
    if what == "backfill":
        table, *buckets = more
        return backfill(config, TableName("public", table), buckets=buckets or None)
    if what == "retain":
        return retain(config, TableName("public", *more))
    if what == "rebuild":
        return rebuild(config, TableName("public", *more))
    return sync(config)


if __name__ == "__main__":
    main()
