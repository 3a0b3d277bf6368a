"""Which statements go to both ends, and where they come from."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import psycopg
import pytest

_OF_DUCKDB = ("execute", "sql")


class _Traced:
    """A connection of DuckDB; what it runs sees the caller's variables, as without this."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, counts: Counter[str]) -> None:
        self._connection, self._counts = connection, counts

    def __getattr__(self, name: str) -> Any:
        if name in _OF_DUCKDB:
            self._counts[f"warehouse: {_caller()}"] += 1
        return getattr(self._connection, name)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the statements inside a block, by the end and the place in the code they come from."""
    counts = Counter[str]()
    connect, execute = duckdb.connect, psycopg.Cursor.execute

    def traced(*arguments: Any, **options: Any) -> Any:
        return _Traced(connect(*arguments, **options), counts)

    def counting(cursor: Any, *arguments: Any, **options: Any) -> Any:
        counts[f"source: {_caller()}"] += 1
        return execute(cursor, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duckdb, "connect", traced)
        patch.setattr(psycopg.Cursor, "execute", counting)
        yield counts


def _caller() -> str:
    """Name the product's code that runs a statement."""
    frame = sys._getframe(2)
    while frame.f_back is not None and not _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_name}"


def _is_ours(module: str) -> bool:
    return module.startswith("cdc_assets.")
