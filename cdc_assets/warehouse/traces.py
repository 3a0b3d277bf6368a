"""Where rows come from, in schema `_cdc` of a DuckDB file: `windows` and `lineage`.

`windows` has one row per transaction that has written rows. It is appended to and never altered, so
a row of a kept table is traced for as long as the file is there.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from cdc_assets.changes.rows import COMMIT_COLUMN, LSN_COLUMN
from cdc_assets.config.tables import RECORDS
from cdc_assets.identifiers import TableName, quote, record_table
from cdc_assets.lsn import LSN
from cdc_assets.progress import Origin
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.values import Loaded, Trace

_TABLES = (
    "MAP(VARCHAR, STRUCT("
    '"rows" BIGINT, after_lsn UBIGINT, read_lsns UBIGINT[], code_version VARCHAR))'
)
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS {{schema}}.windows (
    pipeline VARCHAR NOT NULL,
    run_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    start_lsn UBIGINT NOT NULL,
    end_lsn UBIGINT NOT NULL,
    transactions BIGINT NOT NULL,
    tables {_TABLES} NOT NULL,
    seconds DOUBLE NOT NULL,
    version VARCHAR NOT NULL,
    committed_at TIMESTAMP WITH TIME ZONE NOT NULL
);
CREATE TABLE IF NOT EXISTS {{schema}}.lineage (
    pipeline VARCHAR NOT NULL,
    table_name VARCHAR NOT NULL,
    column_name VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    source_column VARCHAR NOT NULL,
    how VARCHAR NOT NULL,
    mask VARCHAR NOT NULL,
    joined VARCHAR NOT NULL,
    function VARCHAR NOT NULL,
    is_made BOOLEAN NOT NULL,
    is_said BOOLEAN NOT NULL,
    code_version VARCHAR NOT NULL
);
"""


class Traces:
    """One pipeline's; writes belong into the transaction of the rows that they speak of."""

    def __init__(self, mirrors: DuckDBMirrors, pipeline: str) -> None:
        self._mirrors, self._pipeline = mirrors, pipeline
        self._schema = f"{mirrors.catalog}._cdc"  # a file may be called _cdc.duckdb

    def prepare(self) -> None:
        """Make the tables if they are not there; their schema is."""
        self._mirrors.connection.execute(_SCHEMA.format(schema=self._schema))

    def write(self, trace: Trace) -> None:
        """Note what this transaction has written of kept tables."""
        tables = {str(table): _plain(loaded) for table, loaded in trace.tables.items()}
        self._mirrors.connection.execute(
            f"INSERT INTO {self._schema}.windows"
            f" VALUES (?, ?, ?, ?, ?, ?, ?::JSON::{_TABLES}, ?, ?, ?)",
            (
                self._pipeline,
                trace.run.id,
                trace.run.kind,
                int(trace.start_lsn),
                int(trace.end_lsn),
                trace.transactions,
                json.dumps(tables),
                trace.seconds,
                trace.version,
                trace.written_at,
            ),
        )

    def lineage(
        self, tables: Collection[TableName]
    ) -> Mapping[TableName, tuple[str, Sequence[Origin]]]:
        """Give the code version and the origins of some kept tables that were noted last."""
        rows = self._mirrors.connection.execute(
            "SELECT table_name, code_version, column_name, source_table, source_column, mask,"
            f" joined, function, is_made, is_said FROM {self._schema}.lineage WHERE pipeline = ?"
            " AND table_name IN (SELECT unnest(?::VARCHAR[])) ORDER BY rowid",
            (self._pipeline, [str(table) for table in tables]),
        ).fetchall()
        found: dict[TableName, tuple[str, list[Origin]]] = {}
        for table, version, column, source, *more in rows:
            origin = Origin(column, TableName.parse(source), *more)
            found.setdefault(TableName.parse(table), (version, []))[1].append(origin)
        return found

    def write_lineage(self, table: TableName, version: str, origins: Sequence[Origin]) -> None:
        """Note the origins of a kept table's columns, instead of what was noted before."""
        self._forget(table)
        texts = (
            [of.column for of in origins],
            [str(of.table) for of in origins],
            [of.source_column for of in origins],
            [of.how for of in origins],
            [of.mask for of in origins],
            [of.joined for of in origins],
            [of.function for of in origins],
        )
        flags = ([of.is_made for of in origins], [of.is_said for of in origins])
        listed = ["unnest(?::VARCHAR[])" for _ in texts] + ["unnest(?::BOOLEAN[])" for _ in flags]
        # one statement: a table has up to 1,600 columns
        self._mirrors.connection.execute(
            f"INSERT INTO {self._schema}.lineage SELECT ?, ?, {', '.join(listed)}, ?",
            (self._pipeline, str(table), *texts, *flags, version),
        )

    def forget(self, table: TableName) -> None:
        """Remove the lineage of all that is kept of a table; what was written stays known."""
        if self._mirrors.has_state("lineage"):
            for kept in (table, *(record_table(table, keep) for keep in RECORDS)):
                self._forget(kept)

    def _forget(self, table: TableName) -> None:
        self._mirrors.connection.execute(
            f"DELETE FROM {self._schema}.lineage WHERE pipeline = ? AND table_name = ?",
            (self._pipeline, str(table)),
        )


def _plain(loaded: Loaded) -> dict[str, object]:
    return {
        "rows": loaded.rows,
        "after_lsn": int(loaded.after_lsn),
        "read_lsns": sorted(map(int, loaded.read_lsns)),
        "code_version": loaded.code_version,
    }


def read_lsns(mirrors: DuckDBMirrors, relation: str) -> frozenset[LSN]:
    """Give the LSNs of those rows that were read: no transaction of the stream brought them."""
    rows = mirrors.connection.execute(
        f"SELECT DISTINCT {quote(LSN_COLUMN)} FROM {relation} AS read"
        f" WHERE {quote(COMMIT_COLUMN)} IS NULL"
    ).fetchall()
    return frozenset(LSN(lsn) for (lsn,) in rows)
