"""Columns in a DuckDB file that rows take of other tables' mirrors, written past their own changes.

Rows of copies get them when their copy is as of the partners' LSN. Rows of mirrors that keep what
their partner is now (`keep: current`) get them anew when it changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from cdc_assets.changes.rows import COMMIT_COLUMN, LSN_COLUMN
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName, quote
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import Ints
from cdc_assets.pgoutput.types import INTERVAL
from cdc_assets.shaping.enriching import Enrichment
from cdc_assets.shaping.equality import differs
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.values import Copy, Moment

_LSN = quote(LSN_COLUMN)
# Longer than any that a column holds: its time alone is past what Arrow's intervals have
_LONGEST = "to_months(2147483647) + to_days(2147483647) + to_microseconds(9223372036854775807)"


class Enriched:
    """What rows take of others, in an open file; all of it belongs into the rows' transaction."""

    def __init__(self, mirrors: DuckDBMirrors) -> None:
        self._mirrors = mirrors

    def fill(
        self,
        copy: Copy,
        enrich: Sequence[Enrichment],
        shapes: Mapping[TableName, TableShape],
        *,
        differing: bool,
    ) -> None:
        """Give a copy's rows the columns that they take of other tables, as these are now.

        Args:
            copy: The copy.
            enrich: What they take.
            shapes: The kept ones, of the copy's table and of the partners.
            differing: Whether only the rows that are found to differ, in `_cdc_differing`.
        """
        of, found = "", ""
        if differing:
            keys = [quote(name) for name in shapes[copy.table].key]
            of = f", (SELECT DISTINCT {', '.join(keys)} FROM _cdc_differing) AS found"
            found = "".join(f" AND stage.{key} = found.{key}" for key in keys)
        for one in enrich:
            partner = self._mirrors.live_rows(one.partner, shapes[one.partner])
            self._update(
                f"{self._mirrors.name(copy.stage)} AS stage",
                {here: f"partner.{quote(name)}" for name, here in one.columns.items()},
                f"FROM {partner} AS partner{of} WHERE {_joined('stage', 'partner', one)}{found}",
                intervals=_intervals_of(shapes[one.partner], one),
            )

    def keep(self, copy: Copy, enrich: Sequence[Enrichment], shape: TableShape) -> None:
        """Give a copy's rows what those of the mirror have taken which are joined alike.

        Args:
            copy: Compared with its mirror.
            enrich: What they take.
            shape: The kept one.
        """
        for one in enrich:
            same = " AND ".join(
                f"stage.{name} IS NOT DISTINCT FROM mirror.{name}"
                for name in map(quote, dict.fromkeys([*shape.key, *one.on]))
            )
            self._update(
                f"{self._mirrors.name(copy.stage)} AS stage",
                {here: f"mirror.{quote(here)}" for here in one.columns.values()},
                f"FROM {self._mirrors.live_rows(copy.table, shape)} AS mirror WHERE {same}",
                intervals=_intervals_of(shape, one, here=True),
            )

    def renew(
        self,
        table: TableName,
        one: Enrichment,
        keys: Sequence[pa.Array],
        values: Sequence[pa.Array],
        *,
        lsn: Ints,
        micros: Ints,
    ) -> int:
        """Give rows that were written before n changes of their partners what these are by then.

        Args:
            table: Whose rows; those that were written after a change have it.
            one: What they take.
            keys: What the rows' columns of `on` are, in its order.
            values: What the partners are, in the order of `columns`; null where there is none.
            lsn: Of each change's transaction, which is that of the rows then.
            micros: When it was committed.

        Returns:
            How many rows.
        """
        on, of = (
            [f"_cdc_{kind}_{at}" for at in range(len(arrays))]
            for kind, arrays in (("on", keys), ("value", values))
        )
        batch = pa.table(
            [*keys, *values, pa.array(lsn, pa.uint64()), micros],
            [*on, *of, "_cdc_end_lsn", "_cdc_micros"],
        )
        joined = " AND ".join(
            f"mirror.{quote(here)} = _cdc_batch.{key}" for here, key in zip(one.on, on, strict=True)
        )
        taken = dict(
            zip(one.columns.values(), (f"_cdc_batch.{value}" for value in of), strict=True)
        )
        pairs = zip(one.columns.values(), values, strict=True)
        return self._update(
            f"{self._mirrors.name(table)} AS mirror",
            taken | _stamp("_cdc_batch._cdc_end_lsn", "_cdc_batch._cdc_micros"),
            f"FROM _cdc_batch WHERE {joined} AND mirror.{_LSN} <= _cdc_batch._cdc_end_lsn",
            intervals=[here for here, array in pairs if array.type == INTERVAL],
            batch=batch,
        )

    def forget(self, table: TableName, one: Enrichment, moment: Moment) -> int:
        """Take from rows that were written up to a truncation of their partners what these were.

        Returns:
            How many rows.
        """
        has = " OR ".join(f"mirror.{quote(here)} IS NOT NULL" for here in one.columns.values())
        nothing = dict.fromkeys(one.columns.values(), "NULL")
        return self._update(
            f"{self._mirrors.name(table)} AS mirror",
            nothing | _stamp(int(moment.lsn), moment.micros),
            f"WHERE mirror.{_LSN} <= {int(moment.lsn)} AND ({has})",
        )

    def renew_differing(
        self, table: TableName, one: Enrichment, copy: Copy, shape: TableShape, lsn: LSN
    ) -> int:
        """Give rows what their partners are by a copy that is compared with these.

        Args:
            table: Whose rows.
            one: What they take.
            copy: Of the partner; the keys of the rows that differ lie in `_cdc_differing`.
            shape: The partner's kept one.
            lsn: As of which all of them are.

        Returns:
            How many rows.
        """
        named = ", ".join(map(quote, shape.key))
        kinds = dict(zip(shape.names, shape.types, strict=True))
        differ = " OR ".join(
            differs(f"mirror.{quote(here)}", f"partner.{quote(name)}", kinds[name])
            for name, here in one.columns.items()
        )
        taken = {here: f"partner.{quote(name)}" for name, here in one.columns.items()}
        return self._update(
            f"{self._mirrors.name(table)} AS mirror",
            taken | _stamp(int(lsn), "NULL"),
            f"FROM (FROM (SELECT DISTINCT {named} FROM _cdc_differing)"
            f" LEFT JOIN {self._mirrors.name(copy.stage)} USING ({named})) AS partner"
            f" WHERE {_joined('mirror', 'partner', one)} AND ({differ})",
            intervals=_intervals_of(shape, one),
        )

    def _update(
        self,
        target: str,
        values: Mapping[str, str],
        rows: str,
        *,
        intervals: Collection[str] = (),
        batch: pa.Table | None = None,
    ) -> int:
        """Set columns of rows, and give how many these are.

        DuckDB leaves a value as it is that equals the new one, also under a NULL, and 30 days equal
        a month. So intervals are made first what no other one equals.
        """
        if intervals:
            self._execute(target, dict.fromkeys(intervals, _LONGEST), rows, batch)
        return self._execute(target, values, rows, batch)

    def _execute(
        self, target: str, values: Mapping[str, str], rows: str, batch: pa.Table | None
    ) -> int:
        listed = ", ".join(f"{quote(name)} = {value}" for name, value in values.items())
        update = f"UPDATE {target} SET {listed} {rows}"
        ((count,),) = self._mirrors.rows_with(update, batch)
        return int(count)


def _joined(rows: str, partner: str, one: Enrichment) -> str:
    return " AND ".join(
        f"{rows}.{quote(here)} = {partner}.{quote(name)}" for here, name in one.on.items()
    )


def _intervals_of(shape: TableShape, one: Enrichment, *, here: bool = False) -> list[str]:
    """Name the columns of rows that take intervals, by the partner's shape or by the rows' own."""
    kinds = dict(zip(shape.names, shape.types, strict=True))
    return [mine for name, mine in one.columns.items() if kinds[mine if here else name] == INTERVAL]


def _stamp(lsn: object, micros: object) -> dict[str, str]:
    """Say which transaction a row comes from."""
    return {LSN_COLUMN: str(lsn), COMMIT_COLUMN: f"make_timestamptz(({micros})::BIGINT)"}
