"""Where a project's pipelines are, and where their relative paths start."""

from __future__ import annotations

from pathlib import Path

from cdc_assets.errors import ConfigError


def find_config(directory: Path) -> Path:
    """Find the one pipeline under `cdc_assets/defs/`.

    Raises:
        ConfigError: There is none, or more than one.
    """
    found = sorted(directory.glob("cdc_assets/defs/**/defs.yaml"))
    if len(found) == 1:
        return found[0]
    what = "more than one pipeline" if found else "no pipeline"
    raise ConfigError(
        f"{what} under {str(directory / 'cdc_assets' / 'defs')!r}",
        hint="say which with --config PATH",
    )


def project_root(path: Path) -> Path:
    """Find where a config's relative paths start: its project, else the config's own folder."""
    path = path.resolve()
    folder = path if path.is_dir() else path.parent
    for candidate in (folder, *folder.parents):
        if any((candidate / mark).is_file() for mark in ("pyproject.toml", "workspace.yaml")):
            return candidate
    return folder
