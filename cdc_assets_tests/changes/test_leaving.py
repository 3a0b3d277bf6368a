"""Changes of the rows that are kept, against a model that takes one change after the other."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cdc_assets.changes.batch import ChangeBatch, Record
from cdc_assets.changes.leaving import of_kept_rows

COUNT = 200


def batch_of(pick: random.Random, ops: str) -> ChangeBatch:
    """Make changes whose values tell where they were."""
    count = len(ops)
    codes = np.frombuffer(ops.encode(), dtype=np.uint8).copy()
    has_new = np.array([op in "IU" for op in ops])
    old_rows = np.array([at for at, op in enumerate(ops) if op in "UD"], dtype=np.int64)
    flags = [np.array([pick.random() < 0.3 for _ in range(count)]) for _ in range(3)]
    return ChangeBatch(
        ops=codes,
        end_lsn=np.arange(count) + 1000,
        commit_micros=np.arange(count) + 2000,
        columns=[pa.array(np.arange(count), mask=~has_new), pa.array([b"u"] * count)],
        unchanged={1: flags[2] & has_new},
        old_key=[pa.array(old_rows + 3000)],
        old_rows=old_rows,
        fenced_new=flags[0],
        fenced_old=flags[1],
        xids=np.arange(count) + 4000,
        new_key_text=[pa.array([str(at) if has_new[at] else None for at in range(count)])],
        nbytes=count,
        record=Record(np.arange(count) + 5000, [pa.array(old_rows + 6000), pa.array(old_rows)]),
    )


def rows_of(batch: ChangeBatch) -> list[tuple[Any, ...]]:
    assert batch.record is not None
    olds = {int(row): place for place, row in enumerate(batch.old_rows)}
    found = []
    for at in range(len(batch)):
        place = olds.get(at)
        told = (batch.old_key[0], *batch.record.before)
        found.append(
            (
                chr(batch.ops[at]),
                int(batch.end_lsn[at]),
                int(batch.commit_micros[at]),
                batch.columns[0][at].as_py(),
                bool(batch.unchanged[1][at]) if 1 in batch.unchanged else False,
                None if place is None else tuple(column[place].as_py() for column in told),
                bool(batch.fenced_new[at]),
                bool(batch.fenced_old[at]),
                int(batch.xids[at]),
                batch.new_key_text[0][at].as_py(),
                int(batch.record.ordinals[at]),
            )
        )
    return found


def expected(rows: list[tuple[Any, ...]], new: Any, old: Any) -> list[tuple[Any, ...]]:
    found = []
    for at, row in enumerate(rows):
        op, lsn, micros, value, lacks, before, *more, text, ordinal = row
        if op == "U" and old[at] and not new[at]:
            op, value, lacks, text = "D", None, False, None
        elif op == "U" and new[at] and not old[at]:
            op, before = "I", None
        elif not (new[at] or old[at] or op == "T"):
            continue
        found.append((op, lsn, micros, value, lacks, before, *more, text, ordinal))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_kept_rows_have_their_changes(seed: int) -> None:
    pick = random.Random(seed)
    ops = "".join(pick.choices("IUDT", (3, 6, 3, 1), k=COUNT))
    share = pick.choice((0.0, 0.5, 0.9, 1.0))
    new = np.array([op in "IU" and pick.random() < share for op in ops])
    old = np.array([op in "UD" and pick.random() < share for op in ops])
    batch = batch_of(pick, ops)

    found = of_kept_rows(batch, new=new, old=old)

    assert found.ops.dtype == batch.ops.dtype
    assert rows_of(found) == expected(rows_of(batch), new, old)
