"""A table of documents that is written at random, and what it showed after every commit."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import psycopg

from cdc_assets.identifiers import TableName
from cdc_assets_tests.database import ScratchDatabase

DOCS = TableName("public", "docs")
KEYS = 60
Row = dict[str, Any]

_TABLE = """
CREATE TABLE docs (id int PRIMARY KEY, state text, owner text, amount int, body text);
ALTER TABLE docs ALTER body SET STORAGE EXTERNAL;
INSERT INTO docs SELECT n, (ARRAY['draft', 'open', 'final'])[1 + n % 3], 'owner ' || n % 7, n,
    CASE WHEN n % 2 = 0 THEN repeat(chr(65 + n % 26), 2500) ELSE 'short' END
FROM generate_series(1, 40) n;
"""
# with their weights; %k and %o are keys, %v is a number
_STATEMENTS = {
    "INSERT INTO docs (id, state, owner, amount, body) VALUES (%k, 'open', 'new', %v,"
    " repeat(chr(97 + %v % 26), 2500)) ON CONFLICT DO NOTHING": 6,
    "INSERT INTO docs (id, state, amount) VALUES (%k, 'draft', %v) ON CONFLICT (id)"
    " DO UPDATE SET amount = excluded.amount": 3,
    "UPDATE docs SET amount = %v WHERE id = %k": 4,
    "UPDATE docs SET state = (ARRAY['draft', 'open', 'final'])[1 + %v % 3] WHERE id = %k": 5,
    "UPDATE docs SET state = 'open' WHERE id BETWEEN %k AND %k + 9": 2,
    "UPDATE docs SET amount = NULL WHERE id = %k": 1,
    "UPDATE docs SET owner = owner WHERE id BETWEEN %k AND %k + 5": 1,
    "UPDATE docs SET body = repeat(chr(65 + %v % 26), 2500), amount = %v WHERE id = %k": 2,
    "UPDATE docs SET body = NULL WHERE id = %k": 1,
    "UPDATE docs SET id = %o WHERE id = %k AND NOT EXISTS (SELECT FROM docs WHERE id = %o)": 5,
    "UPDATE docs SET id = %o, amount = %v"
    " WHERE id = %k AND NOT EXISTS (SELECT FROM docs WHERE id = %o)": 2,
    "UPDATE docs SET id = -id WHERE id BETWEEN %k AND %k + 3;"
    " UPDATE docs SET id = -id WHERE id < 0": 1,
    "DELETE FROM docs WHERE id = %k": 3,
    "DELETE FROM docs WHERE id = %k;"
    " INSERT INTO docs (id, state, amount) VALUES (%k, 'open', %v)": 2,
    "TRUNCATE docs; INSERT INTO docs SELECT n, 'open', 'anew', n, repeat('t', 2500)"
    " FROM generate_series(1, 20) n": 0.3,
    "TRUNCATE docs": 0.1,
}


class Documents:
    """The table, its one writer, and its rows as of every LSN that it was looked at.

    Args:
        database: Where the table is made.
        connection: The writer's.
        pick: What is written.

    Attributes:
        states: LSNs with the rows as of then, in their order.
    """

    def __init__(
        self, database: ScratchDatabase, connection: psycopg.Connection, pick: random.Random
    ) -> None:
        database.execute(_TABLE)
        connection.execute("SET lock_timeout = '20ms'")  # a run may read the table
        self._connection, self._pick = connection, pick
        self.states: list[tuple[int, list[Row]]] = []
        self.note()

    def note(self) -> None:
        """Note what the table shows now."""
        with self._connection.cursor(row_factory=psycopg.rows.dict_row) as cursor:
            rows = cursor.execute("SELECT * FROM docs").fetchall()
        sql = "SELECT pg_current_wal_insert_lsn() - '0/0'"
        ((lsn,),) = self._connection.execute(sql).fetchall()
        self.states.append((int(lsn), rows))

    def write(self, transactions: int = 1) -> None:
        """Commit transactions, of which some fail or roll a part of them back."""
        for _ in range(transactions):
            statements = [self._statement() for _ in range(self._pick.choice((1, 1, 2, 4)))]
            with (
                suppress(psycopg.errors.UniqueViolation, psycopg.errors.LockNotAvailable),
                self._connection.transaction(),
            ):
                for sql in statements:
                    self._connection.execute(sql)
                if self._pick.random() < 0.1:
                    with self._connection.transaction(force_rollback=True):
                        self._connection.execute(self._statement())
            self.note()

    def _statement(self) -> str:
        sql = self._pick.choices(list(_STATEMENTS), weights=list(_STATEMENTS.values()))[0]
        for mark, end in (("%k", KEYS), ("%o", KEYS), ("%v", 100)):
            sql = sql.replace(mark, str(self._pick.randrange(1, end)))
        return sql

    def add_column(self, name: str) -> None:
        """Add a column, which is null in all rows, those of before as well."""
        self._connection.execute(f"ALTER TABLE docs ADD {name} int")
        for _, rows in self.states:
            for row in rows:
                row[name] = None
        self.note()
