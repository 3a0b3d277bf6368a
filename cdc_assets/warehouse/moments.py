"""The macros in a DuckDB file that show a table as it was, at a time or at an LSN.

They read a history, or a change table where that goes further back or there is no history; which,
is decided here alone. A change table gives the row of each key that its last change has left. What
that change did not carry is what the row had before, under the key that it had then.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cdc_assets.changes.record import FIRST_COPIED
from cdc_assets.changes.shape import TableShape
from cdc_assets.changes.versions import (
    FROM_LSN_COLUMN,
    TO_LSN_COLUMN,
    VALID_FROM_COLUMN,
    VALID_TO_COLUMN,
    history_schema,
)
from cdc_assets.identifiers import TableName, quote, quote_literal
from cdc_assets.warehouse.change_tables import ChangeTables
from cdc_assets.warehouse.histories import Histories
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.records import time_sql
from cdc_assets.warehouse.values import Moment

_UNITS = {"time": "as_of", "lsn": "as_of_lsn"}
# Refused outside of what is known, whatever rows there are
_OF_HISTORY = """
SELECT version.* EXCLUDE ({own}) FROM (SELECT {known} AS _cdc_is_known) AS bounds
JOIN {record} AS version ON bounds._cdc_is_known
AND version.{valid_from} <= _cdc_at AND (version.{valid_to} IS NULL OR version.{valid_to} > _cdc_at)
"""
# Places order all changes. The row of a key is of its last event; no change has the number -1.
_OF_CHANGES = """
WITH RECURSIVE _cdc_known AS MATERIALIZED (
    SELECT CASE WHEN {known} THEN _cdc_upto END AS upto FROM (SELECT {upto} AS _cdc_upto)
), _cdc_changes AS MATERIALIZED (
    SELECT change.rowid AS id, change._cdc_op AS op, change._cdc_unchanged AS unchanged,
        change._cdc_lsn::HUGEINT * {copied_twice} + change._cdc_seq AS place,
        {new_key} AS new_key, {old_key} AS old_key, op = 'update' AND change._cdc_before IS NOT NULL
        AND {new_key} IS DISTINCT FROM {old_key} AS is_moved
    FROM {record} AS change WHERE change._cdc_lsn <= (SELECT upto FROM _cdc_known)
), _cdc_later AS MATERIALIZED (
    FROM _cdc_changes WHERE op <> 'truncate'
    AND place > coalesce((SELECT max(place) FROM _cdc_changes WHERE op = 'truncate'), -1)
), _cdc_events AS MATERIALIZED (
    SELECT id, place, unchanged, new_key AS key, CASE WHEN is_moved THEN old_key END AS came_from,
        op = 'insert' OR is_moved AS is_first
    FROM _cdc_later WHERE op <> 'delete'
    UNION ALL
    SELECT -1, place, [], old_key, NULL, true FROM _cdc_later WHERE op = 'delete' OR is_moved
), _cdc_last AS MATERIALIZED (
    SELECT key, max(place) AS place, arg_max(id, place) AS id,
        arg_max(unchanged, place) AS unchanged
    FROM _cdc_events GROUP BY key
), _cdc_told AS MATERIALIZED (
    SELECT key, name, place, came_from, CASE WHEN NOT list_contains(unchanged, name) THEN id END
        AS id
    FROM _cdc_events, (SELECT DISTINCT unnest(unchanged) AS name FROM _cdc_last)
    WHERE is_first OR NOT list_contains(unchanged, name)
), _cdc_lacking(id, name, key, place, source) AS (
    SELECT id, unnest(unchanged), key, place, NULL::BIGINT FROM _cdc_last
    UNION ALL
    SELECT lacking.id, lacking.name, arg_max_null(told.came_from, told.place),
        max(told.place) - 1, arg_max_null(told.id, told.place)
    FROM _cdc_lacking AS lacking JOIN _cdc_told AS told
    ON told.key = lacking.key AND told.name = lacking.name AND told.place <= lacking.place
    WHERE lacking.source IS NULL GROUP BY lacking.id, lacking.name
), _cdc_filled AS (
    SELECT lacking.id, list(lacking.name) AS names, {donated}
    FROM _cdc_lacking AS lacking JOIN {record} AS donor ON donor.rowid = lacking.source
    GROUP BY lacking.id
)
SELECT {values} FROM _cdc_known AS known JOIN _cdc_last AS last ON known.upto IS NOT NULL
JOIN {record} AS change ON change.rowid = last.id
LEFT JOIN _cdc_filled AS filled ON filled.id = last.id
"""
# All transactions up to the first that has committed later: so it is a state that there was
_UPTO_TIME = """
coalesce(least((SELECT min(_cdc_lsn) FROM {record} WHERE _cdc_commit_ts > _cdc_at
    AND _cdc_seq BETWEEN 0 AND {last_of_stream}),
    (SELECT min(change._cdc_lsn) FROM {record} AS change JOIN _cdc.copied_rows AS noted
    ON noted.seq = change._cdc_seq AND noted.as_of > _cdc_at
    AND (noted.pipeline, noted.source_table) = {of_table})) - 1, {reached})
