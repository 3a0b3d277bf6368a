"""Stages in a DuckDB file: copies of tables, kept up by the stream until they are put in place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import Mask
from cdc_assets.changes.buckets import Bucket
from cdc_assets.changes.rows import COMMIT_COLUMN, LSN_COLUMN, Lookup, added_columns
from cdc_assets.changes.shape import TableShape
from cdc_assets.identifiers import TableName, quote
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.messages import Ints
from cdc_assets.shaping.equality import differs
from cdc_assets.warehouse.buckets import in_bucket, numbered
from cdc_assets.warehouse.liveness import carry_sql, gone
from cdc_assets.warehouse.lookups import PLACE, as_kept, key_matches, key_names
from cdc_assets.warehouse.mirrors import DuckDBMirrors
from cdc_assets.warehouse.traces import read_lsns
from cdc_assets.warehouse.values import Copy, Differences, Write
from cdc_assets.warehouse.zeros import refuse_lost_zeros

_SHOWN_KEYS = 20
_FIRST_PAGE, _PAGE_BYTES = 5_000, 32 * 1024 * 1024


class Stages:
    """The stages in an open warehouse; all but the questions belong into a transaction."""

    def __init__(self, mirrors: DuckDBMirrors) -> None:
        self._mirrors = mirrors

    def create(self, stage: TableName, shape: TableShape) -> None:
        """Make an empty stage, in place of one that was left."""
        self._mirrors.drop(stage)
        self._mirrors.create(stage, shape)

    def drop(self, stage: TableName) -> None:
        """Drop a stage, if it is there."""
        self._mirrors.drop(stage)

    def take_over(self, made: TableName, stage: TableName) -> None:
        """Put one in the place of another."""
        self._mirrors.drop(stage)
        self._mirrors.rename(made, stage)

    def put(self, stage: TableName, shape: TableShape, rows: pa.Table) -> None:
        """Put rows of a chunk in, each in place of the one with its key.

        Raises:
            ValueConversionError: DuckDB would not keep a value as it is.
        """
        self._mirrors.delete(stage, shape, [rows[name].combine_chunks() for name in shape.key])
        self._mirrors.insert(stage, rows)

    def brought(
        self, stage: TableName, shape: TableShape, keys: Sequence[pa.Array], lsns: Collection[LSN]
    ) -> tuple[Ints, Ints]:
        """Find which of n keys have a row that a chunk of these LSNs brought.

        Returns:
            Places among the keys, and the LSN of each.
        """
        listed = ", ".join(str(int(lsn)) for lsn in lsns)
        found = self._mirrors.rows_with(
            f"SELECT _cdc_batch._cdc_place, mirror.{quote(LSN_COLUMN)} FROM _cdc_batch"
            f" JOIN {self._mirrors.name(stage)} AS mirror ON {key_matches(shape)}"
            f" WHERE mirror.{quote(COMMIT_COLUMN)} IS NULL"
            f" AND mirror.{quote(LSN_COLUMN)} IN ({listed})",
            pa.table([*keys, np.arange(len(keys[0]))], names=[*key_names(shape), "_cdc_place"]),
        )
        pairs = np.array(found, dtype=np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def write(self, stage: TableName, shape: TableShape, write: Write) -> Mask:
        """Apply one batch, whatever is there.

        Returns:
            Per row of `looked_up` whether it found no old row, and was not written.
        """
        if write.truncated_at is not None:
            self._mirrors.truncate(stage, write.truncated_at)
        lacking = self._fill(stage, shape, write.looked_up)
        self._mirrors.delete(stage, shape, write.deleted)
        self._mirrors.insert(stage, write.inserted)
        if write.looked_up is not None:
            self._mirrors.insert_filled(stage, shape)
        return lacking

    def _fill(self, stage: TableName, shape: TableShape, lookup: Lookup | None) -> Mask:
        if lookup is None:
            return np.zeros(0, dtype=bool)
        refuse_lost_zeros(stage, lookup.rows)
        found = self._mirrors.fill(stage, shape, lookup)
        lacking = np.ones(lookup.rows.num_rows, dtype=bool)
        lacking[found] = False
        return lacking

    def pages(self, stage: TableName, shape: TableShape) -> Iterator[pa.Table]:
        """Give all rows of a stage, so many at a time as fit in some memory.

        Args:
            stage: Which.
            shape: Of it.
        """
        fields = [*zip(shape.names, shape.types, strict=True)]
        fields += [(added.name, added.type) for added in added_columns(shape)]
        after, limit = -1, _FIRST_PAGE
        while True:
            found = self._mirrors.query(
                f"SELECT *, rowid AS {PLACE} FROM {self._mirrors.name(stage)}"
                f" WHERE rowid > {after} ORDER BY rowid LIMIT {limit}"
            )
            if not found.num_rows:
                return
            after = found[PLACE][-1].as_py()
            limit = int(limit * min(4, max(1 / 16, _PAGE_BYTES / max(1, found.nbytes)))) + 1
            columns = [as_kept(found[name].combine_chunks(), kind) for name, kind in fields]
            yield pa.table(columns, [name for name, _ in fields])

    def within(self, shape: TableShape, bucket: Bucket, keys: Sequence[pa.Array]) -> Mask:
        """Find which of n keys are in a bucket."""
        found = self._mirrors.rows_with(
            f"SELECT _cdc_place FROM _cdc_batch WHERE {in_bucket(shape, bucket)}",
            pa.table([*keys, np.arange(len(keys[0]))], names=[*shape.key, "_cdc_place"]),
        )
        inside = np.zeros(len(keys[0]), dtype=bool)
        inside[np.array(found, dtype=np.int64).reshape(-1)] = True
        return inside

    def compare(
        self,
        copy: Copy,
        shape: TableShape,
        *,
        lsn: LSN,
        plan: Sequence[Bucket] = (),
        write: bool,
        before_write: Callable[[], None] = lambda: None,
    ) -> Differences:
        """Compare a mirror's part with its copy; the keys that differ are in `_cdc_differing`."""
        comparison = _Comparison(self._mirrors, copy, shape)
        found = replace(comparison.differences(), parts=comparison.parts(plan))
        if write:
            before_write()
            found = replace(found, read_lsns=comparison.read_lsns(found, lsn))
            comparison.write(lsn)
        comparison.end()
        return found

    def replace(
        self, copy: Copy, shape: TableShape, *, lsn: LSN, carried: Sequence[str] = ()
    ) -> Differences:
        """Put the copy in the mirror's place, whatever that is."""
        if carried:
            mirror, stage = map(self._mirrors.name, (copy.table, copy.stage))
            carry = carry_sql(shape, mirror, stage, columns=carried, lsn=lsn)
            self._mirrors.connection.execute(carry).fetchall()
        counts = self._mirrors.row_counts([copy.table, copy.stage])
        before = counts[copy.table].live if copy.table in counts else 0
        rows = counts[copy.stage].live
        self._mirrors.drop(copy.table)
        self._mirrors.rename(copy.stage, copy.table)
        return Differences(
            rows=rows,
            mirror_rows=before,
            missing=rows,
            different=0,
            extra=before,
            read_lsns=read_lsns(self._mirrors, self._mirrors.name(copy.table)),
        )

    def newest_lsn(self, table: TableName) -> LSN:
        """Give the highest LSN that a row carries, or 0."""
        (found,) = self._mirrors.connection.execute(
            f"SELECT coalesce(max({quote(LSN_COLUMN)}), 0) FROM {self._mirrors.name(table)}"
        ).fetchall()
        return LSN(found[0])


