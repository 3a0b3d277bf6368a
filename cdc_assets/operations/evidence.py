"""What is known of a pipeline's health without opening its warehouse: source and journal.

The warehouse is left alone on purpose: who looks after a pipeline's health every minute must not
stand in the way of the syncs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError, ConfigError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import WalIdentity
from cdc_assets.replication.journal import Journal, Turn, digest, is_alive_here, now, read_journal
from cdc_assets.replication.ownership import ownership_problem
from cdc_assets.replication.shaping import shapings
from cdc_assets.source.catalog import SourceTable, read_catalog
from cdc_assets.source.connection import connect, translated
from cdc_assets.source.health import SlotHealth, read_health
from cdc_assets.source.ownership import Ownership, served_warehouse
from cdc_assets.source.preflight import publication_problems
from cdc_assets.source.renamed import with_renamed
from cdc_assets.source.setup import conninfo_of
from cdc_assets.source.slot import read_identity
from cdc_assets.source.tables import gone_problem, table_problems

_LAST_WORD_SECONDS = 2.0

Life = Literal["none", "running", "died", "unknown"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a pipeline's health at one moment.

    Attributes:
        error: Why the source can't be asked; then all of the source's part is missing.
        identity: Which server, timeline and database the source is.
        served: Which warehouse the slot serves; None where it has served none yet.
        absent: Why it is wrong that no warehouse is at the config's path; None where one is, or
            where the slot has served none yet.
        problems: Of the publication and of single tables, as a check finds them.
        sources: The source's tables as they are now.
        shapes: Digests of them.
        journal: What the last run left, or the one that goes on keeps; None before the first.
        life: Whether a run goes on; unknown where only the source could tell.
    """

    at: datetime
    error: CdcError | None
    slot: SlotHealth | None
    identity: WalIdentity | None
    served: Ownership | None
    absent: CdcError | None
    problems: tuple[CdcError, ...]
    sources: Mapping[TableName, SourceTable]
    shapes: Mapping[TableName, str]
    journal: Journal | None
    life: Life

    @property
    def beside(self) -> Turn | None:
        """What a backfill or a comparison does now that has its turn."""
        doing, holder = self.journal and self.journal.beside, self.slot and self.slot.holder
        return doing if doing and holder and holder.pid == doing.backend_pid else None


def read_evidence(config: PipelineConfig) -> Evidence:
    """Ask the source and read the journal; a source that can't be asked is part of the answer.

    Raises:
        ConfigError: The connection string is missing or is none.
    """
    before = read_journal(config)
    error: CdcError | None = None
    slot: SlotHealth | None = None
    identity: WalIdentity | None = None
    served: Ownership | None = None
    problems: tuple[CdcError, ...] = ()
    sources: Mapping[TableName, SourceTable] = {}
    shapes: Mapping[TableName, str] = {}
    conninfo = conninfo_of(config)
    try:
        with connect(conninfo) as control, translated(config.source.slot):
            slot = read_health(control, config.source.slot)
            identity = read_identity(control, config.source.slot)
            served = served_warehouse(control, config.source.slot)
            names = config.table_names
            catalog = read_catalog(control, config.source.publication, names)
            oids = before.oids if before else {}
            catalog = with_renamed(control, catalog, config, oids)
            gone = {
                name: gone_problem(control, catalog, name, oid)
                for name, oid in oids.items()
                if name in names
            }
            problems = (
                *publication_problems(catalog, names),
                *{
                    **table_problems(catalog, names, unmirrored=config.unmirrored),
                    **{name: why for name, why in gone.items() if why is not None},
                }.values(),
            )
            sources = catalog.tables
            shaping = shapings(config, sources)
            shapes = {
                name: digest(shaping[name].source(table.shape)) for name, table in sources.items()
            }
    except ConfigError:
        raise
    except CdcError as raised:
        error = raised
    has_warehouse = config.warehouse_path.exists()
    absent = None if has_warehouse else ownership_problem(config, served, None)
    journal = read_journal(config)
    life = _life(before, slot, journal)
    return Evidence(
        at=now(),
        error=error,
        slot=slot,
        identity=identity,
        served=served,
        absent=absent,
        problems=problems,
        sources=sources,
        shapes=shapes,
        journal=journal,
        life=life,
    )


def _life(before: Journal | None, slot: SlotHealth | None, after: Journal | None) -> Life:
    """Tell a run that goes on from one that died: the pipeline's lock dies with its session.

    The journal is read before and after the lock: a run that ends, or starts, in between is not
    taken for dead.
    """
    if after is None or after.run.state != "running":
        return "none"
    if slot is None:
        here = is_alive_here(after.run)
        return "unknown" if here is None else "running" if here else "died"
    holds = slot.holder is not None and slot.holder.pid == after.run.backend_pid
    same = before is not None and before.run.started_at == after.run.started_at
    # A run that breaks off lets go of the lock a moment before it writes why
    just_now = (now() - after.run.heard_at).total_seconds() < _LAST_WORD_SECONDS
    return "running" if holds or not same or just_now else "died"
