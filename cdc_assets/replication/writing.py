"""What a batch of changes does to a mirror, whatever brought it."""

from __future__ import annotations

from dataclasses import replace

from cdc_assets.changes.batch import ChangeBatch
from cdc_assets.changes.compact import Events, behind_last_truncate, compact, events_of
from cdc_assets.changes.endings import Endings, between_truncates
from cdc_assets.changes.rows import build_rows
from cdc_assets.changes.shape import TableShape
from cdc_assets.lsn import LSN
from cdc_assets.warehouse.values import Marks, Write


def mirror_writes(batch: ChangeBatch, shape: TableShape) -> list[tuple[ChangeBatch, Write]]:
    """Give what a batch does to a mirror, in order, each with the changes that it is of.

    Args:
        batch: Changes, uncompacted.
        shape: The kept one.
    """
    if not shape.keeps_deleted:
        batch, truncated = behind_last_truncate(batch)
        return [(batch, write_of(batch, events_of(batch, shape), truncated, shape))]
    writes = []
    for part, at in between_truncates(batch):
        truncated = None if at is None else int(batch.end_lsn[at])
        write = write_of(part, events_of(part, shape), truncated, shape, with_endings=True)
        micros = 0 if at is None else int(batch.commit_micros[at])
        writes.append((part, replace(write, truncated_micros=micros)))
    return writes


def write_of(
    batch: ChangeBatch,
    events: Events,
    truncated: int | None,
    shape: TableShape,
    *,
    with_endings: bool = False,
) -> Write:
    """Give what some events of a batch do.

    Args:
        batch: Changes without truncations.
        events: Those of its events that count.
        truncated: Where the table was truncated before, if it was.
        shape: The kept one.
        with_endings: Whether rows are kept that are deleted.
    """
    compacted = compact(batch, events, with_endings=with_endings)
    inserted, looked_up = build_rows(batch, events, compacted, shape)
    return Write(
        truncated_at=None if truncated is None else LSN(truncated),
        deleted=compacted.keys,
        standing=compacted.standing,
        is_told=compacted.is_told,
        inserted=inserted,
        looked_up=looked_up,
        marks=None if compacted.endings is None else _marks(batch, compacted.endings),
    )


def _marks(batch: ChangeBatch, endings: Endings) -> Marks:
    """Say which transactions have deleted rows; of no account for keys that have one."""
    return Marks(endings.of_warehouse, batch.end_lsn[endings.by], batch.commit_micros[endings.by])
