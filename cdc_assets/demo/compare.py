"""Source and warehouse, row by row, with Postgres as the oracle.

Independent of the code that replicates, on purpose: each value of the source is the text that the
type's own output function gives, each value of a mirror is DuckDB's text or list of texts, and
both are brought to one form by the mirror column's type. Rows are compared as multisets, so a row
that is there twice is a difference too. Columns of other tables are left out. Both tables are
held in memory: this is for the demo and the tests, on a source that stands still.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import duckdb
import psycopg

from cdc_assets.config import PipelineConfig
from cdc_assets.config.tables import HISTORY, MIRROR, TableConfig
from cdc_assets.demo.normal import (
    Value,
    from_source,
    from_warehouse,
    masked,
    warehouse_expression,
)
from cdc_assets.identifiers import TableName, quote, record_table

Row = tuple[Value, ...]

_SESSION = """
    SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC';
    SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C'
"""
_COLUMNS = """
    SELECT attname, coalesce(attnum = ANY (indkey), false) AS is_key
    FROM pg_attribute LEFT JOIN pg_index ON indrelid = attrelid AND indisprimary
    WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped
      AND (attgenerated = '' OR attname = ANY (%s))  -- a mirror may be without generated ones
    ORDER BY attnum
"""
_MIRROR_COLUMNS = """
    SELECT column_name, data_type FROM duckdb_columns()
    WHERE database_name = current_database() AND schema_name = ? AND table_name = ?
"""
# Which rows are the table's now, by the column that says so
_LIVE = {
    "_cdc_deleted": "_cdc_deleted IS NOT TRUE",
    "_cdc_valid_to_lsn": "_cdc_valid_to_lsn IS NULL",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one mirror, or a history's current versions, differ from their table.

    Attributes:
        keys: Keys of rows that are missing, too many or different, sorted; whole rows when the
            table has no primary key.
        problem: Why the rows could not be compared, else empty.
    """

    table: TableName
    source_rows: int
    warehouse_rows: int
    keys: tuple[Row, ...] = ()
    problem: str = ""

    @property
    def equal(self) -> bool:
        """Whether what is kept holds exactly the table's rows."""
        return not self.keys and not self.problem

    def __str__(self) -> str:
        if self.equal:
            return f"{self.table}: equal, {self.source_rows} rows"
        why = self.problem or f"{len(self.keys)} differ, first keys {list(self.keys[:5])}"
        return f"{self.table}: source {self.source_rows}, warehouse {self.warehouse_rows}: {why}"


def compare(config: PipelineConfig, *, dsn: str = "") -> list[Comparison]:
    """Compare every mirror and history of a pipeline; the source is read in one snapshot.

    Args:
        config: The pipeline.
        dsn: Connects as a role that may read the tables, when the pipeline's own may not.
    """
    with (
        psycopg.connect(dsn or config.source.conninfo(), client_encoding="utf8") as source,
        duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse,
    ):
        source.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        source.execute(_SESSION)
        warehouse.execute("SET TimeZone = 'UTC'")
        return [
            _compare_table(source, warehouse, table, kept, config.mask_secret())
            for table in config.tables
            for kept in _compared(table)
        ]


def _compared(table: TableConfig) -> list[str]:
    """Give what is kept of a table and has its rows of now."""
    return [MIRROR] * table.keeps_mirror + [keep for keep in table.records if keep == HISTORY]


def _compare_table(
    source: psycopg.Connection,
    warehouse: duckdb.DuckDBPyConnection,
    config: TableConfig,
    keep: str,
    secret: bytes,
) -> Comparison:
    table, here = config.name, config.columns.rename
    kept = table if keep == MIRROR else record_table(table, keep)
    types = dict(warehouse.execute(_MIRROR_COLUMNS, [kept.schema, kept.name]).fetchall())
    live = next((sql for column, sql in _LIVE.items() if column in types), "true")
    others = {name for one in config.enrich for name in one.columns.values()}
    types = {
        name: kind
        for name, kind in types.items()
        if not name.startswith("_cdc_") and name not in others
    }
    found = source.execute(_COLUMNS, [table.sql, list(types)]).fetchall()
    columns: dict[str, bool] = {
        name: is_key for name, is_key in found if is_key or config.columns.keeps(name)
    }
    named = [here.get(name, name) for name in columns]
    if set(types) != set(named):
        odd = sorted(set(types) ^ set(named))
        problem = f"only one side has the columns {odd}" if types else f"there is no {keep}"
        return Comparison(kept, _count(source, table), 0, problem=problem)
    kinds = [types[name] for name in named]
    readers = [
        masked(config.mask[name], secret) if name in config.mask else from_source(kind)
        for name, kind in zip(columns, kinds, strict=True)
    ]
    ours = _source_rows(source, table, list(columns), readers, where=config.where or "true")
    theirs = _warehouse_rows(warehouse, kept, named, kinds, where=live)
    key = [place for place, name in enumerate(columns) if columns[name]]
    odd_rows = (ours - theirs) + (theirs - ours)
    keys = {tuple(row[place] for place in key or range(len(row))) for row in odd_rows}
    return Comparison(kept, ours.total(), theirs.total(), tuple(sorted(keys, key=repr)))


def _own_rows(source: psycopg.Connection, table: TableName) -> str:
    """Name a table without its child tables, which are none of the mirror's business."""
    (is_partitioned,) = source.execute(
        "SELECT relkind = 'p' FROM pg_class WHERE oid = %s::regclass", [table.sql]
    ).fetchone() or (False,)
    return table.sql if is_partitioned else f"ONLY {table.sql}"


def _source_rows(
    source: psycopg.Connection,
    table: TableName,
    columns: Sequence[str],
    readers: Sequence[Callable[[str], Value]],
    *,
    where: str,
) -> Counter[Row]:
    names = ", ".join(quote(name) for name in columns)
    # one that both ends understand alike, over columns of one name
    cursor = source.execute(
        f"SELECT {names} FROM {_own_rows(source, table)} WHERE {where}".encode()
    )
    result = cursor.pgresult
    assert result is not None
    rows: Counter[Row] = Counter()
    for number in range(result.ntuples):
        # The raw bytes, not a cast to text: that would strip the padding of char(n), for one
        raw = (result.get_value(number, place) for place in range(len(columns)))
        rows[
            tuple(
                None if value is None else read(value.decode())
                for value, read in zip(raw, readers, strict=True)
            )
        ] += 1
    return rows


def _warehouse_rows(
    warehouse: duckdb.DuckDBPyConnection,
    table: TableName,
    columns: Sequence[str],
    kinds: Sequence[str],
    *,
    where: str,
) -> Counter[Row]:
    names = ", ".join(
        warehouse_expression(quote(name), kind) for name, kind in zip(columns, kinds, strict=True)
    )
    readers = [from_warehouse(kind) for kind in kinds]
    rows: Counter[Row] = Counter()
    (catalog,) = warehouse.execute("SELECT current_database()").fetchall()[0]
    cursor = warehouse.execute(f"SELECT {names} FROM {quote(catalog)}.{table.sql} WHERE {where}")
    while batch := cursor.fetchmany(10_000):
        for row in batch:
            rows[
                tuple(
                    None if value is None else read(value)
                    for value, read in zip(row, readers, strict=True)
                )
            ] += 1
    return rows


def _count(source: psycopg.Connection, table: TableName) -> int:
    row = source.execute(f"SELECT count(*) FROM {table.sql}").fetchone()
    return int(row[0]) if row else 0
