"""A copy of the project that a test may change, and `dg` in it as a user runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cdc_assets

DG = Path(sys.executable).with_name("dg")
PROJECT = Path(cdc_assets.__file__).parents[1]


def copy_project(directory: Path) -> Path:
    """Copy the package, its definitions and its Dagster instance's settings."""
    copy = directory / "project"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "cdc_assets", copy / "cdc_assets", ignore=ignored)
    shutil.copy(PROJECT / "pyproject.toml", copy)
    (copy / ".dagster").mkdir()
    shutil.copy(PROJECT / "dagster.yaml", copy / ".dagster")
    return copy


def shop_config(project: Path) -> Path:
    """Give the config of the project's one pipeline."""
    return project / "cdc_assets" / "defs" / "shop" / "defs.yaml"


def dg(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `dg` in a project, without what the session's own environment says of Dagster."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("DAGSTER")}
    inherited.pop("SHOP_SOURCE_DSN", None)
    path = os.pathsep.join([str(project), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [DG, *arguments],
        cwd=project,
        env={
            **inherited,
            "PYTHONPATH": path,
            "DAGSTER_HOME": str(project / ".dagster"),
            "COLUMNS": "400",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
