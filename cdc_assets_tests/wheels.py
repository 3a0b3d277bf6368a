"""The package as it is built."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from cdc_assets_tests.interrupting import PROJECT


def build_wheel(directory: Path) -> Path:
    """Build the wheel from a copy of the tree, in which a build may leave things."""
    tree, built = directory / "tree", directory / "built"
    for name in ("cdc_assets", "cdc_assets_tests", "docs", "sql"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT / name, tree / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, tree)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", built, tree],
        check=True,
        timeout=240,
    )
    (wheel,) = built.glob("*.whl")
    return wheel
