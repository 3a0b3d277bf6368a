"""The project's code location: every pipeline under `defs/`."""

from __future__ import annotations

from pathlib import Path

import dagster as dg


@dg.definitions
def defs() -> dg.Definitions:
    """Load the pipelines.

    A selection of assets that is materialized by hand runs in its run's process too, as the jobs
    do: the one step that there is gains nothing from a process of its own.
    """
    pipelines = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    return dg.Definitions.merge(pipelines, dg.Definitions(executor=dg.in_process_executor))
