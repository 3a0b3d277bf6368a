"""Which pipeline a command is about."""

from __future__ import annotations

import argparse
from pathlib import Path

from cdc_assets.config import (
    PipelineConfig,
    find_pipeline,
    find_project,
    load_environment,
    project_root,
    read_pipeline,
)
from cdc_assets.errors import NoPipelineError


def selected(options: argparse.Namespace) -> PipelineConfig:
    """Read the pipeline that `--config` and `--pipeline` mean, after its project's `.env`.

    Raises:
        ConfigError: There is none or more than one, or it has problems.
    """
    if options.config:
        document = find_pipeline(
            [options.config], options.pipeline, where=repr(str(options.config))
        )
        folders = [project_root(document.path)]
    else:
        found = find_project(Path.cwd())
        where = " and ".join(repr(str(folder)) for folder in found.defs)
        document = find_pipeline(found.defs, options.pipeline, where=where)
        folders = [found.root, project_root(document.path)]
    load_environment(dict.fromkeys(folders))
    return read_pipeline(document)


def selected_if_any(options: argparse.Namespace) -> PipelineConfig | None:
    """Read the pipeline that is meant; None where none was named and there is none.

    Raises:
        ConfigError: There is more than one, or it has problems.
    """
    try:
        return selected(options)
    except NoPipelineError:
        if options.config or options.pipeline:
            raise
        return None
