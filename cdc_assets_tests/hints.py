"""Follows a hint literally: its SQL on the source, its commands at the command line."""

from __future__ import annotations

import re
import shlex

import yaml

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets_tests.command_line import answer_command, run_command
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import config_path

_SQL = re.compile(r"\b(?:ALTER|COMMIT PREPARED|CREATE|DROP|GRANT|ROLLBACK PREPARED|SELECT) .*")
_COMMAND = re.compile(r"\bcdc-assets (?P<command>[a-z]+(?: --?[^;']+)?(?: ?'[^']*'| \w+\.\w+)?)")
_LEAVE = re.compile(r"\bleave (?:it|'(?P<table>[^']+)') out of the config's tables")
_NAME = re.compile(
    r"\bname '(?P<new>[^']+)' in the config's tables instead of '(?P<table>[^']+)'"
    r"|did you mean '(?P<meant>[^']+)'"
)
_PLACEHOLDER = re.compile(r"…|\.\.\.|<[a-z]+>|TABLE the |\bTABLE T\b")


def ways_of(hint: str) -> list[str]:
    """Give a hint's ways out, each of them whole."""
    return hint.split(", or ")


def steps_of(way: str) -> list[str]:
    """Give what a way out asks to run, in its order: SQL, or a command."""
    assert not _PLACEHOLDER.search(way), way
    steps = []
    for part in way.split(";"):
        if _LEAVE.search(part) or _NAME.search(part):
            steps.append(part.strip())
        elif command := _COMMAND.search(part):
            steps.append(f"cdc-assets {command['command'].strip()}")
        elif sql := _SQL.search(part):
            steps.append(sql[0].strip())
    assert steps, f"nothing to run in {way!r}"
    return steps


def follow(
    way: str, database: ScratchDatabase, config: PipelineConfig, *, table: str = ""
) -> PipelineConfig:
    """Do what a way out asks for: SQL as the superuser, each statement by itself.

    It ends at a command that fails: that has a hint of its own.

    Args:
        way: One of a hint's ways.
        database: The source.
        config: The pipeline, whose file is edited where the way asks for it.
        table: Which table the hint is about.

    Returns:
        The pipeline as its file has it then.
    """
    for step in steps_of(way):
        if leave := _LEAVE.search(step):
            config = _renamed(config, leave["table"] or table, None)
        elif name := _NAME.search(step):
            config = _renamed(config, name["table"] or table, name["new"] or name["meant"])
        elif step.startswith("cdc-assets "):
            command, *options = shlex.split(step)[1:]
            if command == "resync":  # it asks
                done = answer_command(config, command, *options, answer="yes")
            else:
                done = run_command(config, command, *options)
            if done.code != 0:  # it has said what to do first
                assert done.code == 1 and "hint: " in done.err + done.out, (step, done)
                break
        else:
            database.execute(step)
    return config


def _renamed(config: PipelineConfig, table: str, new: str | None) -> PipelineConfig:
    """Name a table otherwise in the config's file, or leave it out."""
    path = config_path(config)
    document = yaml.safe_load(path.read_text())
    tables = [one["source"] for one in document["attributes"]["tables"]]
    assert table in tables, (table, tables)
    named = dict.fromkeys(new if one == table else one for one in tables)
    document["attributes"]["tables"] = [{"source": one} for one in named if one is not None]
    path.write_text(yaml.safe_dump(document))
    return load_config(path)
