"""A table, or a part of it, made anew beside the sync that goes on.

A copy is read into a stage while the stream keeps both stage and mirror up; when both are as of one
LSN, what differs is written into the mirror. A mirror that can't go on stands still meanwhile, and
the copy takes its place.

How it goes on from session to session beside the syncs is in `beside_syncs`.
"""

from __future__ import annotations

from collections.abc import Collection, Generator

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.progress import BackfillEvent, RunMark
from cdc_assets.replication.allocator import return_freed_memory
from cdc_assets.replication.beside_syncs import Beside
from cdc_assets.replication.copying import WHERE
from cdc_assets.replication.opening import in_sessions


def backfill(
    config: PipelineConfig,
    table: TableName,
    *,
    buckets: Collection[str] | None = None,
    where: str = "",
    run: RunMark | None = None,
) -> Generator[BackfillEvent]:
    """Make a table in the warehouse what it is on the source, while syncs go on.

    Of a table whose changes alone are kept another change table is begun, with all of its rows.

    A table that has no mirror yet, or whose mirror can't go on, is copied as a whole, whatever part
    was asked for. So is one whose mirror turns out to lack rows that the stream touches meanwhile.

    Args:
        config: The pipeline.
        table: One of its tables.
        buckets: Names of the parts; by default the whole table at once.
        where: SQL of the source over the table's columns, instead: which rows. They become what
            they are on the source; nothing is removed, as a row that the source does not have can't
            be asked whether it was meant.
        run: What is noted of who writes; by default a backfill that nobody else has a name for.

    Yields:
        An event per chunk and window, and `BucketBackfilled` for every part, after what it says is
        durable.

    Raises:
        ConfigError: A bucket that the table does not have, or a predicate that does not parse.
        CdcError: The table can't be copied, or the source or the warehouse refuses.
    """
    chosen = config.table(table).select_buckets(buckets or ())
    if where:
        config.table(table).refuse_parts()
    return_freed_memory()
    parts = [WHERE] if where else sorted(chosen or [""])
    work = Beside(config, table, where, parts)
    with work.held:
        yield from in_sessions(
            config,
            work.turn,
            run=run or RunMark("backfill"),
            is_done=lambda: not work.parts,
            copies_anew=True,
            takes_turns=True,
        )
