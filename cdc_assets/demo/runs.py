"""The demo's runs, as its webserver is asked for them."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Mapping
from time import monotonic
from typing import Any

_LAUNCH_TIMEOUT_SECONDS = 30.0
_END_TIMEOUT_SECONDS = 1.5
_LOOK_EVERY_SECONDS = 0.1

_LAUNCH = """
mutation ($job: String!, $location: String!) {
  launchRun(executionParams: {runConfigData: {}, selector: {jobName: $job,
      repositoryName: "__repository__", repositoryLocationName: $location}}) {
    __typename
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
_UNFINISHED = """
{ runsOrError(filter: {statuses: [QUEUED, NOT_STARTED, STARTING, STARTED, CANCELING]}) {
    ... on Runs { results { runId } } } }
"""
_TERMINATE = """
mutation ($runs: [String!]!) { terminateRuns(runIds: $runs) { __typename } }
"""


def launch(address: str, job: str, *, location: str) -> str:
    """Put a run of a job into the queue.

    Returns:
        Why it could not be, else an empty text.
    """
    variables = {"job": job, "location": location}
    try:
        answer = _ask(address, _LAUNCH, variables, until=monotonic() + _LAUNCH_TIMEOUT_SECONDS)
    except OSError as error:
        return str(error)
    said = answer["launchRun"]
    if said["__typename"] == "LaunchRunSuccess":
        return ""
    return str(said.get("message") or said.get("errors") or said["__typename"])


def end_runs(address: str) -> None:
    """Cancel what is queued or running, and give it a moment to end.

    Raises:
        OSError: The webserver does not answer in that time.
    """
    until = monotonic() + _END_TIMEOUT_SECONDS
    left = _unfinished(address, until)
    if left:
        _ask(address, _TERMINATE, {"runs": left}, until=until)
    pause = threading.Event()
    while left and monotonic() < until:
        pause.wait(_LOOK_EVERY_SECONDS)
        left = _unfinished(address, until)


def _unfinished(address: str, until: float) -> list[str]:
    answer = _ask(address, _UNFINISHED, {}, until=until)
    return [run["runId"] for run in answer["runsOrError"]["results"]]


def _ask(address: str, query: str, variables: Mapping[str, object], *, until: float) -> Any:
    request = urllib.request.Request(  # noqa: S310 - our own address
        f"{address}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    seconds = max(_LOOK_EVERY_SECONDS, until - monotonic())
    with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310
        return json.load(answer)["data"]
