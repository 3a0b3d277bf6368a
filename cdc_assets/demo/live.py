"""The demo with Dagster: a shop that keeps changing, and a schedule that follows it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from cdc_assets.config import PipelineConfig
from cdc_assets.demo.runs import end_runs, launch
from cdc_assets.demo.service import Service, running
from cdc_assets.demo.workload import Workload
from cdc_assets.errors import CdcError
from cdc_assets.source.setup import setup

TRANSACTIONS_PER_SECOND = 20
TRANSACTIONS_PER_ALTERATION = 900  # of one of two workers: some 90 seconds
_LOCATION = "cdc_assets"  # as workspace.yaml names it
_START_TIMEOUT_SECONDS = 180
_LOOK_EVERY_SECONDS = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_WELCOME = """
Dagster is on {address}
  {address}/asset-groups                the source tables and the warehouse tables made of them
  {address}/assets/{name}/public/orders   one table: each sync's changes and LSNs, its columns
  {address}/assets/{name}/public/orders__changes  its changes; its versions: orders__history
  {address}/assets/{name}/public/orders__snapshot     that table anew, in buckets: press Materialize
  {address}/assets/{name}/public/orders?view=checks   whether it equals its source: press Execute
  {address}/automation                  {name}_sync_schedule: a sync starts at each full minute
  {address}/runs                        the syncs, each with its windows in the log; {first}

The shop changes {rate} times a second, and every 90 seconds somebody alters a table: the sync
follows, and says so on {address}/assets/{name}/public/products
To look at it from another terminal:
  cd {root} && . {environment} && .venv/bin/cdc-assets status
The warehouse is {warehouse}: try, with DuckDB,
  FROM public.orders__as_of(now() - INTERVAL 2 MINUTE)
Ctrl-C stops everything; the next start goes on from there.
"""


def run_live(
    config: PipelineConfig, dsn: str, *, home: Path, port: int, stop: threading.Event
) -> int:
    """Run workload, webserver and daemon until `stop` is set; give the exit code.

    Raises:
        CdcError: One of the parts ended by itself, or does not start.
    """
    setup(config)
    services = _services(config, home, port)
    address = f"http://127.0.0.1:{port}"
    shop = Workload(
        dsn,
        seed=secrets.randbits(32),
        transactions_per_second=TRANSACTIONS_PER_SECOND,
        transactions_per_alteration=TRANSACTIONS_PER_ALTERATION,
    )
    with shop, running(services):
        print(f"Starting Dagster, its output is in {home / 'dagster'} ...", flush=True)
        if services[0].wait_for(f"{address}/server_info", stop, seconds=_START_TIMEOUT_SECONDS):
            print(_welcome(config, home, address), flush=True)
        while not stop.wait(_LOOK_EVERY_SECONDS):
            for service in services:
                service.check()
        print("Stopping Dagster, the workload and Postgres ...", flush=True)
        with suppress(OSError):  # it may not be up yet; then there are no runs
            end_runs(address)
    return 0


def _services(config: PipelineConfig, home: Path, port: int) -> list[Service]:
    """Describe the webserver and the daemon."""
    directory = home / "dagster"
    directory.mkdir(exist_ok=True)
    shutil.copyfile(config.root / "dagster.yaml", directory / "dagster.yaml")
    make_storage(directory)
    workspace = ["-w", str(config.root / "workspace.yaml")]
    web = ["dagster_webserver", "-h", "127.0.0.1", "-p", str(port), *workspace]
    daemon = ["dagster._daemon", "run", *workspace]
    return [
        Service("webserver", web, directory=config.root, home=directory),
        Service("daemon", daemon, directory=config.root, home=directory),
    ]


def check_clone(config: PipelineConfig) -> None:
    """Check that the package lies in a clone, whose Dagster project the demo shows.

    Raises:
        CdcError: It was installed without one.
    """
    if not (config.root / "workspace.yaml").is_file():
        raise CdcError(
            "there is no workspace.yaml beside the package",
            hint="run the demo in a clone of the project, or with --once",
        )


def make_storage(home: Path) -> None:
    """Have Dagster make its databases, before two programs do so at once, and end dead runs.

    Each stamps its revision into a new SQLite file. Two stamps make the file unreadable for good,
    and the first start of webserver and daemon side by side does that now and then. A demo that
    was killed leaves runs that seem to go on: the schedule would wait for them.

    Raises:
        CdcError: Dagster can't make them.
    """
    asked = subprocess.run(
        [sys.executable, "-m", "cdc_assets.orchestration.leftovers"],
        env={**os.environ, "DAGSTER_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode:
        last = asked.stderr.strip().splitlines()[-1:]
        raise CdcError(f"Dagster can't make its storage in {str(home)!r}: {' '.join(last)}")


def _welcome(config: PipelineConfig, home: Path, address: str) -> str:
    """Start the first sync, and say what there is to look at."""
    refused = launch(address, f"{config.name}_sync", location=_LOCATION)
    return _WELCOME.format(
        address=address,
        first=f"the first one was refused: {refused}" if refused else "the first one has started",
        name=config.name,
        rate=TRANSACTIONS_PER_SECOND,
        root=config.root,
        environment=home / "shop.env",
        warehouse=config.warehouse_path,
    )


def check_port(port: int) -> None:
    """Find out whether the webserver can listen on a port of 127.0.0.1.

    Raises:
        CdcError: It can't.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CdcError(
                f"port {port} on 127.0.0.1 can't be used: {error.strerror}",
                hint=f"choose another one: make demo PORT={port + 1}, or --port {port + 1}",
            ) from error


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Turn Ctrl-C and its like into an event, so that nothing is interrupted half way."""
    stop = threading.Event()

    def note(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
