"""Customers who keep buying: a random but repeatable load on the shop.

Now and then its owner alters a table meanwhile.

Each worker is a thread with a session and a random generator of its own. What one worker does
follows from its seed; how the workers' transactions interleave does not.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psycopg

from cdc_assets.demo.actions import ACTIONS, WEIGHTS
from cdc_assets.demo.alterations import alter

_ROLLBACK_SHARE = 0.05
_SAVEPOINT_SHARE = 0.10
_MOST_ACTIONS = 3
_LOOK_EVERY_SECONDS = 0.02


@dataclass(slots=True)
class WorkloadCounts:
    """Transactions so far; `refused` ones ran into a constraint or a deadlock of their own.

    Attributes:
        altered: How many others altered a table.
    """

    committed: int = 0
    rolled_back: int = 0
    refused: int = 0
    altered: int = 0


class Workload:
    """Live changes of the shop until it is stopped; a context manager.

    Args:
        dsn: A database that the shop is loaded into.
        seed: Makes what each worker does repeatable.
        workers: Sessions that work at the same time.
        transactions_per_second: Bound for all workers together; None for as fast as they can.
        transactions_per_alteration: After how many of its transactions the first worker alters a
            table; None for never.
    """

    def __init__(
        self,
        dsn: str,
        *,
        seed: int = 0,
        workers: int = 2,
        transactions_per_second: float | None = None,
        transactions_per_alteration: int | None = None,
    ) -> None:
        self._dsn = dsn
        self._pause = workers / transactions_per_second if transactions_per_second else 0.0
        self._alters_after = transactions_per_alteration
        self._stopping = threading.Event()
        self._failures: list[Exception] = []
        self._counts = [WorkloadCounts() for _ in range(workers)]
        self._threads = [
            threading.Thread(target=self._work, args=(number, seed), name=f"workload-{number}")
            for number in range(workers)
        ]

    @property
    def counts(self) -> WorkloadCounts:
        """Transactions of all workers so far."""
        return WorkloadCounts(
            committed=sum(counts.committed for counts in self._counts),
            rolled_back=sum(counts.rolled_back for counts in self._counts),
            refused=sum(counts.refused for counts in self._counts),
            altered=sum(counts.altered for counts in self._counts),
        )

    def start(self) -> Self:
        """Start the workers."""
        for thread in self._threads:
            thread.start()
        return self

    def wait_for(self, transactions: int) -> None:
        """Wait until so many more are committed, or a worker has failed."""
        wanted = self.counts.committed + transactions
        while self.counts.committed < wanted and not self._failures:
            self._stopping.wait(_LOOK_EVERY_SECONDS)

    def stop(self) -> None:
        """Let each worker finish its transaction, and wait for that.

        Raises:
            Exception: What a worker failed with.
        """
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures.pop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _work(self, number: int, seed: int) -> None:
        rng = random.Random(f"{seed} {number}")
        try:
            with psycopg.connect(self._dsn, autocommit=True, application_name="shop") as session:
                due = time.monotonic()
                while not self._stopping.is_set():
                    run_transaction(session, rng, self._counts[number])
                    if number == 0:
                        self._alter_if_due(session, rng)
                    due = max(due + self._pause, time.monotonic() - 1)
                    self._stopping.wait(max(0.0, due - time.monotonic()))
        except Exception as error:  # raised again by stop(), in the thread that asked for the work
            self._failures.append(error)

    def _alter_if_due(self, session: psycopg.Connection, rng: random.Random) -> None:
        counts, after = self._counts[0], self._alters_after
        if after is not None and counts.committed >= after * (counts.altered + 1):
            alter(session, rng)
            counts.altered += 1


def run_transaction(
    session: psycopg.Connection, rng: random.Random, counts: WorkloadCounts
) -> None:
    """Run one transaction of one to three actions; some are rolled back, whole or in part."""
    outcome = rng.random()
    try:
        with session.transaction() as transaction:
            for action in rng.choices(ACTIONS, WEIGHTS, k=rng.randint(1, _MOST_ACTIONS)):
                action(session, rng)
            if outcome < _SAVEPOINT_SHARE:
                _undone(session, rng)
            if outcome > 1 - _ROLLBACK_SHARE:
                raise psycopg.Rollback(transaction)
    except (psycopg.IntegrityError, psycopg.errors.DeadlockDetected):
        counts.refused += 1
    else:
        if outcome > 1 - _ROLLBACK_SHARE:
            counts.rolled_back += 1
        else:
            counts.committed += 1


def _undone(session: psycopg.Connection, rng: random.Random) -> None:
    with suppress(psycopg.IntegrityError), session.transaction() as savepoint:
        (action,) = rng.choices(ACTIONS, WEIGHTS)
        action(session, rng)
        raise psycopg.Rollback(savepoint)
