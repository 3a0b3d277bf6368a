"""Three tables that hold all that is hard about rows, and random transactions on them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from threading import Event, Thread
from typing import Self

import psycopg

from cdc_assets_tests.database import ScratchDatabase

TABLES = ("public.accounts", "public.Notes", "public.lines")
_TABLES_SQL = """
CREATE TABLE accounts (
    id int PRIMARY KEY, owner text NOT NULL, balance numeric(20, 4), body text
);
ALTER TABLE accounts ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE TABLE "Notes" ("Key" text PRIMARY KEY, "Body" text, "At" timestamptz NOT NULL);
ALTER TABLE "Notes" ALTER COLUMN "Body" SET STORAGE EXTERNAL;
CREATE TABLE lines (account int, line smallint, amount bigint, PRIMARY KEY (account, line));
"""
KEYS = 400  # keys are drawn from [0, KEYS), so writers meet
# Between transactions of a running writer: with more of them every run would take longer, and so
# find still more
PACE_SECONDS = 0.01


def create_ledger(database: ScratchDatabase, *, rows: int = 300) -> None:
    """Create the tables with `rows` rows each; every third has a text that is stored apart."""
    database.execute(_TABLES_SQL)
    database.execute(
        f"""
        INSERT INTO accounts SELECT n, 'owner ' || n, n / 7.0,
            CASE WHEN n % 3 = 0 THEN repeat(md5(n::text), 90) END
        FROM generate_series(0, {rows - 1}) AS n;
        INSERT INTO "Notes" SELECT 'k' || lpad(n::text, 4, '0'),
            CASE WHEN n % 3 = 0 THEN repeat(md5('n' || n), 90) ELSE 'short' END,
            '2024-01-01'::timestamptz + n * interval '1 hour'
        FROM generate_series(0, {rows - 1}) AS n;
        INSERT INTO lines SELECT n / 5, n % 5, n * 1000
        FROM generate_series(0, {rows - 1}) AS n
        """
    )


class Writer:
    """Random transactions of one session, the same for the same seed on the same rows."""

    def __init__(self, database: ScratchDatabase, seed: int) -> None:
        self._database, self._random = database, random.Random(seed)

    def commit(self, transactions: int) -> None:
        """Commit some transactions."""
        with self._database.connect() as connection:
            for _ in range(transactions):
                self._transaction(connection)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Commit transaction after transaction while the block runs."""
        stop, failures = Event(), list[BaseException]()

        def run() -> None:
            try:
                with self._database.connect() as connection:
                    while not stop.wait(PACE_SECONDS):
                        self._transaction(connection)
            except BaseException as error:
                failures.append(error)

        thread = Thread(target=run, name="writer")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        if failures:
            raise failures[0]

    def _transaction(self, connection: psycopg.Connection) -> None:
        try:
            with connection.transaction():
                for _ in range(self._random.choice((1, 1, 2, 5, 30))):
                    self._statement(connection)
                if self._random.random() < 0.2:
                    with connection.transaction(force_rollback=True):
                        self._statement(connection)
        except (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
            return  # another writer was there first: undone, and so not to be seen anywhere

    def _statement(self, connection: psycopg.Connection) -> None:
        _write(connection, self._random)


class Overlapping:
    """Sessions whose transactions overlap; each statement comes at a moment that a test chooses.

    All come from one thread: who would have to wait for another session rolls back.
    """

    def __init__(self, database: ScratchDatabase, seed: int, *, sessions: int) -> None:
        self._database, self._random, self._count = database, random.Random(seed), sessions

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._connections = [
                stack.enter_context(closing(self._database.connect())) for _ in range(self._count)
            ]
            for connection in self._connections:
                connection.execute("SET lock_timeout = '5ms'")
                connection.autocommit = False
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self.end()

    def go_on(self, statements: int) -> None:
        """Have sessions chosen by chance do something: write, set a savepoint, go back, commit."""
        pick = self._random
        for _ in range(statements):
            at = pick.randrange(self._count)
            connection = self._connections[at]
            try:
                act = pick.choices(("write", "save", "back", "commit"), (12, 2, 2, 6 - at))[0]
                if act == "write":
                    _write(connection, pick)
                elif act == "commit":
                    connection.commit()
                elif act == "save":
                    connection.execute("SAVEPOINT a")
                else:
                    connection.execute("SAVEPOINT b")
                    _write(connection, pick)
                    connection.execute("ROLLBACK TO b")
            except (psycopg.errors.LockNotAvailable, psycopg.errors.UniqueViolation):
                connection.rollback()

    def end(self) -> None:
        """Commit whatever is open."""
        for connection in self._connections:
            connection.commit()


def _write(connection: psycopg.Connection, pick: random.Random) -> None:
    statement = pick.choices(list(_STATEMENTS), weights=list(_STATEMENTS.values()))[0]
    key, other = pick.randrange(KEYS), pick.randrange(KEYS)
    values = {"key": key, "other": other, "value": pick.randrange(10**9), "line": key % 5}
    connection.execute(statement, values)  # type: ignore[call-overload]


_STATEMENTS = {
    """INSERT INTO accounts VALUES (%(key)s, 'new', %(value)s / 3.0,
       repeat(md5(%(value)s::text), 90)) ON CONFLICT (id) DO NOTHING""": 4,
    "UPDATE accounts SET balance = balance + 1 WHERE id = %(key)s": 6,
    """UPDATE accounts SET body = repeat(md5(%(value)s::text), 90), owner = 'changed'
       WHERE id = %(key)s""": 2,
    "UPDATE accounts SET body = NULL WHERE id = %(key)s": 1,
    "UPDATE accounts SET balance = %(value)s WHERE id BETWEEN %(key)s AND %(key)s + 40": 1,
    """UPDATE accounts SET id = %(other)s WHERE id = %(key)s
       AND NOT EXISTS (SELECT FROM accounts WHERE id = %(other)s)""": 4,
    "DELETE FROM accounts WHERE id = %(key)s": 2,
    """INSERT INTO "Notes" VALUES ('k' || lpad(%(key)s::text, 4, '0'), 'written', now())
       ON CONFLICT ("Key") DO UPDATE SET "At" = now()""": 5,
    """UPDATE "Notes" SET "Key" = 'k' || lpad(%(other)s::text, 4, '0')
       WHERE "Key" = 'k' || lpad(%(key)s::text, 4, '0') AND NOT EXISTS
       (SELECT FROM "Notes" WHERE "Key" = 'k' || lpad(%(other)s::text, 4, '0'))""": 3,
    """DELETE FROM "Notes" WHERE "Key" = 'k' || lpad(%(key)s::text, 4, '0')""": 1,
    """INSERT INTO lines VALUES (%(key)s, %(line)s, %(value)s)
       ON CONFLICT (account, line) DO UPDATE SET amount = excluded.amount""": 4,
    "DELETE FROM lines WHERE account = %(key)s": 2,
    "UPDATE lines SET line = 6 + line WHERE account = %(key)s AND line < 5": 1,
}
