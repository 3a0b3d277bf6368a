"""What the source's refusals mean, by SQLSTATE and by what was asked: never by a message's words.

A server speaks the language of its `lc_messages`. Only what no code tells is told from the
statement that was refused; a message's first line is shown, and means nothing here.
"""

from __future__ import annotations

import ctypes
import re
import select
import sys
import time
from typing import Any, Literal

from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from cdc_assets.errors import (
    CdcError,
    ConnectionLostError,
    PreflightError,
    ReplicationError,
    SlotInUseError,
    SlotInvalidatedError,
    SlotNotFoundError,
    SourceBusyError,
)
from cdc_assets.identifiers import quote

About = Literal["", "slot", "decoding"]

ALL_ANEW = "cdc-assets resync"
NO_SLOT = f"before the first sync: cdc-assets setup; where it was there before: {ALL_ANEW}"
_CONNECT_SECONDS = 10.0
_SQLSTATE_ONLY = 3  # PQERRORS_SQLSTATE
_SQLSTATE = re.compile(rb"\b([0-9A-Z]{5})\s*$")
_GRANTS = (
    "'cdc-assets sql role' prints what a run needs, for an administrator; the publication is its "
    "tables' owner's to make and to drop: 'cdc-assets sql publication'"
)
_NOTHING_LOST = "nothing is lost: the next run goes on from the checkpoint"


def place(conninfo: str) -> str:
    """Say where a source is: host, port and database, and nothing secret."""
    given = conninfo_to_dict(conninfo)
    host = given.get("host") or given.get("hostaddr") or "localhost"
    port, database = given.get("port") or 5432, given.get("dbname") or given.get("user") or ""
    return f"{host}:{port}/{database}"


def first_line(error: object) -> str:
    """Give the first line of a server's message: those behind it quote the statement or a key."""
    return " ".join(str(error).strip().partition("\n")[0].split())


def connection_refusal(conninfo: str, text: str, *, needs_password: bool = False) -> CdcError:
    """Name why no session could be opened."""
    state, reason = _connection_sqlstate(conninfo), " ".join(text.split())
    if needs_password or (state is not None and state[:2] not in ("08", "53", "57", "58", "XX")):
        return PreflightError(
            f"the source refuses the connection: {reason}",
            hint=_connect_grant(conninfo)
            if state == "42501"
            else "correct user, password or database in source.dsn, or the server's pg_hba.conf",
        )
    if state is not None and (lack := lack_of_resources(state, reason, place(conninfo))):
        return lack
    return ConnectionLostError(
        f"the source can't be reached: {reason}",
        hint="check that the server runs and that host and port in source.dsn are right",
    )


def _connect_grant(conninfo: str) -> str:
    given = conninfo_to_dict(conninfo)
    user = str(given.get("user") or "")
    database, role = quote(str(given.get("dbname") or user)), quote(user)
    return f"as the database's owner: GRANT CONNECT ON DATABASE {database} TO {role}"


def _connection_sqlstate(conninfo: str) -> str | None:
    """Ask for the SQLSTATE of a connection that the server refuses; None where it gives none.

    libpq keeps no code of a failed connection, but prints it instead of the message where it is
    told so between the start and the end of connecting. psycopg can't tell it, the library can.
    """
    try:
        libpq = ctypes.CDLL(sys.modules[pq.PGconn.__module__].__file__)
        set_verbosity = libpq.PQsetErrorVerbosity
    except (OSError, AttributeError):  # another build of psycopg
        return None
    connection: Any = pq.PGconn.connect_start(conninfo.encode())
    try:
        if connection.status == pq.ConnStatus.BAD:  # no such host
            return None
        set_verbosity(ctypes.c_void_p(connection.pgconn_ptr), _SQLSTATE_ONLY)
        if not _fails(connection):
            return None
        found = _SQLSTATE.search(connection.error_message)
        return found[1].decode() if found else None
    finally:
        connection.finish()


def _fails(connection: Any) -> bool:
    deadline = time.monotonic() + _CONNECT_SECONDS
    status: int = pq.PollingStatus.WRITING
    while status not in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        reads = [connection.socket] if status == pq.PollingStatus.READING else []
        writes = [connection.socket] if status == pq.PollingStatus.WRITING else []
        select.select(reads, writes, [], remaining)
        status = connection.connect_poll()
    return status == pq.PollingStatus.FAILED


