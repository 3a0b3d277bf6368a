"""Where a Dagster project's pipelines are, and where their relative paths start.

A project is what `dg` takes for one: a folder with `[tool.dg.project]` in its `pyproject.toml`, or
`[project]` in its `dg.toml`. A workspace names the folders of its projects.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdc_assets.errors import ConfigError, NoPipelineError

_FILES = ("defs.yaml", "defs.yml")
_MARKS = ("pyproject.toml", "dg.toml", "workspace.yaml")


@dataclass(frozen=True, slots=True)
class Found:
    """A project, or a workspace of several.

    Attributes:
        root: Its folder.
        defs: The folders with the definitions of its projects.
    """

    root: Path
    defs: tuple[Path, ...]


def find_project(start: Path) -> Found:
    """Find the Dagster project or workspace that a folder is in.

    Raises:
        NoPipelineError: There is none at the folder or above it.
    """
    for folder in (start, *start.parents):
        settings = _settings(folder)
        if "project" in settings:
            return Found(folder, (_defs_folder(folder, settings["project"]),))
        if "workspace" in settings:
            return Found(folder, tuple(_of_workspace(folder, settings["workspace"])))
    raise NoPipelineError(
        f"no Dagster project at {str(start)!r} or above: no [tool.dg.project] in a pyproject.toml",
        hint="go into the project, or say where the pipeline is with --config PATH",
    )


def config_files(places: Collection[Path]) -> Iterator[Path]:
    """Give the files that may hold a pipeline: files as they are, and those below folders."""
    for place in places:
        if place.is_dir():
            yield from sorted(path for name in _FILES for path in place.rglob(name))
        else:
            yield place


def project_root(path: Path) -> Path:
    """Find where a config's relative paths start: its project, else the config's own folder."""
    path = path.resolve()
    folder = path if path.is_dir() else path.parent
    for candidate in (folder, *folder.parents):
        if any((candidate / mark).is_file() for mark in _MARKS):
            return candidate
    return folder


def load_environment(folders: Collection[Path]) -> None:
    """Set the variables of each folder's `.env` as `dg` does: they go before the shell's own."""
    os.environ.update(read_environment(folders))


def read_environment(folders: Collection[Path]) -> dict[str, str]:
    """Give the variables of each folder's `.env`."""
    found: dict[str, str] = {}
    for file in (folder / ".env" for folder in folders):
        if file.is_file():
            from dotenv import dotenv_values

            found.update({name: text for name, text in dotenv_values(file).items() if text})
    return found


def _settings(folder: Path) -> dict[str, Any]:
    """Read what a folder says to `dg`; its `dg.toml` goes before its `pyproject.toml`."""
    for name, above in (("dg.toml", ()), ("pyproject.toml", ("tool", "dg"))):
        path = folder / name
        if not path.is_file():
            continue
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{str(path)!r} is not TOML: {error}") from error
        for key in above:
            settings = settings.get(key, {})
        if settings:
            return settings
    return {}


def _of_workspace(folder: Path, workspace: dict[str, Any]) -> Iterator[Path]:
    for project in workspace.get("projects", ()):
        root = folder / str(project.get("path", ""))
        settings = _settings(root)
        if "project" in settings:
            yield _defs_folder(root, settings["project"])


def _defs_folder(root: Path, project: dict[str, Any]) -> Path:
    # As dg looks for it: below src/ where there is one; `definitions` where there is no `defs`
    base = root / "src" if (root / "src").exists() else root
    package = str(project.get("root_module", root.name.replace("-", "_")))
    if "defs_module" in project:
        return base.joinpath(*str(project["defs_module"]).split("."))
    folders = [base.joinpath(*package.split("."), name) for name in ("defs", "definitions")]
    return next((folder for folder in folders if folder.is_dir()), folders[0])
