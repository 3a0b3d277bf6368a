from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from cdc_assets.demo.demo import DemoBusyError, run_demo
from cdc_assets.demo.postgres import EmbeddedPostgres


def demo_once(directory: Path) -> str:
    command = [sys.executable, "-m", "cdc_assets.cli", "demo", "--once", "--directory", directory]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("waiting for ")] == []
    return done.stdout


def test_the_demo_agrees_row_by_row_and_goes_on_where_it_was(tmp_path: Path):
    try:
        first = demo_once(tmp_path)
        assert first.count(" yes") == 5  # four mirrors and a history
        assert "NO" not in first
        assert "the shop is loaded" in first
        second = demo_once(tmp_path)
        assert second.count(" yes") == 5  # four mirrors and a history
        assert "as the last demo left it" in second
        assert "copied chunk" in first
        assert "copied chunk" not in second
        for said in (first, second):
            assert said.count("altered in place") == 4
            assert "copied anew" not in said
    finally:
        EmbeddedPostgres(tmp_path / "once" / "postgres").remove()


def test_two_demos_do_not_share_a_directory(tmp_path: Path):
    (tmp_path / "once").mkdir()
    with (tmp_path / "once" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DemoBusyError):
            run_demo(once=True, directory=tmp_path)
