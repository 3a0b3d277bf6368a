"""Names for the points of a run at which a crash must do no harm.

The crash tests subscribe and end the process exactly there; nothing else listens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Step = Literal[
    "chunk_read",
    "chunk_staged",
    "chunk_committed",
    "copy_staged",
    "copy_placed",
    "window_read",
    "changes_appended",
    "versions_written",
    "dependents_renewed",
    "schema_evolved",
    "table_applied",
    "before_commit",
    "window_committed",
    "window_confirmed",
    "rebuild_applied",
    "rebuild_staged",
    "rebuild_placed",
    "changes_folded",
    "copy_written",
    "copy_published",
    "names_taken",
]

observers: list[Callable[[Step], None]] = []


def reached(step: Step) -> None:
    """Tell whoever listens that the run has come to `step`."""
    for observer in observers:
        observer(step)
