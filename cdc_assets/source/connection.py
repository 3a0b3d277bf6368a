"""Sessions on the source, with every setting pinned that shapes a value's text."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, TypeVar

import adbc_driver_manager
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from cdc_assets.errors import (
    CdcError,
    ConfigError,
    ConnectionLostError,
    PreflightError,
    ReplicationError,
    SlotInUseError,
    SlotInvalidatedError,
    SlotNotFoundError,
    SourceSilentError,
    TableError,
)
from cdc_assets.identifiers import TableName
from cdc_assets.source.liveness import PROBE_SECONDS, Silence, attended, end_backend

Connection = psycopg.Connection[TupleRow]
T = TypeVar("T")

# Defaults of the database or the role would leak into the decoded text otherwise.
_PINNED = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
    "client_encoding": "UTF8",
    "search_path": "pg_catalog",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "default_transaction_read_only": "off",
    "row_security": "off",  # a policy that would hide rows from the copy is an error instead
    "default_transaction_isolation": "read committed",
}
_PINNED_IF_KNOWN = ("transaction_timeout",)  # from Postgres 17 on
PIN_SETTINGS = "SELECT " + ", ".join(
    [
        *(f"pg_catalog.set_config('{name}', '{value}', false)" for name, value in _PINNED.items()),
        *(
            "(SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings"
            f" WHERE name = '{name}')"
            for name in _PINNED_IF_KNOWN
        ),
    ]
)
IN_USE_TIMEOUT_SECONDS = 5.0
LOCK_TIMEOUT_SECONDS = 10.0
ALL_ANEW = "cdc-assets teardown --drop-tables --yes; cdc-assets setup; cdc-assets sync"
_BROKEN = (psycopg.OperationalError, adbc_driver_manager.OperationalError)
_ACCESS_FAULTS = (
    "authentication failed",
    "does not exist",
    "no pg_hba.conf entry",
    "not permitted",
)


def complete_conninfo(conninfo: str, *, application: str) -> str:
    """Add what a long-lived session needs and the DSN does not say.

    Raises:
        ConfigError: The DSN is not a libpq connection string. The text is not shown: it may hold a
            password.
    """
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        given = {}
    if not given or ("://" in conninfo and conninfo.partition("?")[0].count("@") > 1):
        raise ConfigError(
            "source.dsn is not a libpq connection string",
            hint="for example postgresql://user:password@host:5432/database; a password in a URI "
            "needs its special characters percent-encoded",
        ) from None
    defaults = {
        "application_name": application,
        "connect_timeout": "10",
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
        "tcp_user_timeout": "60000",
    }
    # ADBC reads the catalog as it connects, and misreads it where every name comes quoted
    options = f"{given.pop('options', '')} -c quote_all_identifiers=off".strip()
    return make_conninfo("", **{**defaults, **given, "options": options})


class _AttendedConnection(psycopg.Connection[TupleRow]):
    """A session whose statements wait for the source as long as it is there, and no longer."""

    _conninfo = ""
    _pid: int | None = None

    def attend(self, conninfo: str) -> None:
        """Pin the session's settings, and learn how to look after it."""
        self._conninfo, self._pid = conninfo, self.info.backend_pid
        self.execute(PIN_SETTINGS)
        (self._pid,) = fetch_one(self, "SELECT pg_backend_pid()")  # a pooler shows another first

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **kwargs: Any) -> T:
        """Drive a statement to its end.

        Raises:
            SourceSilentError: The source is not there any more.
        """
        silence = Silence(self._conninfo, self._pid, "the source to answer a statement")
        try:
            return super().wait(attended(gen, silence.goes_on), *args, **kwargs)
        except SourceSilentError:
            self._end()
            raise
        except (Exception, KeyboardInterrupt, SystemExit):
            raise  # psycopg has cancelled the statement
        except BaseException:  # an interruption of Dagster's, which psycopg does not know
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=PROBE_SECONDS)
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, SourceSilentError) and not self.closed:
            self._end()
        super().__exit__(kind, error, trace)

    def _end(self) -> None:
        """Leave a connection that delivers nothing; its backend would keep the pipeline's lock."""
        self.close()
        end_backend(self._conninfo, self._pid)


def connect(conninfo: str) -> Connection:
    """Open a pinned autocommit session.

    Raises:
        PreflightError: The server refuses the role, the password or the database.
        ConnectionLostError: The server is not reachable.
    """
    try:
        connection = _AttendedConnection.connect(conninfo, autocommit=True, prepare_threshold=None)
    except psycopg.OperationalError as error:
        raise _connect_error(str(error)) from None
    connection.attend(conninfo)
    return connection


