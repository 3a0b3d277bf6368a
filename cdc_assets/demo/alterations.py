"""How the shop's owner alters a table under its customers, one step after the other.

Each step is an alteration that the warehouse follows in place. Which one is next is told by the
columns that are there, so a shop that rested goes on where it was. No action names these columns.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass

import psycopg


@dataclass(frozen=True, slots=True)
class _Step:
    """An alteration of `public.products`.

    Attributes:
        at: The declared column by which one knows that it is next; empty for the first.
        ddl: What is altered.
        then: What an update sets behind it.
    """

    at: str
    ddl: str
    then: str


# The last one first, as columns of earlier ones are there still
_STEPS = (
    _Step("supplier character varying(60)", "DROP score, DROP supplier", "stock = stock + 1"),
    _Step(
        "supplier character varying(20)",
        "ALTER supplier TYPE varchar(60)",
        "supplier = 'a supplier with a name that is longer than before'",
    ),
    _Step(
        "score numeric(8,2)",
        "ADD supplier varchar(20) DEFAULT 'unknown'",
        "supplier = 'Päckchen & Co'",
    ),
    _Step("score numeric(4,2)", "ALTER score TYPE numeric(8,2)", "score = score + 1000.25"),
    _Step("rating numeric(4,2)", "RENAME rating TO score", "score = score + 0.25"),
    _Step("", "ADD rating numeric(4,2) DEFAULT 4.5", "rating = 3.75"),
)
_DECLARED = """
SELECT attname || ' ' || format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = 'public.products'::regclass AND attnum > 0 AND NOT attisdropped
"""
_SOME = "WHERE sku IN (SELECT sku FROM public.products WHERE sku >= %s ORDER BY sku LIMIT 5)"


def alter(session: psycopg.Connection, rng: random.Random) -> str:
    """Take the next step in a transaction, with updates before and behind it; give its SQL."""
    with session.transaction():
        session.execute("LOCK TABLE public.products")
        declared = {column for (column,) in session.execute(_DECLARED).fetchall()}
        step = next(step for step in _STEPS if not step.at or step.at in declared)
        ddl = f"ALTER TABLE public.products {step.ddl}"
        _update(session, rng, "stock = stock - 1")
        # a table can have 1,600 columns, dropped ones counted: then it stays as it is
        with suppress(psycopg.errors.TooManyColumns), session.transaction():
            session.execute(ddl.encode())
            _update(session, rng, step.then)
    return ddl


def _update(session: psycopg.Connection, rng: random.Random, change: str) -> None:
    first = f"SKU-{rng.randint(1, 1900):05}"
    session.execute(f"UPDATE public.products SET {change} {_SOME}".encode(), [first])
