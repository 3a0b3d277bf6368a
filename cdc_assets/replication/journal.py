"""What a run is doing and how the last one ended, where a second process can read it.

DuckDB's file can't be opened while a run holds it, and Dagster's pages are not everywhere. So a run
keeps a small file beside the warehouse, `<warehouse file>.<pipeline>.run.json`, replaced as a whole
when it starts, about once a second while it goes on, and when it ends. What has its turn between
two runs, a backfill say, leaves word in it, too.

It is for people and for what judges the slot's health, and no truth: nothing is ever applied,
confirmed or left out because of it. It may be lost, and it never fails a run. It is only written
beside a warehouse that is there: a run that is refused because a volume vanished leaves nothing in
the empty folder. A run that is killed leaves it as it was; the pipeline's lock on the source tells
that it died (`source.lock.lock_holder`).

It holds names, positions, counts and times; no row's value, no connection string.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from cdc_assets.changes.shape import TableShape
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import CdcError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN


def _position(value: object) -> object:
    return LSN.parse(value) if isinstance(value, str) else value


Position = Annotated[
    LSN,
    BeforeValidator(_position),
    PlainSerializer(str, return_type=str),
]
RunState = Literal["running", "ok", "failed", "stopped"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="ignore")


class Failure(_Record):
    """An error as it was said."""

    kind: str
    message: str
    hint: str = ""
    retryable: bool = False

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Keep what may be kept of an error: the text of an unexpected one may quote a row."""
        if isinstance(error, CdcError):
            return cls(
                kind=type(error).__name__,
                message=error.message,
                hint=error.hint,
                retryable=error.retryable,
            )
        return cls(
            kind=type(error).__name__,
            message=f"the run broke off with an unexpected {type(error).__name__}",
            hint="its own output has the traceback: report it",
        )


class TableRecord(_Record):
    """Where one table is.

    Attributes:
        phase: `missing`, `copying` or `streaming`.
        lsn: Its checkpoint.
        rows: Of the mirror, when the last run ended.
        complete_at: The mirror has everything that was committed before that.
        oid: The source table's, which outlives a change of its name.
        shape: Digest of the mirror's columns and key, the source's too until its table is altered.
    """

    phase: str
    lsn: Position | None = None
    rows: int | None = None
    complete_at: datetime | None = None
    oid: int | None = None
    shape: str = ""
    error: Failure | None = None


class Activity(_Record):
    """What a run is doing.

    Attributes:
        since: When it began with it.
        table: Which one is copied.
        chunk: The chunk that is being copied, from 1.
        rows_copied: Of the table by this run; `rows_expected` is an estimate of all.
        start_lsn: Where the window starts that is being read and applied.
        target_lsn: Where the run stops.
        total_bytes: Of WAL that were to be applied at first; `remaining_bytes` are left.
        rate: Rows a second that were copied, or bytes of WAL a second that were applied, since it
            began with it.
        waits_for: What it waits for now, in words, or empty.
    """

    what: Literal["opening", "copying", "applying"]
    since: datetime
    table: str = ""
    chunk: int = 0
    rows_copied: int = 0
    rows_expected: int | None = None
    start_lsn: Position | None = None
    target_lsn: Position | None = None
    total_bytes: int | None = None
    remaining_bytes: int | None = None
    rate: float | None = None
    waits_for: str = ""
    waits_since: datetime | None = None


