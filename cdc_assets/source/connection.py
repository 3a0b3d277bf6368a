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
    ReplicationError,
    SourceBusyError,
    SourceSilentError,
    TableError,
)
from cdc_assets.identifiers import TableName
from cdc_assets.source.liveness import PROBE_SECONDS, Silence, attended, end_backend
from cdc_assets.source.refusals import (
    About,
    connection_refusal,
    first_line,
    is_too_long,
    lack_of_resources,
    place,
    source_error,
)

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
        # a superuser's alone to set; what a message says is read by people only
        "(SELECT pg_catalog.set_config('lc_messages', 'C', false)"
        " WHERE pg_catalog.current_setting('is_superuser') = 'on')",
    ]
)
IN_USE_TIMEOUT_SECONDS = 5.0
LOCK_TIMEOUT_SECONDS = 10.0
_BROKEN = (psycopg.OperationalError, adbc_driver_manager.OperationalError)


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
            answer = super().wait(attended(gen, silence.goes_on), *args, **kwargs)
        except SourceSilentError:
            self._end()
            raise
        except psycopg.errors.LockNotAvailable as error:
            by = f" that pid {silence.holders[0]} holds" if silence.holders else ""
            raise SourceBusyError(
                f"the source at {place(self._conninfo)} keeps us waiting for a lock{by}",
                hint="let that transaction end, or end it with pg_terminate_backend",
            ) from error
        except psycopg.errors.UndefinedFile:
            raise  # a library that is lacking: who asks for it knows what to do without
        except psycopg.Error as error:
            lack = lack_of_resources(error.sqlstate, str(error), place(self._conninfo))
            if lack is None:
                raise
            raise lack from error
        except (Exception, KeyboardInterrupt, SystemExit):
            raise  # psycopg has cancelled the statement
        except BaseException:  # an interruption of Dagster's, which psycopg does not know
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=PROBE_SECONDS)
            self.close()
            raise
        silence.ended()
        return answer

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
        needs_password = error.pgconn is not None and error.pgconn.needs_password
        raise connection_refusal(conninfo, str(error), needs_password=needs_password) from None
    connection.attend(conninfo)
    return connection


@contextmanager
def translated(slot: str, *, about: About = "") -> Iterator[None]:
    """Turn a driver's errors inside the block into this package's, by SQLSTATE.

    Args:
        slot: The pipeline's.
        about: Whether the block's statements are about the slot, or decode what is on it.

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
        raise source_error(state, str(error), slot, about) from error


@contextmanager
def table_errors(table: TableName) -> Iterator[None]:
    """Blame a table for a query on it that the server does not understand, allow or compute.

    Raises:
        TableError: SQLSTATE class 42 (syntax, access), 22 (data), 23 (a domain's check) or P0 (a
            type's own function), the message of all but the first quotes data; or a row is too
            long.
    """
    try:
        yield
    except Exception as error:
        state = getattr(error, "sqlstate", None) or ""
        if is_too_long(state, str(error)):
            raise TableError(
                f"table {str(table)!r} has a row that is longer than the 1 GB that Postgres can "
                f"give out ({state})",
                table=str(table),
                hint="leave its longest columns out with columns.exclude, or shorten the values",
            ) from error
        if state[:2] not in ("22", "23", "42", "P0"):
            raise
        if state == "42P01":  # undefined_table: nothing else is read by name
            raise TableError(
                f"table {str(table)!r} was dropped or renamed while it was read",
                table=str(table),
                hint="run 'cdc-assets check', which says what became of it",
            ) from error
        reason = first_line(error) if state.startswith("42") else "a value is not understood"
        raise TableError(
            f"table {str(table)!r} can't be read ({state}): {reason}",
            table=str(table),
            hint="run 'cdc-assets check', which finds rights that are lacking: a copy needs SELECT "
            "on the whole table, and USAGE on the schemas of its key's types",
        ) from error


@contextmanager
def bounded_locks(connection: Connection, seconds: float | None = None) -> Iterator[None]:
    """Inside the block, wait for a lock that others hold for a while at the most.

    Args:
        connection: The session.
        seconds: How long; `LOCK_TIMEOUT_SECONDS` by default.

    Raises:
        SourceBusyError: They hold it for longer; says who.
    """
    swap = "SELECT current_setting('lock_timeout'), set_config('lock_timeout', %s, false)"
    before, _ = fetch_one(
        connection, swap, (f"{LOCK_TIMEOUT_SECONDS if seconds is None else seconds}s",)
    )
    try:
        yield
    finally:
        if not connection.closed:
            connection.execute(swap, (before,))


def fetch_one(connection: Connection, sql: str, parameters: Any = ()) -> TupleRow:
    """Run a query that always has a row, and give it."""
    row = connection.execute(sql, parameters).fetchone()
    if row is None:
        raise ReplicationError(f"expected a row from: {sql}")
    return row
