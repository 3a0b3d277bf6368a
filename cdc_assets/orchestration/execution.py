"""One run of a pipeline as a stream of Dagster events.

An event leaves here after what it says is durable: results persist when the op fails later, and
a crash between the warehouse's commit and a result loses a line in a log, never a change.

Dagster shows a planned asset as failed when its last run failed and brought it no
materialization. So a run in which some tables failed materializes all the others, changed or
not, and the failed ones alone turn red.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import assert_never

import dagster as dg
from dagster._core.definitions.data_version import DEFAULT_DATA_VERSION

from cdc_assets.config import PipelineConfig
from cdc_assets.config.tables import CHANGES
from cdc_assets.errors import CdcError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.operations.reporting import line
from cdc_assets.orchestration import metadata
from cdc_assets.orchestration.checks import evaluations, plots
from cdc_assets.orchestration.failures import describe, run_failure, tables_failure
from cdc_assets.orchestration.health import look_at_health
from cdc_assets.orchestration.told import Told, read_told
from cdc_assets.progress import (
    ChangeCounts,
    ChunkCopied,
    RunMark,
    SchemaChanged,
    SyncEvent,
    SyncFinished,
    TableFailed,
    TableResult,
    WindowApplied,
)
from cdc_assets.waits import listening
from cdc_assets.wording import counted

PROGRESS_SECONDS = 10.0
# A run that copies ends, so that what it brought is told; the next one goes on
COPY_SECONDS = 60.0

RunEvent = dg.MaterializeResult[None] | dg.AssetObservation | dg.AssetMaterialization


@dataclass(frozen=True, slots=True)
class PipelineAssets:
    """A pipeline and the keys that its assets have after translation.

    Attributes:
        kept: The tables in the warehouse: mirrors, and change tables without one.
        sources: The tables of the source.
        slot: The control asset.
        records: What is kept beside mirrors: change tables and histories.
    """

    config: PipelineConfig
    kept: Mapping[TableName, dg.AssetKey]
    sources: Mapping[TableName, dg.AssetKey]
    slot: dg.AssetKey
    records: Mapping[TableName, Mapping[str, dg.AssetKey]] = field(default_factory=dict)

    def of(self, table: TableName) -> list[dg.AssetKey]:
        """Give the keys of all that is kept of a table."""
        return [self.kept[table], *self.records.get(table, {}).values()]

    def selected_tables(self, keys: Collection[dg.AssetKey]) -> tuple[TableName, ...]:
        """Find the tables of which a run was asked for something that is kept."""
        return tuple(table for table in self.kept if not set(keys).isdisjoint(self.of(table)))


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
    every_table = len(tables) == len(assets.kept)
    broke_off: CdcError | None = None
    try:
        with (
            closing(
                sync(
                    assets.config,
                    tables=None if every_table else tables,
                    copy_seconds=COPY_SECONDS,
                    run=RunMark("sync", context.run.run_id),
                )
            ) as events,
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
        self._told: Mapping[dg.AssetKey, Told] = {}
        self._shown_at = -math.inf

    def report(self, event: SyncEvent) -> Iterator[RunEvent]:
        """Log an event and give what Dagster keeps of it."""
        match event:
            case ChunkCopied():
                self._context.log.info(line(event))
                yield from self._on_its_way(metadata.chunk_metadata(event))
            case WindowApplied():
                for table, counts in event.tables.items():
                    self._add(table, counts, event.end_lsn)
                self._context.log.info(line(event))
                if event.remaining_bytes:  # else the run's result says the same in a moment
                    yield from self._on_its_way(metadata.window_metadata(event))
            case SchemaChanged():
                self._context.log.info(line(event))
                for key in self._assets.of(event.table):
                    yield dg.AssetObservation(
                        key, description=line(event), metadata=metadata.change_metadata(event)
                    )
            case TableFailed():
                self._durable.pop(event.table, None)  # a materialization would turn it green
                reason = describe(event.error, self._assets.config.name)
                self._context.log.error(f"{event.table} was left behind: {reason}")
            case SyncFinished():
                self._context.log.info(line(event))
                self.failed, self._finished = event.failed, event
                yield from self._results(event)
            case _:
                assert_never(event)

    def look(self) -> metadata.Metadata:
        """Look at the slot's health, tell it, and give what plots."""
        checks, why = look_at_health(self._assets.config)
        if not checks:
            self._context.log.warning(f"the slot's health can't be looked at: {why}")
            return {}
        for evaluation in evaluations(checks, self._assets.config, self._assets.slot):
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
            for key in self._assets.of(table):
                self._context.log_event(_materialization(key, found, confirmed))

    def _add(self, table: TableName, counts: ChangeCounts, confirmed: LSN) -> None:
        before, _ = self._durable.get(table, (ChangeCounts(), confirmed))
        self._durable[table] = (before + counts, confirmed)

    def _results(self, finished: SyncFinished) -> Iterator[RunEvent]:
        if finished.published:
            self._context.log.info(f"published to {finished.published}")
        for note in finished.notes:
            self._context.log.warning(note)
        reported = self._to_materialize(finished)
        for result in finished.tables:
            if result in reported:
                yield self._source_told(result)
                for key, found in self._described(result):
                    yield self._materialized(key, found, result.confirmed_lsn)
            elif result.error is not None:
                reason = dg.MetadataValue.text(describe(result.error, self._assets.config.name))
                for key, found in self._described(result):
                    yield dg.AssetObservation(key, metadata={"cdc/error": reason, **found})
            elif result.phase != "streaming":
                yield from self._not_there_yet(result)
            elif self._tells_of_quiet_tables():
                yield self._source_told(result)
                yield from self._quiet(result)

    def _described(self, result: TableResult) -> Iterator[tuple[dg.AssetKey, metadata.Metadata]]:
        """Describe all that is kept of a table, whichever of it was asked for."""
        table, sources = result.table, self._assets.sources
        if table in self._assets.config.unmirrored:
            yield self._assets.kept[table], metadata.record_metadata(result, sources, CHANGES)
            return
        yield self._assets.kept[table], metadata.table_metadata(result, sources)
        for keep, key in self._assets.records.get(table, {}).items():
            if keep in result.record_rows:
                yield key, metadata.record_metadata(result, sources, keep)

    def _tells_of_quiet_tables(self) -> bool:
        """Whether it is time to: once an hour, and whenever somebody asked for a selection."""
        slot = self._told.get(self._assets.slot)
        asked = bool(self._context.run.asset_selection)
        return asked or (slot is not None and slot.is_in_another_hour)

    def _not_there_yet(self, result: TableResult) -> Iterator[dg.AssetObservation]:
        copied = counted(result.counts.copied, "row")
        said = f"is being copied: {copied} more in this run, the next one goes on"
        for key in self._assets.of(result.table):
            yield dg.AssetObservation(
                key, description="waits for its backfill" if result.phase == "waiting" else said
            )

    def _quiet(self, result: TableResult) -> Iterator[dg.AssetObservation]:
        for key in self._assets.of(result.table):
            since = self._told[key].quiet_since
            yield dg.AssetObservation(
                key,
                description=f"up to date: nothing has changed since {since:%Y-%m-%d %H:%M:%S %Z}",
                metadata=metadata.quiet_metadata(result, since),
            )

    def _source_told(self, result: TableResult) -> dg.AssetMaterialization:
        """Tell of a table of the source.

        No observation: Dagster would show the table as never materialized, and no column. Its
        version stays that of a table of which nothing was told, or its mirror would be shown as out
        of date.
        """
        return dg.AssetMaterialization(
            self._assets.sources[result.table],
            description=result.comment or None,
            metadata=metadata.source_metadata(result),
            tags={"dagster/data_version": DEFAULT_DATA_VERSION.value},
        )

    def _on_its_way(self, found: metadata.Metadata) -> Iterator[RunEvent]:
        """Show on the slot how a long run gets on: each event costs, past a thousand much."""
        if time.monotonic() - self._shown_at >= PROGRESS_SECONDS:
            self._shown_at = time.monotonic()
            yield dg.AssetObservation(self._assets.slot, metadata=found)

    def _materialized(self, key: dg.AssetKey, found: metadata.Metadata, confirmed: LSN) -> RunEvent:
        # A result is for a selected asset only; a run may bring on and report others.
        if key not in self._context.selected_asset_keys:
            return _materialization(key, found, confirmed)
        version = dg.DataVersion(str(confirmed))
        return dg.MaterializeResult(asset_key=key, metadata=found, data_version=version)

    def _to_materialize(self, finished: SyncFinished) -> list[TableResult]:
        synced = [
            result
            for result in finished.tables
            if result.error is None and result.phase == "streaming"
        ]
        if finished.failed:
            return synced
        quiet = [result for result in synced if not result.changed]
        unseen = self._unseen(quiet) if quiet else []
        return [result for result in synced if result.changed or result in unseen]

    def _unseen(self, results: list[TableResult]) -> list[TableResult]:
        """Find quiet tables that got to where they are without Dagster having been told.

        They were empty at their first sync, or the command line synced them, or a run was killed
        between a commit and its report, or more is kept of them than before.
        """
        keys = {result.table: self._assets.of(result.table) for result in results}
        slot = self._assets.slot
        asked = [slot, *(key for of in keys.values() for key in of)]
        told = self._told = read_told(self._context.instance, asked)
        everywhere = told[slot].confirmed_lsn if slot in told else LSN(0)
        return [
            result
            for result in results
            if any(
                key not in told or max(told[key].confirmed_lsn, everywhere) < result.start_lsn
                for key in keys[result.table]
            )
        ]


def _materialization(
    key: dg.AssetKey, found: metadata.Metadata, confirmed: LSN
) -> dg.AssetMaterialization:
    return dg.AssetMaterialization(
        key, metadata=found, tags={"dagster/data_version": str(confirmed)}
    )
