"""Ways to keep and shape the table of documents, and what each makes of its rows."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cdc_assets_tests.documents import DOCS, Row
from cdc_assets_tests.shaping import functions

FILTERED = 50  # a row filter of the publication has keys below
Rows = dict[Any, Row]

_KEEP = (
    ("mirror",),
    ("mirror", "changes"),
    ("mirror", "history"),
    ("mirror", "changes", "history"),
    ("mirror", "changes", "history"),
)
_WHERE: dict[str, Callable[[Row], bool | None]] = {
    "amount > 30": lambda row: None if row["amount"] is None else row["amount"] > 30,
    "state <> 'draft'": lambda row: row["state"] != "draft",
    "length(body) > 100 OR amount IS NULL": lambda row: (
        row["amount"] is None or len(row["body"] or "") > 100
    ),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What is kept of the table, and how.

    Attributes:
        keep: As in the config.
        identity: The table's replica identity.
        where: As in the config.
        mask: The columns that are masked.
        transformed: Whether `functions.shape_docs` is the transform.
        soft: Whether deleted rows stay.
        row_filter: Whether the publication has one.
        renamed: Whether column `owner` has another name.
    """

    keep: tuple[str, ...]
    identity: str
    where: str
    mask: tuple[str, ...]
    transformed: bool
    soft: bool
    row_filter: bool
    renamed: bool

    @property
    def needs_full(self) -> bool:
        """Whether the config asks for replica identity FULL."""
        is_derived = bool(self.where) or self.transformed
        return (
            (is_derived and len(self.keep) > 1)
            or (self.transformed and self.soft)
            or "id" in self.mask
        )

    def table(self) -> dict[str, Any]:
        """Give the table's part of the config."""
        table: dict[str, Any] = {"source": str(DOCS), "keep": list(self.keep)}
        if self.where:
            table["where"] = self.where
        if self.mask:
            table["mask"] = dict.fromkeys(self.mask, "sha256")
        if self.transformed:
            table["transform"] = f"{functions.MODULE}:shape_docs"
        if self.soft:
            table["deletes"] = "soft"
        if self.renamed:
            table["columns"] = {"rename": {"owner": "who"}}
        return table

    def shaped(self, rows: Sequence[Row]) -> Rows:
        """Give what the warehouse has of rows of the source, by their keys."""
        found = (self._one(row) for row in rows if self._is_sent(row))
        return {row["id"]: row for row in found if row is not None}

    def _is_sent(self, row: Row) -> bool:
        return not self.row_filter or row["id"] < FILTERED

    def _one(self, row: Row) -> Row | None:
        if self.where and not _WHERE[self.where](row):
            return None
        kept = {name: _masked(row[name]) if name in self.mask else row[name] for name in row}
        if self.transformed:
            amount = kept.pop("amount")
            if amount is not None and amount % 3 == 0:
                return None
            kept["double"] = None if amount is None else amount * 2
        if self.renamed:
            kept["who"] = kept.pop("owner")
        return kept


def any_plan(pick: random.Random) -> Plan:
    """Pick a way to keep the table."""
    plan = Plan(
        keep=pick.choice(_KEEP),
        identity="DEFAULT",
        where=pick.choice(["", "", *_WHERE]),
        mask=pick.choice([(), (), ("owner",), ("id",), ("id", "owner")]),
        transformed=pick.random() < 0.25,
        soft=pick.random() < 0.3,
        row_filter=pick.random() < 0.3,
        renamed=pick.random() < 0.2,
    )
    is_full = plan.needs_full or pick.random() < 0.3
    return replace(plan, identity="FULL") if is_full else plan


def kept_otherwise(plan: Plan, pick: random.Random) -> Plan:
    """Keep something else beside the mirror, if the table's replica identity allows it."""
    return _if_allowed(plan, replace(plan, keep=any_plan(pick).keep))


def shaped_otherwise(plan: Plan, pick: random.Random) -> Plan:
    """Shape the rows in another way, if the table's replica identity allows it."""
    other = any_plan(pick)
    changed = replace(
        plan,
        where=other.where,
        mask=other.mask,
        transformed=other.transformed,
        soft=other.soft,
        renamed=other.renamed,
    )
    return _if_allowed(plan, changed)


def _if_allowed(plan: Plan, changed: Plan) -> Plan:
    return plan if changed.needs_full and plan.identity != "FULL" else changed


def _masked(value: object) -> str | None:
    return None if value is None else hashlib.sha256(str(value).encode()).hexdigest()