"""


class Moments:
    """One pipeline's macros; all of it belongs into a transaction."""

    def __init__(
        self,
        mirrors: DuckDBMirrors,
        pipeline: str,
        change_tables: ChangeTables,
        histories: Histories,
    ) -> None:
        self._mirrors, self._pipeline = mirrors, pipeline
        self._change_tables, self._histories = change_tables, histories

    def show(self, table: TableName, shape: TableShape) -> None:
        """Make a table's macros of what goes on beside its mirror, and goes back furthest.

        Of a history where a change table goes back as far. Where nothing goes on they stay what
        they are.

        Args:
            table: Whose.
            shape: The kept one.
        """
        found = [
            (records, bounds.since)
            for records in (self._histories, self._change_tables)
            if (bounds := records.bounds(table)) is not None
            and bounds.until is None
            and not records.altered({table: shape})
        ]
        if not found:
            return
        records, since = min(found, key=lambda one: one[1].lsn)
        write = self._of_history if records is self._histories else self._of_changes
        for unit, name in _UNITS.items():
            self._execute(
                f"CREATE OR REPLACE MACRO {self._name(table, name)}(_cdc_at) AS TABLE"
                f" {write(table, shape, unit, since)}"
            )

    def drop(self, table: TableName) -> None:
        """Drop a table's macros, if they are there."""
        for name in _UNITS.values():
            there = self._mirrors.connection.execute(
                "SELECT 1 FROM duckdb_functions() WHERE database_name = current_database()"
                " AND schema_name = ? AND function_name = ? AND function_type = 'table_macro'",
                (table.schema, f"{table.name}__{name}"),
            ).fetchall()
            if there:
                self._execute(f"DROP MACRO TABLE {self._name(table, name)}")

    def _name(self, table: TableName, name: str) -> str:
        return self._mirrors.name(TableName(table.schema, f"{table.name}__{name}"))

    def _of_history(self, table: TableName, shape: TableShape, unit: str, since: Moment) -> str:
        name = self._histories.name(table)
        own = ", ".join(quote(column) for column in history_schema(shape).names[len(shape.names) :])
        by_time = unit == "time"
        return _OF_HISTORY.format(
            own=own,
            known=self._known(table, name, "history", unit, since),
            record=name.sql,  # wherever the file is attached
            valid_from=quote(VALID_FROM_COLUMN if by_time else FROM_LSN_COLUMN),
            valid_to=quote(VALID_TO_COLUMN if by_time else TO_LSN_COLUMN),
        )

    def _of_changes(self, table: TableName, shape: TableShape, unit: str, since: Moment) -> str:
        name, key = self._change_tables.name(table), [quote(one) for one in shape.key]
        upto = "_cdc_at::UBIGINT"
        if unit == "time":
            upto = _UPTO_TIME.format(
                record=name.sql,
                last_of_stream=FIRST_COPIED - 1,
                of_table=self._of_table(table),
                reached=self._checkpoint(table, "lsn"),
            )
        others = [quote(one) for one in shape.names if one not in shape.key]
        return _OF_CHANGES.format(
            known=self._known(table, name, "change table", unit, since),
            upto=upto,
            record=name.sql,
            copied_twice=2 * FIRST_COPIED,
            new_key=_row([f"change.{one}" for one in key]),
            old_key=_row([f"change._cdc_before.{one}" for one in key]),
            donated=", ".join(
                f"any_value(donor.{one}) FILTER (lacking.name = {_name_of(one)}) AS {one}"
                for one in others
            )
            or "true",
            values=", ".join(
                f"change.{quote(one)}" if one in shape.key else _value(table, quote(one))
                for one in shape.names
            ),
        )

    def _known(self, table: TableName, name: TableName, what: str, unit: str, since: Moment) -> str:
        """Write the condition that a moment is known; it is refused where it is not."""
        at = datetime.fromtimestamp(since.micros / 1_000_000, UTC).isoformat()
        first, shown = (
            (time_sql(since.micros), at)
            if unit == "time"
            else (int(since.lsn), f"{int(since.lsn)} ({since.lsn})")
        )
        begins = f"the {what} of {table} begins at {shown}"
        unknown = f"{table} was not followed then, how it was is not known: see _cdc.record_gaps"
        ahead = f"some rows of {table} are not known then, they were read later: see _cdc.unread"
        after = f"_cdc_at > from_{unit}" if unit == "lsn" else f"_cdc_at >= from_{unit}"
        cases = [
            (f"_cdc_at < {first}", quote_literal(begins)),
            (
                f"EXISTS (FROM _cdc.record_gaps WHERE name = {quote_literal(str(name))}"
                f" AND {after} AND (to_{unit} IS NULL OR _cdc_at < to_{unit}))",
                quote_literal(unknown),
            ),
            self._not_reached(table, unit, since),
        ]
        if unit == "lsn" or what != "history":
            upto = "_cdc_at" if unit == "lsn" else "_cdc_upto"
            between = f"from_lsn < {upto} AND (upto_lsn IS NULL OR {upto} < upto_lsn)"
            of_table = f"(pipeline, source_table) = {self._of_table(table)}"
            cases.append(
                (
                    f"EXISTS (FROM _cdc.unread WHERE {of_table} AND {between})",
                    quote_literal(ahead),
                )
            )
        listed = " ".join(f"WHEN {which} THEN error({said})" for which, said in cases)
        return f"CASE {listed} ELSE true END"

    def _not_reached(self, table: TableName, unit: str, since: Moment) -> tuple[str, str]:
        """Write what is not applied yet, and what is said of it."""
        if unit == "lsn":
            reached = self._checkpoint(table, "lsn")
            said = f"this LSN is not reached yet, the next sync brings it: {table} is at "
        else:
            of_table = f"(pipeline, source_table) = {self._of_table(table)}"
            # another one may have committed in the same microsecond
            micros = "json_extract_string(last_transaction, '$.commit_micros')::BIGINT - 1"
            reached = (
                f"greatest({time_sql(since.micros)}, {self._checkpoint(table, time_sql(micros))},"
                f" (SELECT max(upto_time) FROM _cdc.reached WHERE {of_table}))"
            )
            said = f"this time is not reached yet, the next sync brings it: {table} is at "
        return f"_cdc_at > {reached}", f"{quote_literal(said)} || {reached}"

    def _checkpoint(self, table: TableName, what: str) -> str:
        of_table = f"(pipeline, source_table) = {self._of_table(table)}"
        return f"(SELECT max({what}) FROM _cdc.checkpoints WHERE {of_table})"

    def _of_table(self, table: TableName) -> str:
        return f"({quote_literal(self._pipeline)}, {quote_literal(str(table))})"

    def _execute(self, sql: str) -> None:
        self._mirrors.connection.execute(sql).fetchall()


def _row(values: list[str]) -> str:
    """Write a key as one value."""
    return values[0] if len(values) == 1 else f"row({', '.join(values)})"


def _name_of(quoted: str) -> str:
    return quote_literal(quoted[1:-1].replace('""', '"'))


def _value(table: TableName, column: str) -> str:
    """Write a column's value: the change's, or that of the last one that carried it."""
    name = _name_of(column)
    nowhere = (
        f"no change of {table} has a value of its column {column} then: see what"
        f" 'cdc-assets rebuild {table} --to-lsn L --into NAME' makes of them"
    )
    return (
        f"CASE WHEN NOT list_contains(change._cdc_unchanged, {name}) THEN change.{column}"
        f" WHEN list_contains(filled.names, {name}) THEN filled.{column}"
        f" ELSE error({quote_literal(nowhere)}) END AS {column}"
    )
