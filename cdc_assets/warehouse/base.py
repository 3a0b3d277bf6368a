"""What a warehouse keeps of a pipeline, and what it promises.

The contract:

- The checkpoint is the only truth about what was applied. It is written in the same transaction as
  the rows that it speaks of, so both are durable or neither is.
- A table's mirror has at most one row per key. Writing a batch deletes every key that it touches
  and inserts the rows that remain; doing it again changes nothing.
- A fence is committed with the rows that it protects, and removed with the checkpoint that has
  passed it.
- One pipeline owns a table. Another pipeline, or a table that nobody here made, is refused.
- What is opened is closed; an open warehouse may lock others out, so it is not held for longer than
  a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import pyarrow as pa

from cdc_assets.changes.batch import Mask
from cdc_assets.changes.fence import KeyText
from cdc_assets.changes.rows import Lookup
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN, WalIdentity


@dataclass(frozen=True, slots=True)
class LastTransaction:
    """The last transaction that a checkpoint covers: if it is read again, it must be the same."""

    xid: int
    commit_micros: int
    commit_lsn: LSN
    end_lsn: LSN


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far one table is.

    Attributes:
        lsn: Everything that committed at or before it is applied; compared as it is, never +1.
        phase: `copying` until the first copy's last chunk is in.
        copied_to: Highest key of the last chunk, while copying; None before the first.
        shape: The mirror's columns as of `lsn`.
        last: None until a transaction was seen.
        error: Why the table was left behind, or empty.
    """

    table: TableName
    lsn: LSN
    phase: Literal["copying", "streaming"]
    shape: TableShape
    identity: WalIdentity
    copied_to: KeyText | None = None
    last: LastTransaction | None = None
    error: str = ""
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """What a batch does to one mirror, in this order.

    Attributes:
        truncated_at: Rows of transactions up to this LSN go first; None: none do.
        deleted: Keys that lose their row, one array per key column.
        standing: Which of these have one; the others have none.
        inserted: Rows that are written then, complete.
        looked_up: Rows that are written too, once the mirror's old values are in.
    """

    truncated_at: LSN | None
    deleted: Sequence[pa.Array]
    standing: Mask
    inserted: pa.Table
    looked_up: Lookup | None = None