class Run(_Record):
    """One run.

    Attributes:
        heard_at: When it last wrote.
        backend_pid: Of the session on the source that holds the pipeline's lock.
        tables: Those that it was asked for, if not all.
        error: Why the run as a whole ended; a table's own error is with the table.
    """

    state: RunState
    started_at: datetime
    heard_at: datetime
    ended_at: datetime | None = None
    pid: int
    host: str
    backend_pid: int | None = None
    tables: tuple[str, ...] = ()
    failed_tables: tuple[str, ...] = ()
    activity: Activity | None = None
    error: Failure | None = None
    windows: int = 0
    changes: int = 0
    rows_copied: int = 0
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it took, or goes on as far as is known."""
        return ((self.ended_at or self.heard_at) - self.started_at).total_seconds()


class Turn(_Record):
    """What a backfill or a comparison does, that has its turn between two syncs.

    It goes on as long as its session on the source holds the pipeline's lock.

    Attributes:
        since: When it began with the table, turns of others included.
        part: A bucket's name, `where` for rows that a predicate chose, or empty for all of them.
        rows_read: Of the part; `rows_expected` is an estimate of the whole table.
    """

    what: Literal["backfill", "reconcile"]
    since: datetime
    backend_pid: int
    table: str
    part: str = ""
    rows_read: int = 0
    rows_expected: int | None = None


class SlotRecord(_Record):
    """Where the slot was when a run last wrote.

    Attributes:
        end_lsn: The source's end at `read_at`.
        target_lsn: Where the last run that ended was to come.
        stalled_since: From when on runs have ended without bringing the slot to where they were to
            come; None while they do.
        held_by: The tables whose checkpoints it waits for.
    """

    confirmed_lsn: Position
    end_lsn: Position
    read_at: datetime
    stalled_since: datetime | None = None
    held_by: tuple[str, ...] = ()


class Journal(_Record):
    """All that the file holds.

    Attributes:
        run: The run that goes on, or the last one.
        last: The one before a run that goes on.
        beside: What had its turn since the run.
    """

    pipeline: str
    run: Run
    last: Run | None = None
    slot: SlotRecord | None = None
    tables: Mapping[str, TableRecord] = {}
    beside: Turn | None = None

    @property
    def oids(self) -> dict[TableName, int]:
        """Give those of the source's tables that the last run knew."""
        known = {name: record.oid for name, record in self.tables.items()}
        return {TableName.parse(name): oid for name, oid in known.items() if oid is not None}

    @property
    def ended(self) -> Run | None:
        """The last run that wrote how it ended."""
        return self.last if self.run.state == "running" else self.run


def journal_path(config: PipelineConfig) -> Path:
    """Give the file of a pipeline's journal."""
    warehouse = config.warehouse_path
    return warehouse.with_name(f"{warehouse.name}.{config.name}.run.json")


def read_journal(config: PipelineConfig) -> Journal | None:
    """Read a pipeline's journal; None where there is none that this version understands."""
    try:
        text = journal_path(config).read_text(encoding="utf-8")
        journal = Journal.model_validate_json(text)
    except (OSError, ValidationError, UnicodeDecodeError):
        return None
    return journal if journal.pipeline == config.name else None


def write_journal(config: PipelineConfig, journal: Journal) -> str:
    """Replace a pipeline's journal where its warehouse is.

    Returns:
        Why it can't be written, or empty.
    """
    path = journal_path(config)
    if not config.warehouse_path.exists():
        return ""
    draft = path.with_name(path.name + ".new")
    try:
        draft.write_text(journal.model_dump_json(indent=1) + "\n", encoding="utf-8")
        os.replace(draft, path)  # noqa: PTH105 - the two names stand side by side
    except OSError as error:
        return f"{str(path)!r} can't be written, so 'status' knows less: {error.strerror}"
    return ""


def forget_journal(config: PipelineConfig, tables: Collection[str] | None = None) -> None:
    """Take a pipeline's journal away, or what it says of tables that have no mirror any more."""
    journal = read_journal(config)
    if journal is None or tables is None:
        journal_path(config).unlink(missing_ok=True)
        return
    failed = tuple(name for name in journal.run.failed_tables if name not in tables)
    kept = {name: record for name, record in journal.tables.items() if name not in tables}
    run = journal.run.model_copy(update={"failed_tables": failed})
    write_journal(config, journal.model_copy(update={"run": run, "tables": kept}))


def digest(shape: TableShape) -> str:
    """Give a short text that two shapes share only if values stay what they are between them."""
    return hashlib.sha256(repr(shape.declaration).encode()).hexdigest()[:16]


def now() -> datetime:
    """Give the time, UTC."""
    return datetime.now(UTC)


def is_alive_here(run: Run) -> bool | None:
    """Say whether a run's process is there; None where it is another machine's to tell."""
    if run.host != socket.gethostname():
        return None
    try:
        os.kill(run.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another account's
        return True
    return True