def lack_of_resources(state: str | None, text: str, where: str) -> CdcError | None:
    """Name what the source at `where` lacks, or that it has gone; None for any other refusal."""
    reason = first_line(text)
    match state:
        case "53100":
            return ReplicationError(
                f"the disk of the source at {where} is full: {reason}",
                hint="make room on the source: decoding needs some for temporary files",
            )
        case "53200":
            return SourceBusyError(
                f"the source at {where} is out of memory: {reason}",
                hint="lower its work_mem or logical_decoding_work_mem, or give it more memory",
            )
        case "53300":
            return SourceBusyError(
                f"the source at {where} has no connection to spare: {reason}",
                hint="a run needs three: raise max_connections, or the limit of the role or the "
                "database",
            )
        case "57P01" | "57P02" | "57P03" | "57P05" | "08000" | "08003" | "08006" | "25P03":
            return ConnectionLostError(
                f"the connection to the source at {where} broke: {reason}", hint=_NOTHING_LOST
            )
        case "58000" | "58030" | "58P01" | "XX001" | "XX002":
            return ReplicationError(
                f"the source at {where} can't read or write its files ({state}): {reason}",
                hint="look at the source's disk and its log",
            )
    return None


def is_too_long(state: str | None, text: str) -> bool:
    """Whether the server refuses to put a row or a value together that takes more than 1 GB.

    A buffer's limit has a code of its own, an allocation's has only its message, never translated.
    """
    return state == "54000" or (state == "XX000" and "memory alloc request size" in text)


def source_error(state: str | None, text: str, slot: str, about: About) -> CdcError:
    """Name what an SQLSTATE means for a run on `slot`.

    Args:
        state: The code; None where the connection broke.
        text: The server's message.
        slot: The pipeline's.
        about: Whether the statement was about the slot itself, or decodes what is on it.
    """
    reason = first_line(text)
    match state:
        case None:
            return ConnectionLostError(
                f"the connection to the source broke: {reason}", hint=_NOTHING_LOST
            )
        case "55006":  # object_in_use
            return SlotInUseError(
                f"slot {slot!r} is in use: {reason}",
                hint="let the other reader finish, or end it with pg_terminate_backend",
            )
        case "42704" if about == "slot":
            return SlotNotFoundError(f"slot {slot!r} does not exist", hint=NO_SLOT)
        case "42704" if about == "decoding":
            return PreflightError(
                f"{reason}, or did not exist yet when a change on the slot was made",
                hint="the slot began before the publication, make both anew: "
                f"SELECT pg_drop_replication_slot('{slot}'); {ALL_ANEW}",
            )
        case "54000" | "XX000" if about == "decoding" and is_too_long(state, text):
            return ReplicationError(
                f"a change on slot {slot!r} is longer than the 1 GB that Postgres can give out "
                f"({state})",
                hint="nothing behind it can be read; bytea takes twice its size. Leave the column "
                "out where it is written, with columns.exclude and source.push_down: true, and run "
                "'cdc-assets setup'; then begin behind that change: "
                f"SELECT pg_drop_replication_slot('{slot}'); {ALL_ANEW}",
            )
        case "55000" if about:
            return invalidated(slot, reason)
        case "53400" if about == "slot":
            return PreflightError(
                "all replication slots of the source are in use",
                hint="a run needs one spare slot: raise max_replication_slots",
            )
        case "42501":
            return PreflightError(f"the source's role lacks a privilege: {reason}", hint=_GRANTS)
    if state.startswith("22"):  # data exceptions quote the data
        reason = "it can't read or write a value"
    return ReplicationError(f"the source refused a statement ({state}): {reason}")


def invalidated(slot: str, reason: str) -> SlotInvalidatedError:
    """Say that a slot lost the WAL that it needed."""
    return SlotInvalidatedError(
        f"slot {slot!r} was invalidated: {reason}",
        hint="changes are gone; raise max_slot_wal_keep_size and copy every table anew: "
        f"{ALL_ANEW}",
    )
