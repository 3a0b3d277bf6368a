"""The demo, as `cdc-assets demo` runs it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cdc_assets
from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.demo.live import check_clone, check_port, run_live, stop_signal
from cdc_assets.demo.once import run_once
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.demo.shop import create_database, load
from cdc_assets.errors import CdcError

DATABASE = "shop"
CONFIG = Path(cdc_assets.__file__).parent / "defs" / "shop" / "defs.yaml"

# A crash of the machine may cost the demo its last commits, but nothing that a slot confirmed
_SERVER_SETTINGS = {"synchronous_commit": "off", "max_wal_size": "2GB"}


class DemoBusyError(CdcError):
    """Another demo runs in the same directory."""


def run_demo(*, once: bool, directory: Path, port: int = 3000) -> int:
    """Run the demo; give the exit code.

    The two kinds keep apart what they leave in `directory`: `once/` holds everything of the one,
    `live/` the server and the Dagster history of the other, whose warehouse is the project's.

    Args:
        once: Syncs and compares without a UI, then stops; else goes on until Ctrl-C.
        directory: Where the demo keeps what the next start goes on with.
        port: The webserver's port on 127.0.0.1.
    """
    directory = directory.resolve()  # DAGSTER_HOME must be absolute
    config = load_config(CONFIG)
    if once:
        return _run_once(directory / "once", config)
    return _run_live(directory / "live", config, port)


def _run_once(home: Path, config: PipelineConfig) -> int:
    config = config.model_copy(update={"root": home})
    try:
        with _alone_in(home), _shop(home, config) as dsn:
            return run_once(config, dsn)
    except KeyboardInterrupt:
        print("Stopped.")
        return 130


def _run_live(home: Path, config: PipelineConfig, port: int) -> int:
    check_clone(config)  # both before anything is started or loaded
    check_port(port)
    with stop_signal() as stop:
        code = 0
        with _alone_in(home), _shop(home, config) as dsn:
            if not stop.is_set():
                code = run_live(config, dsn, home=home, port=port, stop=stop)
        print("Stopped.")
        return code


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoBusyError(
                f"another demo runs in {str(directory)!r}", hint="stop it with Ctrl-C"
            ) from None
        yield


@contextmanager
def _shop(directory: Path, config: PipelineConfig) -> Iterator[str]:
    """Start the source and load it; the config's variable names it for us and our children."""
    print("Starting Postgres ...", flush=True)
    config.warehouse_path.parent.mkdir(parents=True, exist_ok=True)
    with EmbeddedPostgres(directory / "postgres", settings=_SERVER_SETTINGS) as server:
        create_database(server.dsn(), DATABASE)
        dsn = server.dsn(DATABASE)
        loaded = load(dsn)
        print(f"Postgres is on 127.0.0.1:{server.port}, the shop is", end=" ")
        print("loaded." if loaded else "as the last demo left it.", flush=True)
        os.environ[_variable(config)] = dsn
        _write_environment(directory / "shop.env", f"export {_variable(config)}='{dsn}'\n")
        yield dsn


def _variable(config: PipelineConfig) -> str:
    return getattr(config.source.dsn, "env", "SHOP_SOURCE_DSN")


def _write_environment(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
