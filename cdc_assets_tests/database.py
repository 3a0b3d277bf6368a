"""A database of its own for one test."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, LiteralString, cast

import psycopg

from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.identifiers import quote

_SLOTS = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s"


@dataclass(frozen=True, slots=True)
class ScratchDatabase:
    """A fresh database on the session's server."""

    server: EmbeddedPostgres
    name: str

    @property
    def dsn(self) -> str:
        """Connection string of the superuser."""
        return self.server.dsn(self.name)

    def connect(self) -> psycopg.Connection:
        """Open a connection in autocommit mode; the caller closes it."""
        return psycopg.connect(self.dsn, autocommit=True)

    def execute(self, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """Run one or more statements in a connection of their own; rows of the last, if any.

        Several statements in one text without parameters are one transaction.
        """
        with closing(self.connect()) as connection:
            cursor = connection.execute(cast("LiteralString", sql), parameters)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def create(self) -> None:
        """Create it."""
        _as_admin(self.server, f"CREATE DATABASE {quote(self.name)}")

    def drop(self) -> None:
        """Drop its slots, whoever uses them, and then the database itself."""
        with closing(psycopg.connect(self.server.dsn(), autocommit=True)) as admin:
            while slots := admin.execute(_SLOTS, [self.name]).fetchall():
                for slot, active_pid in slots:
                    _drop_slot(admin, slot, active_pid)
        _as_admin(self.server, f"DROP DATABASE IF EXISTS {quote(self.name)} WITH (FORCE)")


def _drop_slot(admin: psycopg.Connection, slot: str, active_pid: int | None) -> None:
    if active_pid is not None:
        admin.execute("SELECT pg_terminate_backend(%s, 10000)", [active_pid])
    # Taken again, or temporary and gone with its session: the caller looks again
    with suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
        admin.execute("SELECT pg_drop_replication_slot(%s)", [slot])


def _as_admin(server: EmbeddedPostgres, sql: str) -> None:
    with closing(psycopg.connect(server.dsn(), autocommit=True)) as admin:
        admin.execute(cast("LiteralString", sql))