class _Comparison:
    """A mirror's part beside its copy, and the keys of the rows that differ in a table of keys."""

    def __init__(self, mirrors: DuckDBMirrors, copy: Copy, shape: TableShape) -> None:
        self._mirrors, self._connection, self._shape = mirrors, mirrors.connection, shape
        self._mirror, self._stage = mirrors.name(copy.table), mirrors.name(copy.stage)
        self._live = mirrors.live_rows(copy.table, shape)
        self._condition = in_bucket(shape, copy.bucket) if copy.bucket else "true"
        self._removes = not copy.predicate
        self._keys = [quote(name) for name in shape.key]
        left_out = {*shape.key, *(one.name for one in (*shape.enriched, *shape.dropped))}
        self._compared = [column for column in shape.columns if column.name not in left_out]
        self._differ = [
            differs(f"mirror.{name}", f"stage.{name}", column.type.arrow)
            for column in self._compared
            for name in [quote(column.name)]
        ]
        self._same_key = " AND ".join(f"mirror.{key} = stage.{key}" for key in self._keys)

    def differences(self) -> Differences:
        """Find the keys whose rows differ, and count them."""
        counted = [self._count(self._stage), self._count(self._live)]
        self._find()
        missing, extra, different = self._one_row(
            "SELECT count(*) FILTER (WHERE is_missing), count(*) FILTER (WHERE is_extra),"
            " count(*) FILTER (WHERE NOT is_missing AND NOT is_extra) FROM _cdc_differing"
        )
        doubled = 0
        if self._removes and counted[1] != counted[0] - missing + extra:
            doubled = self._find_doubled()
        return Differences(
            rows=counted[0],
            mirror_rows=counted[1],
            missing=missing,
            different=different,
            extra=extra + doubled,
            columns=self._columns() if different else (),
            keys=self._some_keys() if missing + extra + different + doubled else (),
        )

    def read_lsns(self, found: Differences, lsn: LSN) -> frozenset[LSN]:
        """Give the LSNs of rows that `write` writes and that no transaction has brought."""
        if not found.count:
            return frozenset()
        same = " AND ".join(f"stage.{key} = found.{key}" for key in self._keys)
        written = f"(FROM {self._stage} AS stage SEMI JOIN _cdc_differing AS found ON {same})"
        gone = {lsn} if found.extra and self._shape.keeps_deleted else set()
        return read_lsns(self._mirrors, written) | gone

    def write(self, lsn: LSN) -> None:
        """Write the rows of the keys that were found; those of no row are gone as of an LSN."""
        named = ", ".join(self._keys)
        matches = " AND ".join(
            f"mirror.{key} IS NOT DISTINCT FROM found.{key}" for key in self._keys
        )
        same = " AND ".join(f"stage.{key} = found.{key}" for key in self._keys)
        if self._shape.keeps_deleted:
            self._execute(
                f"CREATE TEMP TABLE _cdc_gone AS SELECT DISTINCT ON ({named})"
                f" {gone('mirror', lsn)} FROM {self._live} AS mirror"
                f" SEMI JOIN _cdc_differing AS found ON {matches}"
                f" ANTI JOIN {self._stage} AS stage ON {self._same_key}"
            )
        self._execute(
            f"DELETE FROM {self._mirror} AS mirror USING _cdc_differing AS found WHERE {matches}"
        )
        self._execute(
            f"INSERT INTO {self._mirror} SELECT stage.* FROM {self._stage} AS stage"
            f" JOIN (SELECT DISTINCT {named} FROM _cdc_differing) AS found ON {same}"
        )
        if self._shape.keeps_deleted:
            self._execute(f"INSERT INTO {self._mirror} SELECT * FROM _cdc_gone")
            self._execute("DROP TABLE _cdc_gone")

    def end(self) -> None:
        """Forget the keys that were found."""
        self._execute("DROP TABLE _cdc_differing")

    def parts(self, plan: Sequence[Bucket]) -> tuple[Differences, ...]:
        """Count per bucket what `differences` has found."""
        if not plan:
            return ()
        number = numbered(self._shape, plan)
        rows, mirror_rows = (
            self._per_bucket(f"SELECT {number}, count(*) FROM {relation} GROUP BY 1")
            for relation in (self._stage, self._live)
        )
        missing, extra, different = (
            self._per_bucket(
                f"SELECT {number}, count(*) FROM _cdc_differing WHERE {kind} GROUP BY 1"
            )
            for kind in ("is_missing", "is_extra", "NOT is_missing AND NOT is_extra")
        )
        return tuple(
            Differences(
                rows=rows.get(at, 0),
                mirror_rows=mirror_rows.get(at, 0),
                missing=missing.get(at, 0),
                different=different.get(at, 0),
                extra=extra.get(at, 0),
            )
            for at in range(len(plan))
        )

    def _per_bucket(self, sql: str) -> dict[int, int]:
        return dict(self._connection.execute(sql).fetchall())

    def _find(self) -> None:
        key = ", ".join(f"coalesce(mirror.{key}, stage.{key}) AS {key}" for key in self._keys)
        differs = " OR ".join(["mirror._cdc_is IS NULL", "stage._cdc_is IS NULL", *self._differ])
        if not self._removes:
            differs = f"stage._cdc_is IS NOT NULL AND ({differs})"
        self._execute("DROP TABLE IF EXISTS temp._cdc_differing")
        self._execute(
            f"CREATE TEMP TABLE _cdc_differing AS SELECT {key},"
            " mirror._cdc_is IS NULL AS is_missing, stage._cdc_is IS NULL AS is_extra"
            f" FROM {self._part(self._live)} AS mirror"
            f" FULL JOIN {self._part(self._stage)} AS stage ON {self._same_key} WHERE {differs}"
        )

    def _part(self, relation: str) -> str:
        return f"(SELECT *, true AS _cdc_is FROM {relation} WHERE {self._condition})"

    def _find_doubled(self) -> int:
        """Add the keys that have more than one row in the mirror, and count the rows too many."""
        named = ", ".join(self._keys)
        doubled = (
            f"SELECT {named}, count(*) - 1 AS surplus FROM {self._live} WHERE {self._condition}"
            f" GROUP BY {named} HAVING count(*) > 1"
        )
        same = " AND ".join(f"stage.{key} = doubled.{key}" for key in self._keys)
        (surplus,) = self._one_row(
            f"SELECT coalesce(sum(surplus), 0)::BIGINT FROM ({doubled}) AS doubled"
            f" SEMI JOIN {self._stage} AS stage ON {same}"
        )
        self._execute(
            f"INSERT INTO _cdc_differing SELECT {named}, false, true FROM ({doubled}) AS doubled"
            f" SEMI JOIN {self._stage} AS stage ON {same}"
        )
        return int(surplus)

    def _columns(self) -> tuple[str, ...]:
        differ = ", ".join(f"bool_or({differs})" for differs in self._differ)
        if not differ:
            return ()
        found = " AND ".join(f"found.{key} = stage.{key}" for key in self._keys)
        flags = self._one_row(
            f"SELECT {differ} FROM _cdc_differing AS found"
            f" JOIN {self._stage} AS stage ON {found}"
            f" JOIN {self._live} AS mirror ON {self._same_key}"
        )
        columns = zip(self._compared, flags, strict=True)
        return tuple(column.name for column, flag in columns if flag)

    def _some_keys(self) -> tuple[tuple[str, ...], ...]:
        texts = ", ".join(f"{key}::VARCHAR" for key in self._keys)
        rows = self._connection.execute(
            f"SELECT DISTINCT {texts} FROM _cdc_differing ORDER BY ALL LIMIT {_SHOWN_KEYS}"
        ).fetchall()
        return tuple(tuple(map(str, row)) for row in rows)

    def _count(self, relation: str) -> int:
        return int(self._one_row(f"SELECT count(*) FROM {relation} WHERE {self._condition}")[0])

    def _one_row(self, sql: str) -> tuple[int, ...]:
        (row,) = self._connection.execute(sql).fetchall()
        return tuple(row)

    def _execute(self, sql: str) -> None:
        self._connection.execute(sql).fetchall()
