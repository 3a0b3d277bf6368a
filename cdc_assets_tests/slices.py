"""Windows applied at once, or in the smallest slices that the code can be made to take."""

from __future__ import annotations

import pytest

from cdc_assets.replication import applying, copying
from cdc_assets.source import arrow

SIZES = ("at once", "in slices")


def cut_small(monkeypatch: pytest.MonkeyPatch, *, chunk_rows: int = 2) -> None:
    """Read, decode and write a few messages at a time; copy a few rows at a time."""
    monkeypatch.setattr(arrow, "BATCH_BYTES", 500)
    monkeypatch.setattr(applying, "APPLY_BYTES", 1)
    monkeypatch.setattr(copying, "CHUNK_ROWS", chunk_rows)
