"""Follows a hint literally: its SQL on the source, its commands at the command line."""

from __future__ import annotations

import re
import shlex

from cdc_assets.config import PipelineConfig
from cdc_assets_tests.command_line import run_command
from cdc_assets_tests.database import ScratchDatabase

_SQL = re.compile(r"\b(?:ALTER|COMMIT PREPARED|CREATE|DROP|GRANT|ROLLBACK PREPARED|SELECT) .*")
_COMMAND = re.compile(r"\bcdc-assets (?P<command>[a-z]+(?: --?[^;']+)?(?:'[^']*')?)")
_PLACEHOLDER = re.compile(r"…|\.\.\.|<[a-z]+>|TABLE the |\bTABLE T\b")


def ways_of(hint: str) -> list[str]:
    """Give a hint's ways out, each of them whole."""
    return hint.split(", or ")


def steps_of(way: str) -> list[str]:
    """Give what a way out asks to run, in its order: SQL, or a command."""
    assert not _PLACEHOLDER.search(way), way
    steps = []
    for part in way.split(";"):
        if command := _COMMAND.search(part):
            steps.append(f"cdc-assets {command['command'].strip()}")
        elif sql := _SQL.search(part):
            steps.append(sql[0].strip())
    assert steps, f"nothing to run in {way!r}"
    return steps


def follow(way: str, database: ScratchDatabase, config: PipelineConfig) -> None:
    """Run what a way out asks for: SQL as the superuser, each statement by itself."""
    for step in steps_of(way):
        if not step.startswith("cdc-assets "):
            database.execute(step)
            continue
        command, *options = shlex.split(step)[1:]
        done = run_command(config, command, *options)
        assert done.code == 0, (step, done)
