"""What the benchmark's table goes through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import psycopg

Connection = psycopg.Connection[tuple[object, ...]]

TABLE = """
CREATE TABLE public.bench (
    id bigint PRIMARY KEY, customer_id int NOT NULL, status text, amount numeric(12,2),
    price float8, active bool, created timestamptz, day date, note text, ref uuid, attrs jsonb
)
"""
ROW = """
i, i % 1000, (ARRAY['new', 'paid', 'sent', 'done'])[1 + i % 4], (i % 100000) / 100.0, i * 1.1,
i % 2 = 0, timestamptz '2026-01-01' + i * interval '1 second', date '2026-01-01' + (i % 365)::int,
'note number ' || i, md5(i::text)::uuid, jsonb_build_object('k', i, 'tag', 't' || i % 10)
"""
_ROWS_PER_TRANSACTION = 10_000
_SINGLE_ROWS = f"""
CREATE PROCEDURE single_rows(count int) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..count LOOP
        IF i % 14 < 10 THEN
            INSERT INTO public.bench SELECT {ROW};
        ELSIF i % 14 < 13 THEN
            UPDATE public.bench SET status = 'upd', amount = amount + 1
                WHERE id = i - i % 14 + i % 3;
        ELSE
            DELETE FROM public.bench WHERE id = i - 8;
        END IF;
        COMMIT;
    END LOOP;
END $$
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """Something to do to the table, how many changes it makes, and how often it is measured."""

    about: str
    run: Callable[[Connection, int], None]
    changes: int
    repeats: int


def _batches(connection: Connection, changes: int) -> None:
    """Transactions of 10,000 rows: ten of inserts, three of updates, one of deletes, and again."""
    step, last = _ROWS_PER_TRANSACTION, 0
    for transaction in range(changes // step):
        turn = transaction % 14
        if turn < 10:
            series = f"generate_series({last + 1}, {last + step}) i"
            connection.execute(f"INSERT INTO public.bench SELECT {ROW} FROM {series}")
            last += step
        elif turn < 13:
            high = last - (turn - 10) * step
            connection.execute(
                "UPDATE public.bench SET status = 'upd', amount = amount + 1"
                f" WHERE id > {high - step} AND id <= {high}"
            )
        else:
            low = last - 10 * step
            connection.execute(f"DELETE FROM public.bench WHERE id > {low} AND id <= {low + step}")


def _singles(connection: Connection, changes: int) -> None:
    connection.execute(_SINGLE_ROWS)
    connection.execute("SET synchronous_commit = off")  # making them is not what is measured
    connection.execute(f"CALL single_rows({changes})")
    connection.execute("SET synchronous_commit = on")


def one_transaction(connection: Connection, changes: int) -> None:
    """Insert all rows at once."""
    series = f"generate_series(1, {changes}) i"
    connection.execute(f"INSERT INTO public.bench SELECT {ROW} FROM {series}")


WORKLOADS: Mapping[str, Workload] = {
    "a": Workload("1.4 M changes in transactions of 10,000 rows", _batches, 1_400_000, 3),
    "b": Workload("300,000 single-row transactions", _singles, 300_000, 3),
    "c": Workload("one transaction of 3 M rows", one_transaction, 3_000_000, 1),
    "d": Workload("one transaction of 6 M rows", one_transaction, 6_000_000, 1),
}
