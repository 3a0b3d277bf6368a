from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_assets_tests.pgoutput.test_decode import GOOD, decode, shown


@settings(max_examples=100, deadline=None, derandomize=True)
@given(choice=st.lists(st.booleans(), min_size=8, max_size=8))
def test_rows_that_are_kept_are_those_of_the_whole(choice: list[bool]) -> None:
    """Old tuples follow their rows, whatever is left out around them."""
    for changes in decode(GOOD):
        mask = np.array(choice[: len(changes.ops)])
        rows = [row for row, kept in zip(shown(changes), mask, strict=True) if kept]
        kept = changes.keep(mask)
        assert shown(kept) == rows
        assert kept.transactions.tolist() == changes.transactions[mask].tolist()
