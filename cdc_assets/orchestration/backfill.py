"""One run of a backfill, as Dagster sees it.

It is asked for buckets and materializes each of them, or fails: a backfill waits for ever for a
bucket that a run which succeeded left out. So one that is right already is told of, too, with
nothing inserted, changed or removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import dagster as dg

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError
from cdc_assets.identifiers import TableName
from cdc_assets.operations.backfill_text import (
    backfill_line,
    differences,
    differing,
    rows_per_second,
)
from cdc_assets.operations.reporting import megabytes
from cdc_assets.orchestration.failures import describe, run_failure
from cdc_assets.orchestration.metadata import Metadata, change_metadata, position_metadata
from cdc_assets.orchestration.told import tell_anew
from cdc_assets.progress import (
    BackfillEvent,
    BucketBackfilled,
    RunMark,
    SchemaChanged,
    WindowApplied,
)
from cdc_assets.waits import listening
from cdc_assets.wording import counted


def run_backfill(
    context: dg.AssetExecutionContext,
    config: PipelineConfig,
    table: TableName,
    kept: Sequence[dg.AssetKey],
) -> Iterator[dg.MaterializeResult[None]]:
    """Backfill the buckets that a run was asked for, and materialize them.

    Args:
        context: The op's.
        config: The pipeline.
        table: Whose buckets.
        kept: The mirror, and what is kept beside it.

    Raises:
        dg.Failure: The run failed; buckets that were durable before are reported.
        dg.RetryRequested: What is in the way may be gone at the next try.
    """
    from cdc_assets.replication.backfill import backfill

    run, mark = _Run(context, config, table, kept), RunMark("backfill", context.run.run_id)
    broke_off: CdcError | None = None
    try:
        with (
            closing(backfill(config, table, buckets=run.asked, run=mark)) as events,
            listening(context.log.info),
        ):
            for event in events:
                run.report(event)
    except CdcError as error:
        broke_off = error  # raised below, where it is no failure's context
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        context.log.warning("stopped: what was committed stays, a backfill of the rest goes on")
        run.report_what_is_durable()
        raise
    if broke_off is not None:
        context.log.error(describe(broke_off, config.name))
        run.report_what_is_durable()
        raise run_failure(broke_off, config.name, retries=context.retry_number)
    yield run.result()
    run.tell_kept()


class _Run:
    """Reports a run's events, and keeps what is durable of the buckets that it was asked for."""

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        config: PipelineConfig,
        table: TableName,
        kept: Sequence[dg.AssetKey],
    ) -> None:
        self._context, self._config, self._table, self._kept = context, config, table, kept
        self.asked: Sequence[str] = context.partition_keys
        self._done: list[BucketBackfilled] = []
        self._streamed = 0

    def report(self, event: BackfillEvent) -> None:
        """Log an event, and keep what Dagster is told of it at the end."""
        self._context.log.info(backfill_line(event))
        if isinstance(event, BucketBackfilled):
            self._done.append(event)
            for note in event.notes:
                self._context.log.warning(note)
        elif isinstance(event, WindowApplied) and self._table in event.tables:
            self._streamed += event.tables[self._table].total
        elif isinstance(event, SchemaChanged) and event.table == self._table:
            for key in self._kept:
                self._context.log_event(
                    dg.AssetObservation(
                        key, description=backfill_line(event), metadata=change_metadata(event)
                    )
                )

    def result(self) -> dg.MaterializeResult[None]:
        """Materialize every bucket that was asked for.

        Raises:
            dg.Failure: One was left out.
        """
        told = self._told()
        left_out = [bucket for bucket in self.asked if bucket not in told]
        if left_out:
            raise dg.Failure(
                f"bucket {', '.join(map(repr, left_out))} of {str(self._table)!r} was not"
                " backfilled, and nothing said why",
                allow_retries=False,
            )
        for bucket, found in told.items():
            self._context.add_asset_metadata(
                found, asset_key=self._context.asset_key, partition_key=bucket
            )
        return dg.MaterializeResult(asset_key=self._context.asset_key)

    def report_what_is_durable(self) -> None:
        """Materialize what was done before the run broke off: logged, as it may be tried again."""
        for bucket, found in self._told().items():
            self._context.log_event(
                dg.AssetMaterialization(self._context.asset_key, metadata=found, partition=bucket)
            )
        self.tell_kept()

    def tell_kept(self) -> None:
        """Materialize the mirror, and what is kept beside it, where rows of it were written.

        What waits for them is to start. One of which nothing was told yet is left to the next sync,
        which tells all there is to say.
        """
        written = self._streamed + sum(differing(event) for event in self._done)
        for key in self._kept if written and self._done else ():
            tell_anew(
                self._context,
                key,
                description=f"written by a backfill: {counted(written, 'row')}",
                found={},
                lsn=self._done[-1].lsn,
            )

    def _told(self) -> dict[str, Metadata]:
        """Give what is said of each bucket that was asked for and is done."""
        found = {event.bucket: bucket_metadata(event) for event in self._done}
        whole = found.pop("", None)
        if whole is not None:  # the mirror could not go on: a part of it could not be put right
            return dict.fromkeys(self.asked, whole)
        return {bucket: found[bucket] for bucket in self.asked if bucket in found}


def bucket_metadata(event: BucketBackfilled) -> Metadata:
    """Describe what a backfill found and did in a bucket, or in the whole table."""
    size = f"{counted(event.rows_read, 'row')} ({megabytes(event.nbytes)}) in {event.seconds:.1f} s"
    return {
        "cdc/backfilled": dg.MetadataValue.text(
            f"{'' if event.bucket else 'the whole table: '}{size}, {differences(event)}"
        ),
        **_key_range(event),
        "cdc/rows_read": dg.MetadataValue.int(event.rows_read),
        "cdc/rows_inserted": dg.MetadataValue.int(event.rows_inserted),
        "cdc/rows_changed": dg.MetadataValue.int(event.rows_changed),
        "cdc/rows_removed": dg.MetadataValue.int(event.rows_removed),
        **position_metadata(event.lsn),
        "cdc/seconds": dg.MetadataValue.float(round(event.seconds, 1)),
        "cdc/rows_per_second": dg.MetadataValue.int(rows_per_second(event)),
        "cdc/bytes": dg.MetadataValue.int(event.nbytes),
    }


def _key_range(event: BucketBackfilled) -> Metadata:
    ends = [
        f"{word} {', '.join(key)}"
        for word, key in (("past", event.low), ("up to", event.high))
        if key is not None
    ]
    return {"cdc/key_range": dg.MetadataValue.text(" ".join(ends))} if ends else {}
