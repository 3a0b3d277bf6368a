"""One run of a pipeline as a stream of Dagster events.

An event leaves here after what it says is durable: results persist when the op fails later, and
a crash between the warehouse's commit and a result loses a line in a log, never a change.

Dagster shows a planned asset as failed when its last run failed and brought it no
materialization. So a run in which some tables failed materializes all the others, changed or
not, and the failed ones alone turn red.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import assert_never

import dagster as dg

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.orchestration import metadata
from cdc_assets.orchestration.checks import evaluations, plots
from cdc_assets.orchestration.failures import describe, run_failure, tables_failure
from cdc_assets.orchestration.health import look_at_health
from cdc_assets.progress import (
    ChangeCounts,
    ChunkCopied,
    SyncEvent,
    SyncFinished,
    TableFailed,
    TableResult,
    WindowApplied,
)
from cdc_assets.waits import listening

RunEvent = dg.MaterializeResult[None] | dg.AssetObservation | dg.AssetMaterialization


@dataclass(frozen=True, slots=True)
class PipelineAssets:
    """A pipeline and the keys that its assets have after translation.

    Attributes:
        mirrors: The tables in the warehouse.
        sources: The tables of the source.
        slot: The control asset.
    """

    config: PipelineConfig
    mirrors: Mapping[TableName, dg.AssetKey]
    sources: Mapping[TableName, dg.AssetKey]
    slot: dg.AssetKey

    def selected_tables(self, keys: Collection[dg.AssetKey]) -> tuple[TableName, ...]:
        """Find the tables whose mirrors a run was asked for."""
        return tuple(table for table, key in self.mirrors.items() if key in keys)


def run_pipeline(context: dg.AssetExecutionContext, assets: PipelineAssets) -> Iterator[RunEvent]:
    """Sync the selected tables and report it; where checks alone were selected, only look.

    Raises:
        dg.Failure: The run failed, or a table did; everything else is reported before.
        dg.RetryRequested: What is in the way may be gone at the next try.
    """
    run = _Run(context, assets)
    if not context.selected_asset_keys:
        run.look()
        return
    # Drivers and Arrow take longer to import than a quiet run takes to run.
    from cdc_assets.replication.sync import sync

    tables = assets.selected_tables(context.selected_asset_keys)
    every_table = len(tables) == len(assets.mirrors)
    broke_off: CdcError | None = None
    try:
        with (
            closing(sync(assets.config, tables=None if every_table else tables)) as events,
            listening(context.log.info),
        ):
            for event in events:
                yield from run.report(event)
    except CdcError as error:
        broke_off = error  # raised below, where it is no failure's context
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        context.log.warning("stopped: what was committed stays, the next run goes on from there")
        run.report_what_is_durable()
        raise
    if broke_off is not None:
        context.log.error(describe(broke_off, assets.config.name))
        run.report_what_is_durable()
        failure = run_failure(broke_off, assets.config.name, retries=context.retry_number)
        if isinstance(failure, dg.Failure):
            run.look()
        raise failure
    yield from run.report_slot(run.look())
    if run.failed:
        raise tables_failure(run.failed, assets.config.name)


class _Run:
    """Reports a run's events, and keeps what has become durable in case the run breaks off."""

    def __init__(self, context: dg.AssetExecutionContext, assets: PipelineAssets) -> None:
        self._context = context
        self._assets = assets
        self._durable: dict[TableName, tuple[ChangeCounts, LSN]] = {}
        self.failed: tuple[TableResult, ...] = ()
        self._finished: SyncFinished | None = None

    def report(self, event: SyncEvent) -> Iterator[RunEvent]:
        """Log an event and give what Dagster keeps of it."""
        match event:
            case ChunkCopied():
                self._context.log.info(_chunk_line(event))
                yield dg.AssetObservation(
                    self._assets.mirrors[event.table], metadata=metadata.chunk_metadata(event)
                )
            case WindowApplied():
                for table, counts in event.tables.items():
                    self._add(table, counts, event.end_lsn)
                self._context.log.info(_window_line(event))
                if event.remaining_bytes:  # else the run's result says the same in a moment
                    yield dg.AssetObservation(
                        self._assets.slot, metadata=metadata.window_metadata(event)
                    )
            case TableFailed():
                self._durable.pop(event.table, None)  # a materialization would turn it green
                reason = describe(event.error, self._assets.config.name)
                self._context.log.error(f"{event.table} was left behind: {reason}")
            case SyncFinished():
                self._context.log.info(_finished_line(event))
                self.failed, self._finished = event.failed, event
                yield from self._results(event)
            case _:
                assert_never(event)

    def look(self) -> metadata.Metadata:
        """Look at the slot's health, tell what is new of it, and give what plots."""
        checks, why = look_at_health(self._assets.config)
        if not checks:
            self._context.log.warning(f"the slot's health can't be looked at: {why}")
            return {}
        told = evaluations(
            checks,
            config=self._assets.config,
            slot=self._assets.slot,
            instance=self._context.instance,
            asked_for=self._context.selected_asset_check_keys,
        )
        for evaluation in told:
            self._context.log_event(evaluation)
        return plots(checks)

    def report_slot(self, found: metadata.Metadata) -> Iterator[RunEvent]:
        """Materialize the slot, with its health as it is after the run."""
        if self._finished is not None:
            found = {**found, **metadata.slot_metadata(self._finished)}
            yield self._materialized(self._assets.slot, found, self._finished.confirmed_lsn)

    def report_what_is_durable(self) -> None:
        """Materialize what was committed before the run broke off.

        The next run reads on from there, and whatever waits for these tables would wait on. A
        table that was only copied waits for its first result. Logged, not yielded: an op that is
        tried again must not have yielded its outputs.
        """
        for table, (counts, confirmed) in self._durable.items():
            found = metadata.partial_metadata(counts, confirmed)
            self._context.log_event(_materialization(self._assets.mirrors[table], found, confirmed))

    def _add(self, table: TableName, counts: ChangeCounts, confirmed: LSN) -> None:
        before, _ = self._durable.get(table, (ChangeCounts(), confirmed))
        self._durable[table] = (before + counts, confirmed)

    def _results(self, finished: SyncFinished) -> Iterator[RunEvent]:
        for note in finished.notes:
            self._context.log.warning(note)
        reported = self._to_materialize(finished)
        for result in finished.tables:
            key = self._assets.mirrors[result.table]
            found = metadata.table_metadata(result, self._assets.sources[result.table])
            if result in reported:
                yield self._materialized(key, found, result.confirmed_lsn)
            elif result.error is not None:
                reason = dg.MetadataValue.text(describe(result.error, self._assets.config.name))
                yield dg.AssetObservation(key, metadata={**found, "cdc/error": reason})

    def _materialized(self, key: dg.AssetKey, found: metadata.Metadata, confirmed: LSN) -> RunEvent:
        # A result is for a selected asset only; a run may bring on and report others.
        if key not in self._context.selected_asset_keys:
            return _materialization(key, found, confirmed)
        version = dg.DataVersion(str(confirmed))
        return dg.MaterializeResult(asset_key=key, metadata=found, data_version=version)

    def _to_materialize(self, finished: SyncFinished) -> list[TableResult]:
        synced = [result for result in finished.tables if result.error is None]
        if finished.failed:
            return synced
        unseen = self._unseen([result for result in synced if not result.changed])
        return [result for result in synced if result.changed or result in unseen]

    def _unseen(self, results: list[TableResult]) -> list[TableResult]:
        """Find quiet tables that got to where they are without Dagster having been told.

        They were empty at their first sync, or the command line synced them, or a run was killed
        between a commit and its report. What Dagster was told before is no more than a hint: when
        it is lost, each table is reported once more.
        """
        keys = [self._assets.mirrors[result.table] for result in results]
        told = self._last_told([*keys, self._assets.slot]) if keys else {}
        everywhere = told.get(self._assets.slot, LSN(0))
        return [
            result
            for key, result in zip(keys, results, strict=True)
            if key not in told or max(told[key], everywhere) < result.start_lsn
        ]

    def _last_told(self, keys: list[dg.AssetKey]) -> dict[dg.AssetKey, LSN]:
        told = {}
        for record in self._context.instance.get_asset_records(keys):
            last = record.asset_entry.last_materialization
            if last is not None and last.asset_materialization is not None:
                position = last.asset_materialization.metadata.get("cdc/confirmed_lsn_int")
                value = position.value if isinstance(position, dg.IntMetadataValue) else None
                told[record.asset_entry.asset_key] = LSN(value or 0)
        return told


def _materialization(
    key: dg.AssetKey, found: metadata.Metadata, confirmed: LSN
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        key, metadata=found, tags={"dagster/data_version": str(confirmed)}
    )


def _chunk_line(chunk: ChunkCopied) -> str:
    return f"{chunk.table}: chunk {chunk.chunk} copied, {chunk.rows} rows, {chunk.seconds:.1f} s"


def _window_line(window: WindowApplied) -> str:
    return (
        f"window {window.start_lsn} to {window.end_lsn}: {window.changes} changes of"
        f" {window.transactions} transactions, {window.seconds:.1f} s,"
        f" {window.remaining_bytes} bytes to go"
    )


def _finished_line(finished: SyncFinished) -> str:
    return (
        f"slot at {finished.confirmed_lsn} after {finished.windows} windows in"
        f" {finished.seconds:.1f} s, {finished.counts.total} changes,"
        f" {finished.counts.copied} rows copied, lag {finished.lag_bytes} bytes"
    )
