"""What a table's config makes of its rows, column by column: which are kept, how, and as what.

A column of the warehouse is a function of one column of the source, so a change that does not carry
a value leaves the warehouse's as it is; but where a transform makes columns of whole rows, a change
has to carry all. Keys stay keys: what masks them is one to one.

Two shapes belong to a table: the *source's*, of the columns that are kept under the names that
they have there, and the *kept* one, of the same columns as the warehouse has them.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from cdc_assets.changes.batch import ChangeBatch, Chosen, Mask, Record
from cdc_assets.changes.leaving import of_kept_rows
from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.config.shaping import ColumnsConfig, Deletes, MaskKind
from cdc_assets.identifiers import fold
from cdc_assets.pgoutput.decode import RawChanges
from cdc_assets.pgoutput.messages import INSERT, UPDATE
from cdc_assets.pgoutput.types import SourceType
from cdc_assets.shaping.declarations import UNMIRRORED
from cdc_assets.shaping.enriching import Enrichment
from cdc_assets.shaping.functions import FunctionError
from cdc_assets.shaping.masks import masked, masked_type
from cdc_assets.shaping.predicates import columns_of, matches
from cdc_assets.shaping.transforming import (
    dropped_rows,
    refuse_lacking,
    transformed,
    transformed_rows,
    transformed_with_old,
)
from cdc_assets.shaping.transforms import Transform

_TEXT = SourceType(name="text", oid=25, typmod=-1, is_array=False, is_enum=False)


@dataclass(frozen=True, slots=True)
class Shaping:
    """One table's.

    Attributes:
        columns: Which are kept, and their names.
        where: Which rows are kept, over the columns as they are renamed; empty: all.
        mask: Those that are masked, by their names on the source.
        secret: The key of `hmac`.
        deletes: Whether rows that are deleted stay, and say so.
        transform: The function that rows go through at last.
        is_mirrored: Whether current rows are kept. Where changes alone are, no key tells rows
            apart, whether the source has one or not.
        enrich: What rows take of other tables.
        enriched: The columns that these have for it, where the source's catalog is known.
    """

    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    where: str = ""
    mask: Mapping[str, MaskKind] = field(default_factory=dict)
    secret: bytes = b""
    deletes: Deletes = "hard"
    transform: Transform | None = None
    is_mirrored: bool = True
    enrich: tuple[Enrichment, ...] = ()
    enriched: tuple[SourceColumn, ...] = ()

    def masks_key(self, shape: TableShape) -> bool:
        """Whether the warehouse's keys are others than the source's."""
        return not self.mask.keys().isdisjoint(shape.key)

    @property
    def hides(self) -> bool:
        """Whether the source has values that are not to be seen here."""
        columns = self.columns
        is_narrowed = bool(columns.exclude) or columns.include is not None
        return is_narrowed or bool(self.mask) or self.transform is not None

    @property
    def declaration(self) -> str:
        """Give what must stay for rows to stay what they are; empty where nothing is shaped.

        Of the secret only what a hash of something else under it tells.
        """
        columns = self.columns.model_dump(exclude_defaults=True)
        said: dict[str, object] = {}
        if columns:
            said["columns"] = columns
        if self.where:
            said["where"] = self.where
        if self.mask:
            said["mask"] = dict(self.mask)
        if not self.is_mirrored:
            said["keep"] = UNMIRRORED
        if self.enrich:
            said["enrich"] = [one.declaration for one in self.enrich]
        masks = {*self.mask.values(), *(mask for one in self.enrich for mask in one.masks.values())}
        if "hmac" in masks:
            said["mask_key"] = hmac.digest(self.secret, b"cdc_assets mask_key", "sha256").hex()
        if self.deletes == "soft":
            said["deletes"] = self.deletes
        if self.transform is not None:
            said["transform"] = self.transform.declaration
        return json.dumps(said, sort_keys=True) if said else ""

    def source(self, shape: TableShape) -> TableShape:
        """Leave out of a table's shape what is not kept, and note the shaping and chosen types."""
        declaration = self.declaration
        if not declaration:
            return shape
        if not self.is_mirrored:
            shape = replace(shape, key=(), key_origin=0)
        kept = tuple(
            self._chosen_type(column)
            for column in shape.columns
            if self._keeps(column.name, shape.key)
        )
        return replace(
            shape,
            columns=kept,
            shaping=declaration,
            keeps_deleted=self.deletes == "soft",
            enriched=self.enriched,
        )

    def _chosen_type(self, column: SourceColumn) -> SourceColumn:
        chosen = self.columns.types.get(column.name)
        if chosen is None:
            return column
        return replace(column, type=replace(column.type, kept=chosen))

    def changes(self, raw: RawChanges, key: Sequence[str]) -> RawChanges:
        """Leave out of changes the columns that are not kept, before any value is decoded."""
        keeps = [self._keeps(column.name, key) for column in raw.relation.columns]
        return raw if all(keeps) else raw.of_columns(keeps)

    def _keeps(self, name: str, key: Sequence[str]) -> bool:
        return self.columns.keeps(name) or name in key

    def kept(self, source: TableShape) -> TableShape:
        """Give the warehouse's shape of the source's.

        Where the transform can't be asked it is what that would be given: no row comes so far.
        """
        given = self.given(source)
        if self.transform is None:
            return given
        try:
            return self.transform.kept(given)
        except FunctionError:
            return given

    def given(self, source: TableShape) -> TableShape:
        """Give the shape of what is renamed and masked, before it is transformed."""
        more = (*source.dropped, *source.enriched)
        if not self.columns.rename and not self.mask and not more:
            return source
        return replace(
            source,
            columns=(*map(self.kept_column, source.columns), *more),
            key=tuple(map(self.name, source.key)),
        )

    def name(self, source_name: str) -> str:
        """Give a column's name in the warehouse."""
        return self.columns.rename.get(source_name, source_name)

    def kept_column(self, column: SourceColumn) -> SourceColumn:
        """Give a column of the source as the warehouse has it."""
        kind = self.mask.get(column.name)
        if kind is None or masked_type(kind, column.type.arrow) == column.type.arrow:
            return replace(column, name=self.name(column.name))
        return replace(
            column,
            name=self.name(column.name),
            type=_TEXT,
            collation="",
            operators=(),
            order_type="",
        )

    @property
    def chooses(self) -> bool:
        """Whether rows may be left out."""
        return bool(self.where) or (self.transform is not None and not self.is_late)

    @property
    def needs_every_value(self) -> bool:
        """Whether a row has to be known after each of its changes: it can't be read anew."""
        return self.transform is not None and (self.deletes == "soft" or bool(self.enrich))

    @property
    def is_late(self) -> bool:
        """Whether the function waits for what rows take of other tables; it keeps all rows then."""
        return self.transform is not None and bool(self.enrich)

    def staged(self, source: TableShape) -> TableShape:
        """Give the shape of rows of copies, until they are put in place."""
        return self.given(source) if self.is_late else self.kept(source)

    def reads(self, source: TableShape) -> list[int]:
        """Find the columns without which a row can't be shaped, by their places."""
        if self.transform is not None:
            return list(range(len(source.columns)))
        return self._asked(source)

    def _asked(self, source: TableShape) -> list[int]:
        if not self.where:
            return []
        read = {fold(name) for name in columns_of(self.where)}
        return [at for at, name in enumerate(source.names) if fold(self.name(name)) in read]

    def batch(
        self, batch: ChangeBatch, source: TableShape, *, from_old_rows: bool = False
    ) -> ChangeBatch:
        """Shape the changes of a table: which rows are kept, columns and old keys.

        Args:
            batch: The changes.
            source: The columns that they have.
            from_old_rows: Whether old values tell which rows were kept before; else it is told of
                new rows alone, in `ChangeBatch.chosen`.

        Raises:
            RowError: The condition can't be computed for a row.
            FunctionError: The transform fails.
        """
        if self.transform is not None and from_old_rows:
            refuse_lacking(batch)
        chosen = self._chosen(batch, source) if self.chooses else None
        if self.where and chosen is not None and from_old_rows:
            batch = self._of_kept_rows(batch, source, chosen)
            chosen = _every_row(batch)
        if self.mask:
            batch = replace(
                batch,
                columns=self._masked(batch.columns, source.names),
                old_key=self._masked(batch.old_key, source.key),
                record=self._masked_record(batch.record, source),
                old_values=self._masked_old(batch.old_values, source),
            )
        if source.dropped:
            batch = _without_values(batch, [column.type.arrow for column in source.dropped])
        if self.transform is not None and chosen is not None and not self.is_late:
            given = self.given(source)
            if from_old_rows:
                return transformed_with_old(batch, chosen, given, self.transform)
            return transformed(batch, chosen, given, self.transform)
        return batch if from_old_rows else replace(batch, chosen=chosen)

    def late(self, batch: ChangeBatch, source: TableShape) -> ChangeBatch:
        """Put changes through the function that have what their rows take of others.

        Raises:
            FunctionError: It fails.
        """
        if self.transform is None:
            return batch
        chosen = batch.chosen or _every_row(batch)
        done = transformed(batch, chosen, self.given(source), self.transform)
        if done.chosen is not None and (done.chosen.kept != chosen.kept).any():
            raise dropped_rows()
        return replace(done, chosen=batch.chosen)

    def late_rows(self, rows: pa.Table, source: TableShape) -> pa.Table:
        """Put rows of a copy through the function that have what they take of others.

        Args:
            rows: Of the staged shape, with columns that we add.
            source: The source's shape.

        Raises:
            FunctionError: It fails.
        """
        given = self.given(source)
        if self.transform is None:
            return rows
        count = len(given.columns)
        columns = [column.combine_chunks() for column in rows.columns[:count]]
        added = rows.select(rows.column_names[count:])
        made = transformed_rows(columns, added, given, self.transform)
        if made.num_rows < rows.num_rows:
            raise dropped_rows()
        return made

    def _of_kept_rows(self, batch: ChangeBatch, source: TableShape, chosen: Chosen) -> ChangeBatch:
        old = np.zeros(len(batch), dtype=bool)
        if len(batch.old_rows):
            asked = {at: batch.old_values[at] for at in self._asked(source)}
            # where it reads no column any will do
            old[batch.old_rows] = self._matches(asked or {0: _any_old_values(batch)}, source)
        return of_kept_rows(batch, new=chosen.kept, old=old)

    def _chosen(self, batch: ChangeBatch, source: TableShape) -> Chosen:
        unsure = np.zeros(len(batch), dtype=bool)
        for at in self.reads(source):
            unsure |= batch.unchanged.get(at, False)
        has_row = _every_row(batch).kept & ~unsure
        if not self.where:
            return Chosen(has_row, unsure)
        kept = np.zeros(len(batch), dtype=bool)
        rows = pa.array(np.flatnonzero(has_row))
        read = self._asked(source) or [0]
        kept[has_row] = self._matches({at: batch.columns[at].take(rows) for at in read}, source)
        return Chosen(kept, unsure)

    def _matches(self, columns: Mapping[int, pa.Array], source: TableShape) -> Mask:
        named = {self.name(source.names[at]): column for at, column in columns.items()}
        return matches(self.where, pa.table(named))

    def _masked_record(self, record: Record | None, source: TableShape) -> Record | None:
        if record is None:
            return None
        return replace(record, before=self._masked(record.before, source.names))

    def _masked_old(
        self, values: Mapping[int, pa.Array], source: TableShape
    ) -> Mapping[int, pa.Array]:
        names = [source.names[at] for at in values]
        return dict(zip(values, self._masked(list(values.values()), names), strict=True))

    def shown(self, columns: Sequence[pa.Array], source: TableShape) -> list[pa.Array]:
        """Give columns of the source as they may be shown: what is masked is."""
        return self._masked(columns, source.names)

    def keys(self, keys: Sequence[pa.Array], source: TableShape) -> list[pa.Array]:
        """Shape keys, one array per key column."""
        return self._masked(keys, source.key)

    def rows(self, rows: pa.Table, source: TableShape) -> pa.Table:
        """Shape whole rows of a table; columns that we add stay as they are.

        What they take of other tables is null: it is known where they are put in place.

        Raises:
            RowError: The condition can't be computed for a row.
            FunctionError: The transform fails.
        """
        is_same = not self.columns.rename and not self.mask and not self.chooses
        more = (*source.dropped, *source.enriched)
        if is_same and not more:
            return rows
        count = len(source.columns)
        arrays = [column.combine_chunks() for column in rows.columns]
        if self.where:
            read = {at: arrays[at] for at in self._asked(source) or [0]}
            kept = pa.array(self._matches(read, source))
            arrays = [array.filter(kept) for array in arrays]
        shaped = self._masked(arrays[:count], source.names)
        added = pa.table(arrays[count:], rows.column_names[count:])
        if self.transform is not None and not self.is_late:
            return transformed_rows(shaped, added, self.given(source), self.transform)
        nulls = [pa.nulls(len(arrays[0]), column.type.arrow) for column in more]
        names = [*map(self.name, source.names), *(column.name for column in more)]
        return pa.table([*shaped, *nulls, *added.columns], [*names, *added.column_names])

    def _masked(self, arrays: Sequence[pa.Array], names: Sequence[str]) -> list[pa.Array]:
        return [
            masked(array, self.mask[name], self.secret) if name in self.mask else array
            for name, array in zip(names, arrays, strict=False)
        ]


def _every_row(batch: ChangeBatch) -> Chosen:
    has_row = (batch.ops == INSERT) | (batch.ops == UPDATE)
    return Chosen(has_row, np.zeros(len(batch), dtype=bool))


def _without_values(batch: ChangeBatch, types: Sequence[pa.DataType]) -> ChangeBatch:
    """Add columns in which no change has a value."""
    record = batch.record
    if record is not None and record.before:
        old = [pa.nulls(len(batch.old_rows), kind) for kind in types]
        record = replace(record, before=[*record.before, *old])
    nulls = [pa.nulls(len(batch), kind) for kind in types]
    return replace(batch, columns=[*batch.columns, *nulls], record=record)


def _any_old_values(batch: ChangeBatch) -> pa.Array:
    return batch.old_key[0] if batch.record is None else batch.record.before[0]
