"""Which alterations of a table its rows in the warehouse can follow as they are.

What a row has in a column is provable where Postgres has not rewritten the table: then every value
that was there is there still, and a column that was added shows one value for all older rows.
Columns are told apart by their attnum; of what came and went between two looks at the catalog
nothing is known, so that is not followed. Nor is what the stream can't tell: it announces names and
types, and two shapes of which these are the same are one to it. A shape between the two looks that
is announced like one of them is that one, where columns were only added or only dropped besides
what was renamed: as many columns in the order of their attnum are the same ones. Where some were
added and some dropped, an added one may have stood in for a dropped one, but only at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from cdc_assets.changes.shape import SourceColumn, TableShape

_DROPPED = "-"
_TEXTS = frozenset({"text", "character varying"})


@dataclass(frozen=True, slots=True)
class Evolution:
    """How a table of one shape becomes one of another, both as the source has them.

    Attributes:
        fills: What rows that are there have in columns that were added, one value each, by the
            columns' names; nothing where that is null.
    """

    before: TableShape
    after: TableShape
    fills: Mapping[str, pa.Array] = field(default_factory=dict)

    @property
    def added(self) -> tuple[SourceColumn, ...]:
        """Columns that the source has got."""
        known = {column.attnum for column in self.before.columns}
        return tuple(column for column in self.after.columns if column.attnum not in known)

    @property
    def gone(self) -> tuple[SourceColumn, ...]:
        """Columns that the source has no more."""
        known = {column.attnum for column in self.after.columns}
        return tuple(column for column in self.before.columns if column.attnum not in known)

    @property
    def pairs(self) -> list[tuple[SourceColumn, SourceColumn]]:
        """Columns of before with what they are after."""
        after = {column.attnum: column for column in self.after.columns}
        return [(one, after[one.attnum]) for one in self.before.columns if one.attnum in after]

    @property
    def altered(self) -> list[tuple[SourceColumn, SourceColumn]]:
        """Columns that have another name or type, before and after."""
        return [pair for pair in self.pairs if _declared(pair[0]) != _declared(pair[1])]

    @property
    def has_moved_names(self) -> bool:
        """Whether a name is another column's now than it was."""
        after = {column.name: column.attnum for column in self.after.columns}
        return any(
            after.get(column.name, column.attnum) != column.attnum for column in self.before.columns
        )

    def leads_to(self, other: Evolution) -> bool:
        """Whether another one is of the same look at the catalog."""
        before, now = other.after, self.after
        return (before.declaration, before.versions, before.files) == (
            now.declaration,
            now.versions,
            now.files,
        )

    @property
    def said(self) -> str:
        """Say what was altered."""
        found = [f"added {column.name!r}" for column in self.added]
        found += [f"dropped {column.name!r}" for column in self.gone]
        for before, after in self.altered:
            if before.name != after.name:
                found.append(f"renamed {before.name!r} to {after.name!r}")
            if _declared(before)[1:] != _declared(after)[1:]:
                found.append(f"{after.name!r} is {after.type.name}, was {before.type.name}")
        return ", ".join(found)


def find_evolution(before: TableShape, after: TableShape) -> Evolution | None:
    """Compare two shapes of a table, as two looks at the catalog had them.

    Returns:
        How one becomes the other; None where it can't be proven what its rows are then.
    """
    known, now = before.version_of, after.version_of
    found = Evolution(before, after)
    is_same_table = (
        before.oid,
        before.publication.declaration,
        before.key,
        before.key_origin,
        before.shaping,
    ) == (after.oid, after.publication.declaration, after.key, after.key_origin, after.shaping)
    if not (is_same_table and known and now) or not before.keeps_files(after):
        return None
    if before.taken != after.taken or before.announced == after.announced:
        return None
    if _attnums(before) != _attnums(after):
        return None
    if any(one.has_other_parts(other) for one, other in found.pairs):
        return None
    if any(one.attnum in known for one in found.added):
        return None  # it was there, and the stream did not bring it: older rows have values, too
    if any(now.get(one.attnum, _DROPPED) != _DROPPED for one in found.gone):
        return None
    shown = {column.attnum for column in (*before.columns, *after.columns)}
    if any(known.get(at) != now.get(at) for at in (known.keys() | now.keys()) - shown):
        return None  # came and went, or is not kept: it may have had a kept one's name for a while
    if found.added and found.gone and (found.altered or before.columns[-1] in found.gone):
        return None  # what was added may have had the name of what is gone
    if not found.altered and any(known[one.attnum] != now[one.attnum] for one, _ in found.pairs):
        return None
    if not all(_holds(one, other) for one, other in found.altered):
        return None
    return found


def _attnums(shape: TableShape) -> list[int]:
    return [column.attnum for column in shape.key_columns]


def _declared(column: SourceColumn) -> tuple[object, ...]:
    return (column.name, column.type_oid, column.typmod)


def _holds(before: SourceColumn, after: SourceColumn) -> bool:
    """Whether a column that was not rewritten has the same values in a wider type."""
    one, other = before.type, after.type
    if (before.type_oid, before.typmod) == (after.type_oid, after.typmod):
        return bool(one.arrow == other.arrow)  # a mirror of an earlier version may keep another one
    if one.is_array or other.is_array or one.is_enum or other.is_enum:
        return False
    if pa.types.is_decimal(one.arrow) and pa.types.is_decimal(other.arrow):
        (before_digits, scale), (digits, scale_now) = (
            (int(kind.arrow.precision), int(kind.arrow.scale)) for kind in (one, other)
        )
        return scale == scale_now and before_digits <= digits
    names = {kind.name.partition("(")[0] for kind in (one, other)}
    return names <= _TEXTS
