"""Every error that the package raises on purpose.

An error says what was expected and what was found; `hint` says the way out. Neither ever holds a
row's value or a connection string. `retryable` marks what may be gone at the next try without
anybody's doing.
"""

from __future__ import annotations

from typing import Literal


class CdcError(Exception):
    """Base of all errors of this package.

    Args:
        message: What happened, in lower case, names quoted, LSNs as `16/B374D848`.
        hint: What the reader can do about it.
    """

    retryable: bool = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message


class ConfigError(CdcError):
    """The config can't be read or does not fit together; `problems` lists all of them."""

    def __init__(self, message: str, *, hint: str = "", problems: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems


class NoPipelineError(ConfigError):
    """There is no pipeline where one was looked for."""


class PreflightError(CdcError):
    """The source is not set up for replication: wal_level, privileges, publication, identity."""


class ProtocolError(CdcError):
    """A pgoutput message that can't be what Postgres documents.

    Args:
        message: What is wrong with it.
        kind: The message's kind byte as a character, empty when there is none.
        offset: Byte offset of the fault in the batch that was read.
        window: What was read, as `0/1A2B to 0/1C3D`, or empty where that is not known.
    """

    def __init__(self, message: str, *, kind: str = "", offset: int = 0, window: str = "") -> None:
        where = f" in the window from {window}" if window else ""
        super().__init__(
            f"malformed pgoutput message {kind!r} at byte {offset}{where}: {message}",
            hint="report this with the server's version: nothing of this window was applied",
        )
        self.reason = message
        self.kind = kind
        self.offset = offset
        self.window = window

    def in_window(self, window: str) -> ProtocolError:
        """Say the same of a known window."""
        return ProtocolError(self.reason, kind=self.kind, offset=self.offset, window=window)


class ReplicationError(CdcError):
    """The slot or the connection can't be used; nothing was lost."""


class SlotNotFoundError(ReplicationError):
    """The slot does not exist on the source."""


class SlotInvalidatedError(ReplicationError):
    """The server has thrown away WAL that the slot needed."""


class SlotAheadOfCheckpointError(ReplicationError):
    """The slot was moved past the warehouse's checkpoint: changes in between are gone."""


class SourceChangedError(ReplicationError):
    """The server, timeline or database is not the one that the warehouse's checkpoint is of."""


class SlotInUseError(ReplicationError):
    """Another session reads the slot or runs this pipeline."""

    retryable = True


class ConnectionLostError(ReplicationError):
    """The source can't be reached, or the connection broke."""

    retryable = True


class SourceBusyError(ReplicationError):
    """The source lacks something for now: a connection, memory, or a lock that others hold."""

    retryable = True


class SourceSilentError(ConnectionLostError):
    """A connection to the source stays up and delivers nothing."""


class TableError(CdcError):
    """One table can't be replicated any further; the others can.

    Args:
        message: What is wrong.
        table: The source table as the config names it.
        lsn: end_lsn of the transaction that could not be applied, as `16/B374D848`, or empty.
        hint: What the reader can do about it.
        many: What to say of several tables with this problem, behind their number: "are not …".
    """

    def __init__(
        self, message: str, *, table: str, lsn: str = "", hint: str = "", many: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.table = table
        self.lsn = lsn
        self.many = many


class SchemaChangeError(TableError):
    """The source's table is no longer the one of which the warehouse has rows.

    Args:
        message: What is wrong.
        table: The source table as the config names it.
        lsn: end_lsn of the transaction that could not be applied, as `16/B374D848`, or empty.
        hint: What the reader can do about it.
        what: What is other than before, where the message says more than that.
        cause: `altered`: its columns, its key, its rows or how it is published; `partitioned`: what
            is below it; `recreated`: it is another table of the same name; `config`: what the
            config makes of it.
    """

    def __init__(
        self,
        message: str,
        *,
        table: str,
        lsn: str = "",
        hint: str = "",
        what: str = "",
        cause: Literal["altered", "partitioned", "recreated", "config"] = "altered",
    ) -> None:
        super().__init__(message, table=table, lsn=lsn, hint=hint)
        self.what = what
        self.cause = cause


class TransformError(TableError):
    """The function that the table's rows go through fails, or gives what can't be kept."""


class ReplicaIdentityError(TableError):
    """A change does not say which row it is about."""


class ValueConversionError(TableError):
    """A value does not fit the warehouse column's type.

    Args:
        message: What is wrong.
        table: The source table as the config names it.
        lsn: end_lsn of the transaction that could not be applied, as `16/B374D848`, or empty.
        hint: What the reader can do about it.
        attnum: Of the source's column, where text could keep its values.
    """

    def __init__(
        self, message: str, *, table: str, lsn: str = "", hint: str = "", attnum: int = 0
    ) -> None:
        super().__init__(message, table=table, lsn=lsn, hint=hint)
        self.attnum = attnum


class WarehouseError(CdcError):
    """The warehouse refused something, or its state is not what it must be."""


class WarehouseBusyError(WarehouseError):
    """Another process holds the warehouse; not to be tried again at once where it was waited for.

    Args:
        message: What happened.
        holder: Who holds it, as far as DuckDB says so.
        waited_seconds: How long it was waited for already.
        hint: What the reader can do about it.
    """

    def __init__(
        self, message: str, *, holder: str = "", waited_seconds: float = 0, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.holder = holder
        self.retryable = not waited_seconds


class MirrorRefusedError(WarehouseError):
    """One mirror does not take what the source has; the others may."""


class WrongWarehouseError(WarehouseError):
    """The slot serves another warehouse than the one that the config names."""


class WarehouseMemoryError(WarehouseError):
    """The warehouse needs more memory than its limit.

    Args:
        message: What happened.
        next_bytes: The limit to try next, or None when it is at the most that is allowed.
        hint: What the reader can do about it.
    """

    def __init__(self, message: str, *, next_bytes: int | None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.next_bytes = next_bytes


class CheckpointConflictError(WarehouseError):
    """The warehouse belongs to another pipeline, or another run moved its checkpoint."""
