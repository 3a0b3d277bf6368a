"""Kept tables in a DuckDB file that get other columns, and `_cdc.schema_changes`.

A table is written anew with the columns that it is to have, in their order, in the transaction that
applies the changes behind the alteration. DuckDB's own ALTER appends columns, can't follow changes
of the same transaction, and knows no column inside of a struct that is renamed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import pyarrow as pa

from cdc_assets.changes.record import (
    BEFORE_COLUMN,
    OP_COLUMN,
    OPS,
    UNCHANGED_COLUMN,
    change_schema,
)
from cdc_assets.changes.rows import added_columns
from cdc_assets.changes.versions import history_schema
from cdc_assets.config.tables import CHANGES, HISTORY
from cdc_assets.identifiers import TableName, quote, quote_literal, record_table
from cdc_assets.pgoutput.messages import DELETE, TRUNCATE
from cdc_assets.progress import SchemaChanged
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.texts import has_source_text, source_text
from cdc_assets.warehouse.types import column_type
from cdc_assets.warehouse.values import Reshaping
from cdc_assets.warehouse.zeros import refuse_lost_zeros

_SCHEMA = """
CREATE TABLE IF NOT EXISTS {schema}.schema_changes (
    pipeline VARCHAR NOT NULL,
    source_table VARCHAR NOT NULL,
    lsn UBIGINT NOT NULL,
    what VARCHAR NOT NULL,
    how VARCHAR NOT NULL,
    columns_before MAP(VARCHAR, VARCHAR) NOT NULL,
    columns_after MAP(VARCHAR, VARCHAR) NOT NULL,
    run_id VARCHAR NOT NULL,
    noted_at TIMESTAMP WITH TIME ZONE NOT NULL
);
"""
_WITHOUT_ROW = (OPS[DELETE], OPS[TRUNCATE])


class Evolutions:
    """One pipeline's; writes belong into the transaction of the changes that follow."""

    def __init__(self, mirrors: DuckDBMirrors, pipeline: str) -> None:
        self._mirrors, self._pipeline = mirrors, pipeline
        self._schema = f"{mirrors.catalog}._cdc"

    def prepare(self) -> None:
        """Make the table if it is not there; its schema is."""
        self._mirrors.connection.execute(_SCHEMA.format(schema=self._schema))

    def note(self, change: SchemaChanged, run_id: str) -> None:
        """Note what was altered, and what came of it."""
        self._mirrors.connection.execute(
            f"INSERT INTO {self._schema}.schema_changes VALUES (?, ?, ?, ?, ?,"
            " ?::JSON::MAP(VARCHAR, VARCHAR), ?::JSON::MAP(VARCHAR, VARCHAR), ?, now())",
            (
                self._pipeline,
                str(change.table),
                int(change.lsn),
                change.what,
                change.how,
                json.dumps(dict(change.before)),
                json.dumps(dict(change.after)),
                run_id,
            ),
        )

    def has_source_text(self, kind: pa.DataType) -> bool:
        """Whether a value of a type tells how Postgres writes it."""
        return has_source_text(kind)

    def reshape(self, reshaping: Reshaping, keeps: Collection[str]) -> None:
        """Give a table's mirror, if it has one, and what is kept beside it the columns of a shape.

        Args:
            reshaping: Of the kept shape.
            keeps: What of it there is: `mirror`, `changes`, `history`.

        Raises:
            ValueConversionError: DuckDB would not keep a value as it is.
        """
        table, shape = reshaping.table, reshaping.shape
        for keep in keeps:
            if keep == CHANGES:
                added = change_schema(shape).names[len(shape.names) :]
                self._change_table(reshaping, added)
            elif keep == HISTORY:
                added = history_schema(shape).names[len(shape.names) :]
                self._rewrite(record_table(table, HISTORY), reshaping, _as_they_are(added))
            else:
                names = [column.name for column in added_columns(shape)]
                self._rewrite(table, reshaping, _as_they_are(names))

    def _change_table(self, reshaping: Reshaping, added: Collection[str]) -> None:
        listed = ", ".join(map(quote_literal, _WITHOUT_ROW))
        before = ", ".join(
            f"{quote(name)} := ({_old_value(reshaping, name)})::{column_type(kind)}"
            for name, kind in zip(reshaping.shape.names, reshaping.shape.types, strict=True)
        )
        named = _renamed(reshaping, "name")
        kept = ", ".join(map(quote_literal, reshaping.was.values()))
        parts = {
            **_as_they_are(added),
            UNCHANGED_COLUMN: f"list_transform(list_filter(old.{quote(UNCHANGED_COLUMN)},"
            f" lambda name: list_contains([{kept}]::VARCHAR[], name)), lambda name: {named})",
            BEFORE_COLUMN: f"CASE WHEN old.{quote(BEFORE_COLUMN)} IS NOT NULL"
            f" THEN struct_pack({before}) END",
        }
        has_row = f"old.{quote(OP_COLUMN)} NOT IN ({listed})"
        self._rewrite(record_table(reshaping.table, CHANGES), reshaping, parts, has_row=has_row)

    def _rewrite(
        self,
        name: TableName,
        reshaping: Reshaping,
        parts: Mapping[str, str],
        *,
        has_row: str = "true",
    ) -> None:
        """Write a table anew with other columns.

        Args:
            name: Its name.
            reshaping: Of its kept columns.
            parts: The expressions of those behind these, over `old`.
            has_row: Which of its rows have values; others are null in columns that are added.
        """
        fills = reshaping.fills
        made = TableName(name.schema, f"{name.name}__cdc_evolved")
        columns = []
        for column, kind in zip(reshaping.shape.names, reshaping.shape.types, strict=True):
            was = reshaping.was.get(column)
            if was is not None:
                value = _as_now(reshaping, column, f"old.{quote(was)}")
            elif column in fills:
                value = f"CASE WHEN {has_row} THEN filling.{quote(column)} END"
            else:
                value = "NULL"
            columns.append(f"({value})::{column_type(kind)} AS {quote(column)}")
        columns += [f"{value} AS {quote(part)}" for part, value in parts.items()]
        query = f"SELECT {', '.join(columns)} FROM {self._mirrors.name(name)} AS old"
        batch = pa.table(dict(fills)) if fills else None
        if batch is not None:
            refuse_lost_zeros(name, batch)
            query += " CROSS JOIN _cdc_batch AS filling"
        self._mirrors.drop(made)
        self._mirrors.rows_with(f"CREATE TABLE {self._mirrors.name(made)} AS {query}", batch)
        self._mirrors.drop(name)
        self._mirrors.rename(made, name)


def _as_they_are(names: Collection[str]) -> dict[str, str]:
    return {name: f"old.{quote(name)}" for name in names}


def _old_value(reshaping: Reshaping, name: str) -> str:
    was = reshaping.was.get(name)
    if was is None:
        return "NULL"
    return _as_now(reshaping, name, f"old.{quote(BEFORE_COLUMN)}.{quote(was)}")


def _as_now(reshaping: Reshaping, name: str, value: str) -> str:
    """Write the value of a column that was there, as text where it becomes that."""
    kind = reshaping.texts.get(name)
    return value if kind is None else source_text(value, kind)


def _renamed(reshaping: Reshaping, name: str) -> str:
    """Write the name that a column has now, by a variable with the one that it had."""
    changed = {was: now for now, was in reshaping.was.items() if was != now}
    if not changed:
        return name
    cases = (
        f" WHEN {quote_literal(was)} THEN {quote_literal(now)}" for was, now in changed.items()
    )
    return f"CASE {name}{''.join(cases)} ELSE {name} END"
