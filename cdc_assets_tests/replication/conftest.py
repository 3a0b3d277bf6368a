"""What many of these tests want of a run."""

from __future__ import annotations

import pytest

from cdc_assets_tests.interrupting import make_small


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make chunks, batches and slices so small that a small load has many of each."""
    make_small(monkeypatch.setattr)
