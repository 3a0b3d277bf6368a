"""`cdc-assets` as a program."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cdc_assets.config import COMPONENT_TYPE, PipelineConfig
from cdc_assets_tests.forking import run
from cdc_assets_tests.interrupting import config_path

_NAMED = re.compile(
    r"\bcdc-assets "
    r"(check|setup|sync|status|teardown|backfill|reconcile|resync|adopt|preview|rebuild)\b"
    r"(?! \[-h\]|: error| --help)"
)


@dataclass(frozen=True, slots=True)
class Done:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, read as JSON."""
        return json.loads(self.out)


def run_command(config: PipelineConfig | Path, command: str, *options: str, **env: str) -> Done:
    """Run `cdc-assets <command> --config …` to its end.

    What it printed is given without that option, which every command that it named must have had.
    """
    path = config if isinstance(config, Path) else config_path(config)
    return _done(path, command, *options, stdin=None, **env)


def _done(path: Path, command: str, *options: str, stdin: int | None, **env: str) -> Done:
    arguments = (command, "--config", str(path), *options)
    environment = {**os.environ, **env}
    done = run("cdc_assets.cli:main", *arguments, environment=environment, stdin=stdin)
    carried = f" --config {shlex.quote(str(path))}"
    return Done(done.returncode, _without(carried, done.stdout), _without(carried, done.stderr))


def answer_command(config: PipelineConfig, command: str, *options: str, answer: str) -> Done:
    """Run a command whose standard input is a terminal, at which a question is answered."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        return _done(config_path(config), command, *options, stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def _without(carried: str, text: str) -> str:
    for named in _NAMED.finditer(text):
        assert text.startswith(carried, named.end()), f"{named[0]!r} lacks {carried!r}: {text}"
    return text.replace(carried, "")


def assert_readable(done: Done, *, says: str, hint: str, code: int = 1) -> None:
    """Fail unless a command ended with one error that says something, and with its hint."""
    assert done.code == code, done
    assert "Traceback" not in done.err + done.out
    lines = [line for line in done.err.splitlines() if line.startswith(("error: ", "hint: "))]
    assert [line.split(": ")[0] for line in lines] == ["error", "hint"], done.err
    assert says in done.err, done.err
    assert hint in lines[1], done.err


def rewrite(config: PipelineConfig, **changed: Any) -> Path:
    """Write the config beside itself with other attributes; give its file."""
    document = yaml.safe_load(config_path(config).read_text())
    for key, value in changed.items():
        *parents, last = key.split("__")
        place = document["attributes"]
        for parent in parents:
            place = place[parent]
        place[last] = value
    path = config.root / "other" / "defs.yaml"
    path.parent.mkdir(exist_ok=True)
    assert document["type"] == COMPONENT_TYPE
    path.write_text(yaml.safe_dump(document))
    return path
