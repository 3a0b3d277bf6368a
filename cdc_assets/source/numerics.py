"""What the values of a numeric without a precision would need, by some rows of its table."""

from __future__ import annotations

from collections.abc import Collection

from cdc_assets.identifiers import quote
from cdc_assets.pgoutput.types import MAX_DECIMAL_PRECISION
from cdc_assets.source.catalog import SourceTable
from cdc_assets.source.connection import Connection, bounded_locks, fetch_one, table_errors
from cdc_assets.source.snapshot import relation_of

SAMPLE_ROWS = 10_000


def decimal_needs(
    connection: Connection, table: SourceTable, names: Collection[str]
) -> dict[str, tuple[int, int]]:
    """Find precision and scale that the first rows' values fit exactly.

    Args:
        connection: A session that may read the table.
        table: The table.
        names: Its columns that are asked about.

    Returns:
        By column; those without a value, with a NaN or an infinity, or with more digits than a
        DECIMAL has are left out.

    Raises:
        TableError: The table can't be read.
        SourceBusyError: Somebody keeps it locked.
    """
    if not names:
        return {}
    listed = ", ".join(
        f"max(length(trunc(abs({name}))::text)) FILTER (WHERE {name} < 'Infinity'"
        f" AND {name} > '-Infinity'), max(min_scale({name})),"
        f" bool_or({name} >= 'Infinity' OR {name} = '-Infinity')"
        for name in map(quote, names)
    )
    relation = relation_of(table)
    columns = ", ".join(map(quote, names))
    with bounded_locks(connection), table_errors(table.name):
        found = fetch_one(
            connection,
            f"SELECT {listed} FROM (SELECT {columns} FROM {relation} LIMIT {SAMPLE_ROWS}) AS read",
        )
    needs = {}
    for at, name in enumerate(names):
        whole, scale, is_odd = found[3 * at : 3 * at + 3]
        if whole is not None and not is_odd and whole + scale <= MAX_DECIMAL_PRECISION:
            needs[name] = (whole + scale, scale)
    return needs
