"""Columns that a table's rows take of another table's, its partner, by that one's key.

Names are those of the warehouse, on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.identifiers import TableName


@dataclass(frozen=True, slots=True)
class Enrichment:
    """What rows take of one partner.

    Attributes:
        partner: The other table.
        on: Columns here, by those of the partner's key that they equal.
        columns: Names of the columns here, by the partner's.
        made_of: Of which column of its source each of the partner's is made, by its name.
        masks: How those are masked that are, by their names.
        is_current: Whether rows have what the partner is now; else what it was when they were
            written.
    """

    partner: TableName
    on: Mapping[str, str]
    columns: Mapping[str, str]
    made_of: Mapping[str, str]
    masks: Mapping[str, str] = field(default_factory=dict)
    is_current: bool = False

    @property
    def declaration(self) -> dict[str, object]:
        """Give what must stay for values to stay what they are."""
        said: dict[str, object] = {
            "from": str(self.partner),
            "on": dict(self.on),
            "columns": dict(self.columns),
            "of": dict(self.made_of),
            "mask": dict(self.masks),
        }
        return {**said, "keep": "current"} if self.is_current else said

    def taken(self, partner: TableShape) -> list[SourceColumn]:
        """Give the columns here; those that the partner does not have are left out.

        Args:
            partner: Its kept shape.
        """
        known = {column.name: column for column in partner.columns}
        return [
            replace(known[name], name=here, attnum=0, nullable=True)
            for name, here in self.columns.items()
            if name in known
        ]
