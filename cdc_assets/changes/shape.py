"""A table's columns and key, as the source declares them and as they are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pyarrow as pa

from cdc_assets.changes.partitions import compare_partitions
from cdc_assets.pgoutput.relations import Relation
from cdc_assets.pgoutput.types import SourceType, intervals_as_text


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A published column.

    Attributes:
        attnum: Tells a column that was dropped and added again from the old one.
        type_oid: As declared, domains unresolved: what Relation messages carry.
        typmod: Likewise.
        collation: Quoted name of a collation other than the database's, or empty.
        operators: Its <, <=, =, >= and > with their schemas, where they are not pg_catalog's.
        order_type: The type to cast it to when it is compared, or empty for its own.
        is_widened: Whether it is kept as text since a value did not fit its type.
        parts: What its type is made of, each as `part:version`: a part with another version stands
            for other texts of values that are there. Empty where nothing is known.
    """

    name: str
    attnum: int
    type: SourceType
    type_oid: int
    typmod: int
    nullable: bool
    collation: str = ""
    operators: tuple[str, ...] = ()
    order_type: str = ""
    is_widened: bool = False
    parts: str = ""

    @property
    def widened(self) -> SourceColumn:
        """The same one, kept as its text since a value did not fit its type."""
        return replace(self, type=replace(self.type, kept="text"), is_widened=True)

    def has_other_parts(self, later: SourceColumn) -> bool:
        """Whether values that are there have other texts now; parts that came alter none."""
        before, now = _pairs(self.parts), _pairs(later.parts)
        return any(before[part] != now[part] for part in before.keys() & now.keys())


@dataclass(frozen=True, slots=True)
class Published:
    """How a publication shows a table, by what tells that something was left out for a while.

    Attributes:
        publication: Its oid; 0 where nothing is known.
        version: Changes with every ALTER PUBLICATION of its owner, name or options, whatever that
            came to: what was left out before the last one is for the slot to tell.
        row_filter: A digest of it, or empty.
        entry: The table's own entry; a new one when it left and came back, and when its row filter
            or its column list was changed. 0 for none.
        schema_entry: Likewise that of its schema.
    """

    publication: int = 0
    version: int = 0
    row_filter: str = ""
    entry: int = 0
    schema_entry: int = 0

    @property
    def declaration(self) -> tuple[object, ...]:
        """What must stay for every change to be published."""
        return (self.publication, self.row_filter, self.entry, self.schema_entry)

    def altered_to(self, later: Published) -> str:
        """Say what was altered; empty when nothing was."""
        if not self.publication or later.declaration == self.declaration:
            return ""
        if later.publication != self.publication:
            return "its publication was dropped and made anew"
        if later.row_filter != self.row_filter:
            return "its row filter in the publication was changed"
        return "it left the publication and came back, or its column list there was changed"


