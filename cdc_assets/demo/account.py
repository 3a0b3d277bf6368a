"""The account that Postgres runs under, and folders that it can reach.

Postgres refuses to run as root. Root therefore starts it as `postgres`, else as `nobody`. That
account often can't reach what root works in (`/root`, a private checkout); nobody's permissions
are changed for that. What the server needs is put under /var/tmp instead, in folders that root
owns and that are named by a hash of the path which they stand for.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import stat
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cdc_assets.errors import CdcError

FALLBACK = Path("/var/tmp")  # noqa: S108 - survives a reboot; what is found there is checked

_ROOTS_CHOICE = ("postgres", "nobody")
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs the server's programs; `uid` is None for the user that we are."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def for_server(cls) -> Account:
        """Choose the account: our own unless we are root."""
        if os.geteuid() != 0:
            return cls()
        entries = {entry.pw_name: entry for entry in pwd.getpwall()}
        entry = next(entries[name] for name in _ROOTS_CHOICE if name in entries)
        return cls(uid=entry.pw_uid, gid=entry.pw_gid)

    def run(
        self, command: Sequence[str | Path], *, timeout_seconds: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end as this account, both outputs in `stdout`.

        The environment is a bare one: PGDATA, PGPORT or a locale must not shape the server.

        Raises:
            OSError: The account can't run it.
        """
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        return subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_seconds,
            cwd="/",
            env={**environment, "LC_ALL": "C"},
            start_new_session=True,  # Ctrl-C is for us, not for a pg_ctl that we wait for
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
        )

    def own(self, path: Path) -> None:
        """Give the account a file or folder that we made."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def reachable(self, directory: Path) -> Path:
        """Make a folder that stands for `directory`: itself, or one of ours under /var/tmp.

        Raises:
            CdcError: The folder under /var/tmp was made by somebody else.
        """
        directory = directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        if self.uid is None or _open_to_all(directory):
            return directory
        return own_folder(f"cdc-assets-{short_hash(directory)}")


def own_folder(name: str) -> Path:
    """Make a folder under /var/tmp that only we can write into, or find the one made before.

    Raises:
        CdcError: It is a link, or somebody else's, or open to others.
    """
    folder = FALLBACK / name
    folder.mkdir(mode=0o755, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise CdcError(
            f"{str(folder)!r} was not made by this user, or others may write into it",
            hint="remove it",
        )
    folder.chmod(0o755)  # whatever the umask is
    return folder


def short_hash(*parts: object) -> str:
    """Give 12 hex digits that stand for `parts`."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:12]


def _open_to_all(directory: Path) -> bool:
    return all(path.stat().st_mode & stat.S_IXOTH for path in (directory, *directory.parents))
