"""A table's columns and key, as the source declares them and as they are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from cdc_assets.pgoutput.relations import Relation
from cdc_assets.pgoutput.types import SourceType


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


@dataclass(frozen=True, slots=True)
class TableShape:
    """The published columns in the stream's order, and the names of those that identify a row.

    Attributes:
        oid: The table's, which outlives a change of its name.
        publication: Changes when the table leaves the publication and comes back, and when its row
            filter or what is published changes: what was left out in between is nowhere.
        key_origin: Changes when the key was dropped and made anew, 0 where nothing tells that: what
            was changed in between may not have had one row per key.
    """

    oid: int
    columns: tuple[SourceColumn, ...]
    key: tuple[str, ...]
    publication: str = ""
    key_origin: int = 0

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
            self.publication,
            self.key,
            self.key_origin,
            *((one.name, one.attnum, one.type_oid, one.typmod) for one in columns),
        )

    def difference(self, relation: Relation) -> str:
        """Say how a Relation message differs from this shape; empty when it does not."""
        if relation.oid != self.oid:
            return "it is another table of the same name"
        declared = [(column.name, column.type_oid, column.typmod) for column in self.columns]
        announced = [(column.name, column.type_oid, column.typmod) for column in relation.columns]
        return _difference(declared, announced)

    def altered_to(self, later: TableShape) -> str:
        """Say how the catalog's later shape differs in its declaration; empty when it does not."""
        if later.oid != self.oid:
            return "it is another table of the same name"
        sides = [
            [(one.name, one.attnum, one.type_oid, one.typmod) for one in shape.columns]
            for shape in (self, later)
        ]
        reasons = [_difference(*sides)]
        if later.key != self.key:
            reasons.append(f"its key is ({', '.join(later.key)}), was ({', '.join(self.key)})")
        elif later.key_origin != self.key_origin:
            reasons.append("its key was made anew")
        if later.publication != self.publication:
            reasons.append("its publication was altered")
        return ", ".join(filter(None, reasons))

    def to_json(self) -> dict[str, Any]:
        """Give plain lists and strings."""
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> TableShape:
        """Read what `to_json` gave."""
        columns = (
            SourceColumn(
                **{
                    **column,
                    "type": SourceType(**column["type"]),
                    "operators": tuple(column.get("operators", ())),
                }
            )
            for column in plain["columns"]
        )
        return cls(
            plain["oid"],
            tuple(columns),
            tuple(plain["key"]),
            plain["publication"],
            plain.get("key_origin", 0),
        )


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
