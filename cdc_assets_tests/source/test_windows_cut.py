from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import Transactions
from cdc_assets.source.window import Window, WindowStream, _Group
from cdc_assets_tests.pgoutput.test_decode import begin, change, commit, messages_of, values

ROW = change("I", b"N" + values(b"1"))
FIRST = [begin(100, 7), ROW, ROW, commit(100, 110)]
SECOND = [begin(200, 8), ROW, commit(200, 210)]


@pytest.mark.parametrize("at", range(1, len(FIRST + SECOND)))
def test_a_window_before_an_unseen_transaction_keeps_all_of_the_one_before(at: int) -> None:
    """Wherever the stream was cut into pieces: a transaction may go on in the next one."""
    messages = messages_of(FIRST + SECOND)
    pieces = iter([messages.slice(0, at), messages.slice(at, len(messages))])
    lsns = [np.array(numbers) for numbers in ((100, 200), (110, 210), (0, 0), (7, 8))]
    window = Window(LSN(1), LSN(1), LSN(300), iter(()))
    stream = WindowStream(cast(Any, None), cast(Any, None), LSN(1), Path())
    unseen_second = cast(
        Any,
        SimpleNamespace(
            first_unseen=lambda _transactions: 1,
            reason=lambda transactions, unseen: f"transaction {transactions.xid[unseen]}",
        ),
    )
    given = list(stream._shown_pieces(window, _Group(pieces, Transactions(*lsns)), unseen_second))
    kinds = b"".join(piece.messages.kinds.tobytes() for piece in given)
    assert kinds == b"BIIC"
    assert (window.held_by, window.end_lsn) == ("transaction 8", 110)