def _connect_error(text: str) -> CdcError:
    reason = " ".join(text.replace("\n", " ").split())
    if any(fault in text for fault in _ACCESS_FAULTS):
        return PreflightError(
            f"the source refuses the connection: {reason}",
            hint="correct user, password or database in source.dsn, or the server's pg_hba.conf",
        )
    return ConnectionLostError(
        f"the source can't be reached: {reason}",
        hint="check that the server runs and that host and port in source.dsn are right",
    )


@contextmanager
def translated(slot: str) -> Iterator[None]:
    """Turn a driver's errors inside the block into this package's, by SQLSTATE.

    Raises:
        CdcError: A subclass that says what to do.
    """
    try:
        yield
    except CdcError:
        raise
    except Exception as error:
        state = getattr(error, "sqlstate", None)
        if state is None and not isinstance(error, _BROKEN):
            raise
        raise source_error(state, str(error), slot) from error


def first_line(error: object) -> str:
    """Give the first line of a server's message: those behind it quote the statement or a key."""
    return " ".join(str(error).strip().partition("\n")[0].split())


def source_error(state: str | None, text: str, slot: str) -> CdcError:
    """Name what an SQLSTATE means for a run on `slot`."""
    reason = first_line(text)
    match state:
        case "55006":  # object_in_use
            return SlotInUseError(
                f"slot {slot!r} is in use: {reason}",
                hint="let the other reader finish, or end it with pg_terminate_backend",
            )
        case "42704" if "replication slot" in text:
            return SlotNotFoundError(
                f"slot {slot!r} does not exist", hint="run 'cdc-assets setup' to create it"
            )
        case "42704" if "publication" in text:
            return PreflightError(
                f"{reason}, or did not exist yet when a change on the slot was made",
                hint="create the publication before the slot, and copy every table anew: "
                f"{ALL_ANEW}",
            )
        case "55000" if "replication slot" in text:
            return invalidated(slot, reason)
        case "53400" if "replication slots" in text:
            return PreflightError(
                "all replication slots of the source are in use",
                hint="a run needs one spare slot: raise max_replication_slots",
            )
        case "42501":
            return PreflightError(f"the source's role lacks a privilege: {reason}", hint=_GRANTS)
        case None | "57P01" | "57P02" | "57P03" | "08000" | "08003" | "08006" | "25P03":
            return ConnectionLostError(
                f"the connection to the source broke: {reason}",
                hint="nothing is lost: the next run goes on from the checkpoint",
            )
    if state.startswith("22"):  # data exceptions quote the data
        reason = "it can't read or write a value"
    return ReplicationError(f"the source refused a statement ({state}): {reason}")


_GRANTS = (
    "'cdc-assets sql role' prints what a run needs, for an administrator; the publication is its "
    "tables' owner's to make and to drop: 'cdc-assets sql publication'"
)


def invalidated(slot: str, reason: str) -> SlotInvalidatedError:
    """Say that a slot lost the WAL that it needed."""
    return SlotInvalidatedError(
        f"slot {slot!r} was invalidated: {reason}",
        hint="changes are gone; raise max_slot_wal_keep_size and copy every table anew: "
        f"{ALL_ANEW}",
    )


@contextmanager
def table_errors(table: TableName) -> Iterator[None]:
    """Blame a table for a query on it that the server does not understand, allow or compute.

    Raises:
        TableError: SQLSTATE class 42 (syntax, access), 22 (data), 23 (a domain's check) or P0 (a
            type's own function); the message of all but the first quotes data.
    """
    try:
        yield
    except Exception as error:
        state = getattr(error, "sqlstate", None) or ""
        if state[:2] not in ("22", "23", "42", "P0"):
            raise
        reason = first_line(error) if state.startswith("42") else "a value is not understood"
        raise TableError(
            f"table {str(table)!r} can't be read ({state}): {reason}",
            table=str(table),
            hint="a copy needs SELECT on the whole table, no row-level policy that hides rows, and "
            "a key that the operators of pg_catalog can order",
        ) from error


def fetch_one(connection: Connection, sql: str, parameters: Any = ()) -> TupleRow:
    """Run a query that always has a row, and give it."""
    row = connection.execute(sql, parameters).fetchone()
    if row is None:
        raise ReplicationError(f"expected a row from: {sql}")
    return row