@dataclass(frozen=True, slots=True)
class TableShape:
    """The published columns in the stream's order, and the names of those that identify a row.

    Attributes:
        oid: The table's, which outlives a change of its name.
        publication: How the table is published.
        key_origin: Changes when the key was dropped and made anew, 0 where nothing tells that: what
            was changed in between may not have had one row per key.
        files: Those that hold its rows: others after a rewrite, a truncation or a vacuum in full.
        versions: Of all columns in the catalog, by their attnum: another one after an ALTER of the
            column, `-` once it is dropped.
        partitions: Of a partitioned table itself and all that is below it, each as `oid:since:file`
            (`changes/partitions`); empty where that is not known.
        shaping: What the config makes of its rows, by `Shaping.declaration`.
        keeps_deleted: Whether rows that are deleted stay, and say so.
        enriched: Columns that rows take of other tables, as these have them in the warehouse. A
            kept shape has them among its columns, too, behind its own.
        dropped: Columns that the source has no more, as the warehouse has them: rows that were
            written since are without a value there. A kept shape has them among its columns, too.
        called: The name that the source has for the table, or empty where that is not known.
    """

    oid: int
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]
    publication: Published = field(default_factory=Published)
    key_origin: int = 0
    files: str = ""
    versions: str = ""
    shaping: str = ""
    keeps_deleted: bool = False
    enriched: tuple[SourceColumn, ...] = ()
    dropped: tuple[SourceColumn, ...] = ()
    called: str = ""
    partitions: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Column names."""
        return tuple(column.name for column in self.columns)

    @property
    def types(self) -> tuple[pa.DataType, ...]:
        """Arrow types."""
        return tuple(column.type.arrow for column in self.columns)

    @property
    def key_indexes(self) -> tuple[int, ...]:
        """Where the key's columns stand, in the key's order."""
        return tuple(self.names.index(name) for name in self.key)

    @property
    def key_columns(self) -> tuple[SourceColumn, ...]:
        """The key's columns, in the key's order."""
        return tuple(self.columns[at] for at in self.key_indexes)

    @property
    def declaration(self) -> tuple[object, ...]:
        """What must stay for values to stay what they are; two shapes may differ in the rest."""
        columns = self.columns
        return (
            self.oid,
            self.publication.declaration,
            self.key,
            self.key_origin,
            *map(_identity, columns),
        )

    @property
    def announced(self) -> list[tuple[str, int, int]]:
        """What the stream says of the columns: names and types."""
        return [(column.name, column.type_oid, column.typmod) for column in self.columns]

    def difference(self, relation: Relation) -> str:
        """Say how a Relation message differs from this shape; empty when it does not."""
        if relation.oid != self.oid:
            return "it is another table of the same name"
        announced = [(column.name, column.type_oid, column.typmod) for column in relation.columns]
        return _difference(self.announced, announced)

    def altered_to(self, later: TableShape) -> str:
        """Say how the catalog's later shape differs in its declaration; empty when it does not."""
        if later.oid != self.oid:
            return "it is another table of the same name"
        sides = [[*map(_identity, shape.columns)] for shape in (self, later)]
        reasons = [_difference(*sides)]
        now = {column.attnum: column for column in later.columns}
        reasons += [
            f"the type of {now[column.attnum].name!r} was altered"
            for column in self.columns
            if column.attnum in now and column.has_other_parts(now[column.attnum])
        ]
        if later.key != self.key:
            reasons.append(f"its key is ({', '.join(later.key)}), was ({', '.join(self.key)})")
        elif later.key_origin != self.key_origin:
            reasons.append("its key was made anew")
        reasons.append(self.publication.altered_to(later.publication))
        if later.shaping != self.shaping:
            reasons.append("the config shapes it otherwise")
        elif later.taken != self.taken:
            reasons.append("columns that it takes of another table were altered there")
        return ", ".join(filter(None, reasons))

    def with_types_of(self, before: TableShape) -> TableShape:
        """Keep columns as an earlier shape of the table keeps the same ones."""
        known = {_identity(column): column for column in before.columns}
        pairs = [(column, known.get(_identity(column), column)) for column in self.columns]
        return replace(
            self,
            columns=tuple(
                replace(column, type=kept.type, is_widened=kept.is_widened)
                for column, kept in pairs
            ),
        )

    def with_widened(self, before: TableShape) -> TableShape:
        """Keep columns as text that are so in an earlier shape, and are of the same type."""
        known = {
            (column.attnum, column.type.oid, column.type.is_array)
            for column in before.columns
            if column.is_widened
        }
        return replace(
            self,
            columns=tuple(
                column.widened
                if (column.attnum, column.type.oid, column.type.is_array) in known
                else column
                for column in self.columns
            ),
        )

    def numbered(self, attnum: int) -> SourceColumn | None:
        """Give the column of a number, if there is one."""
        return next((one for one in self.columns if one.attnum == attnum), None)

    def named(self, name: str) -> SourceColumn:
        """Give the column of a name."""
        return self.columns[self.names.index(name)]

    def widened(self, attnum: int) -> TableShape:
        """Keep a column as text, of which a value does not fit its type."""
        columns = tuple(one.widened if one.attnum == attnum else one for one in self.columns)
        return replace(self, columns=columns)

    @property
    def taken(self) -> list[tuple[str, pa.DataType]]:
        """Names and types of what rows take of other tables."""
        return [(column.name, column.type.arrow) for column in self.enriched]

    def keeps_files(self, later: TableShape) -> bool:
        """Whether rows that were there lie where they lay; what partitions came does not matter."""
        if self.partitions and later.partitions:
            return not compare_partitions(self.partitions, later.partitions).moved
        return self.files == later.files

    def seen_as(self, later: TableShape) -> TableShape:
        """Take over from a later look at the catalog what a next one is compared with."""
        parts = {column.attnum: column.parts for column in later.columns}
        return replace(
            self,
            columns=tuple(
                replace(column, parts=parts.get(column.attnum, column.parts))
                for column in self.columns
            ),
            files=later.files,
            versions=later.versions,
            partitions=later.partitions,
        )

    def rewritten_to(self, later: TableShape) -> bool:
        """Say whether an ALTER may have given rows other values, of which the stream says nothing.

        Either alone says less: a truncation is on the stream, a vacuum changes no value, and most
        alterations of a column rewrite nothing. Nor does one of a column that is not kept.
        """
        if self.keeps_files(later):
            return False
        before, after = self.version_of, later.version_of
        if not before or not after:
            return False
        return any(before[one.attnum] != after.get(one.attnum) for one in self.columns)

    @property
    def version_of(self) -> dict[int, str]:
        """Give the columns' versions by their attnum; none where these are not known."""
        return {int(attnum): version for attnum, version in _pairs(self.versions).items()}

    def to_json(self) -> dict[str, Any]:
        """Give plain lists and strings."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> TableShape:
        """Read what `to_json` gave."""
        return cls(
            plain["oid"],
            tuple(map(_column, plain["columns"])),
            tuple(plain["key"]),
            Published(**known) if isinstance(known := plain["publication"], dict) else Published(),
            plain.get("key_origin", 0),
            plain.get("files", ""),
            plain.get("versions", ""),
            plain.get("shaping", ""),
            plain.get("keeps_deleted", False),
            tuple(map(_column, plain.get("enriched", ()))),
            tuple(map(_column, plain.get("dropped", ()))),
            plain.get("called", ""),
            plain.get("partitions", ""),
        )


def _column(plain: dict[str, Any]) -> SourceColumn:
    kind, operators = SourceType(**plain["type"]), tuple(plain.get("operators", ()))
    if "kept" not in plain["type"]:  # by a version that kept intervals as text
        kind = intervals_as_text(kind)
    return SourceColumn(**{**plain, "type": kind, "operators": operators})


def _pairs(entries: str) -> dict[str, str]:
    pairs = (entry.partition(":") for entry in entries.split())
    return {name: version for name, found, version in pairs if found}


def _identity(column: SourceColumn) -> tuple[str, int, int, int]:
    return column.name, column.attnum, column.type_oid, column.typmod


def _difference(
    declared: Sequence[tuple[str, *tuple[int, ...]]],
    announced: Sequence[tuple[str, *tuple[int, ...]]],
) -> str:
    """Compare names, in their order, and what else stands behind each, the type last."""
    if list(declared) == list(announced):
        return ""
    before, after = ({name: kind for name, *kind in side} for side in (declared, announced))
    added = [f"added {name!r}" for name in after if name not in before]
    dropped = [f"dropped {name!r}" for name in before if name not in after]
    changed = [
        f"another type of {name!r}"
        if before[name][-2:] != after[name][-2:]
        else f"dropped and added {name!r}"
        for name in after
        if before.get(name, after[name]) != after[name]
    ]
    return ", ".join([*added, *dropped, *changed]) or "columns in another order"
