"""Runs that ended without Dagster's knowing, when all its programs were stopped or killed.

`python -m cdc_assets.orchestration.leftovers` does it for the instance in DAGSTER_HOME. It is
for who knows that nothing of that instance runs, as the demo does before it starts: elsewhere run
monitoring decides.
"""

from __future__ import annotations

import dagster as dg
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES


def cancel_unfinished(instance: dg.DagsterInstance) -> int:
    """Report every run that is queued or under way as canceled; give their number."""
    left = instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
    for run in left:
        instance.report_run_canceled(run, message="Dagster was stopped while this run went on.")
    return len(left)


if __name__ == "__main__":
    with dg.DagsterInstance.get() as instance:
        cancel_unfinished(instance)
