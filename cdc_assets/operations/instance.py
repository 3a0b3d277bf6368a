"""What a Dagster instance lacks for a pipeline that runs every minute, told without Dagster.

The settings are those of `dagster.yaml`, which Dagster reads in the folder that DAGSTER_HOME names.
Without the file everything is at Dagster's defaults, made for runs that somebody looks at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cdc_assets.errors import ConfigError

FILE_NAME = "dagster.yaml"
TEMPLATE = Path(__file__).with_name(FILE_NAME)
WAY_OUT = "'cdc-assets scaffold instance' writes a dagster.yaml that has it all"

# By their place in the file, and another where it may stand: what follows where it is missing.
_WANTED: Mapping[tuple[str, ...], str] = {
    ("run_monitoring.enabled",): "a run that never starts or never stops stays so",
    ("run_monitoring.free_slots_after_run_end_seconds",): (
        "a killed or canceled run can keep its place in the pool"
    ),
    ("concurrency.pools.default_limit",): (
        "a second run of a pipeline is not queued: it starts, tries for a while and fails"
    ),
    ("concurrency.pools.granularity",): "runs that wait for the pool hold a process each",
    ("run_queue.dequeue_interval_seconds", "run_coordinator.config.dequeue_interval_seconds"): (
        "a run waits up to 5 s in the queue"
    ),
    ("retention.schedule",): "ticks are kept for ever",
}


def lacking(settings: Mapping[str, Any]) -> list[str]:
    """Say what an instance's settings lack, each with what follows; empty where nothing does."""
    return [
        f"{places[0]} ({follows})"
        for places, follows in _WANTED.items()
        if not any(_is_set(settings, place.split(".")) for place in places)
    ]


def _is_set(settings: Any, place: list[str]) -> bool:
    for key in place:
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings not in (None, False, {})


def lacking_here() -> list[str]:
    """Say what the instance that DAGSTER_HOME names lacks; empty where it names none."""
    home = os.environ.get("DAGSTER_HOME")
    if not home:
        return []
    path = Path(home).expanduser() / FILE_NAME
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [f"a {FILE_NAME} in {str(path.parent)!r}", *lacking({})]
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return [f"a {FILE_NAME} that can be read in {str(path.parent)!r}"]
    return lacking(settings or {})


def in_a_line(missing: list[str]) -> str:
    """Say it in one line, with the way out."""
    return f"the Dagster instance lacks {'; '.join(missing)}. {WAY_OUT}"


def write_template(folder: Path) -> Path:
    """Write a `dagster.yaml` into a folder, which is made if it is not there.

    Raises:
        ConfigError: There is one, or the folder can't be written.
    """
    path = folder / FILE_NAME
    if path.exists():
        raise ConfigError(
            f"{str(path)!r} exists already", hint=f"compare it with {str(TEMPLATE)!r}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{str(path)!r} can't be written: {error.strerror}", hint="name another folder"
        ) from error
    return path
