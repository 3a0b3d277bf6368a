"""What a config may say of columns that a table's rows take from another table of the pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from cdc_assets.config.shaping import RESERVED_PREFIX
from cdc_assets.config.strict import Strict, key_on
from cdc_assets.identifiers import TableName, fold


def _table_name(text: str) -> str:
    return str(TableName.parse(text))


def _distinct(columns: dict[str, str]) -> dict[str, str]:
    if len({fold(name) for name in columns.values()}) < len(columns):
        raise ValueError("two columns get one name")
    for name in columns.values():
        if not name or fold(name).startswith(RESERVED_PREFIX):
            raise ValueError(f"a column needs a name that does not start with {RESERVED_PREFIX!r}")
    return columns


def _with_key_on(schema: dict[str, Any]) -> None:
    """Have Dagster's check of the YAML take `on` without quotes."""
    del schema["additionalProperties"]
    schema["propertyNames"] = {"enum": [*schema["properties"], True]}
    schema["required"].remove("on")


class EnrichConfig(Strict):
    """Columns of one other table, the partner."""

    model_config = ConfigDict(json_schema_extra=_with_key_on)

    @model_validator(mode="before")
    @classmethod
    def _reads_on(cls, value: object) -> object:
        return key_on(value)

    partner: Annotated[
        str,
        AfterValidator(_table_name),
        Field(
            alias="from",
            description="A table of the pipeline with a mirror.",
            examples=["public.customers"],
        ),
    ]
    on: Annotated[
        dict[str, str],
        Field(
            min_length=1,
            description="Columns of this table, as the warehouse has them, with those of the"
            " partner's key that they equal.",
            examples=[{"customer_id": "id"}],
        ),
    ]
    columns: Annotated[
        dict[str, str],
        AfterValidator(_distinct),
        Field(
            min_length=1,
            description="The partner's columns, as the warehouse has them, with the names that they"
            " get here.",
            examples=[{"email": "customer_email"}],
        ),
    ]
    keep: Annotated[
        Literal["as_written", "current"],
        Field(
            description="`as_written`: what the partner was when the row was written; `current`:"
            " what it is now, whenever it changes.",
            examples=["current"],
        ),
    ] = "as_written"

    @property
    def name(self) -> TableName:
        """The partner."""
        return TableName.parse(self.partner)


class Enriched(Protocol):
    """What is asked here of a table's config."""

    @property
    def source(self) -> str:
        """The table as the config writes it."""

    @property
    def enrich(self) -> Sequence[EnrichConfig]:
        """What it takes of others."""

    @property
    def append_only(self) -> bool:
        """Whether there is no mirror, whatever `keep` says."""

    @property
    def keep(self) -> list[str]:
        """What is kept of it."""

    @property
    def deletes(self) -> str:
        """What becomes of deleted rows."""

    @property
    def transform(self) -> object | None:
        """The function that its rows go through."""


@dataclass(frozen=True, slots=True)
class Links:
    """Which tables take columns of which.

    Attributes:
        partners: Of each table that takes columns, the tables that it takes them from.
    """

    partners: Mapping[TableName, frozenset[TableName]]

    @property
    def tables(self) -> frozenset[TableName]:
        """All tables that take or give columns."""
        return frozenset(self.partners).union(*self.partners.values())

    def dependents(self, table: TableName) -> frozenset[TableName]:
        """Give the tables that take columns of one."""
        return frozenset(of for of, partners in self.partners.items() if table in partners)

    def together(self, tables: Iterable[TableName]) -> frozenset[TableName]:
        """Add to some tables all that they are linked with, over however many links."""
        found = set(tables)
        reached = list(found)
        while reached:
            table = reached.pop()
            more = (self.partners.get(table, frozenset()) | self.dependents(table)) - found
            found |= more
            reached += more
        return frozenset(found)

    def partners_first(self, tables: Iterable[TableName]) -> list[TableName]:
        """Order tables, each behind its partners; others as they come."""
        ordered: dict[TableName, None] = {}
        asked = dict.fromkeys(tables)

        def put(table: TableName) -> None:
            for partner in sorted(self.partners.get(table, ())):
                put(partner)
            ordered.setdefault(table)

        for table in asked:
            put(table)
        return [table for table in ordered if table in asked]


def links_of(tables: Iterable[Enriched]) -> Links:
    """Find which tables take columns of which."""
    return Links(
        {
            TableName.parse(table.source): frozenset(one.name for one in table.enrich)
            for table in tables
            if table.enrich
        }
    )


def check_enriched(tables: Sequence[Enriched]) -> None:
    """Check what tables take of each other.

    Raises:
        ValueError: A partner is not there, or has no mirror; or they go in a circle.
    """
    for problem in _problems(tables):
        raise ValueError(problem)


def _problems(tables: Sequence[Enriched]) -> Iterator[str]:
    known = {TableName.parse(table.source): table for table in tables}
    for table in tables:
        if table.enrich and (why := _unfit(table)):
            yield f"enrich of {table.source!r}: {why}"
        names = [fold(name) for one in table.enrich for name in one.columns.values()]
        if len(set(names)) < len(names):
            yield f"enrich of {table.source!r}: two columns get one name"
        if any(one.keep == "current" for one in table.enrich) and (why := _not_current(table)):
            yield f"enrich of {table.source!r} with 'keep: current': {why}"
        taken = {name for one in table.enrich for name in one.columns.values()}
        for one in table.enrich:
            what = f"enrich of {table.source!r} from {one.partner!r}"
            partner = known.get(one.name)
            if one.name == TableName.parse(table.source):
                yield f"{what}: a table takes no columns of itself"
            elif partner is None:
                yield f"{what}: it is not a table of this pipeline"
            elif why := _unfit(partner):
                yield f"{what}: {why} there"
            elif partner.transform is not None and partner.enrich:
                yield (
                    f"{what}: it takes columns itself and has a 'transform': such a table gives"
                    " none in this version"
                )
            elif joined := sorted(set(one.on) & taken):
                yield f"{what}: {joined[0]!r} is itself taken from another table"
            elif second := sorted(
                set(one.columns) & {name for of in partner.enrich for name in of.columns.values()}
            ):
                yield (
                    f"{what}: it takes {second[0]!r} from another table itself: take it from there"
                )
    links = links_of(tables)
    for name in links.partners:
        if name in _behind(links, name):
            yield f"enrich of {str(name)!r}: its tables take columns of each other in a circle"


def _unfit(table: Enriched) -> str:
    """Say what keeps a table from taking columns, and from giving some."""
    if "mirror" not in table.keep or table.append_only:
        return "a mirror has to be kept"
    return ""


def _not_current(table: Enriched) -> str:
    """Say why a table's rows can't change by what happens to others."""
    if set(table.keep) != {"mirror"}:
        return (
            "what happens to a partner is no change of this table's row, so its change table and "
            "its history would not tell what its mirror has: take 'keep: as_written' there, or "
            "keep [mirror] alone"
        )
    if table.deletes == "soft":
        return "with 'deletes: soft' a deleted row stays as it was last: take 'keep: as_written'"
    if table.transform is not None:
        return (
            "its 'transform' is called for rows that are written: take 'keep: as_written', or leave"
            " out the function"
        )
    return ""


def _behind(links: Links, table: TableName) -> set[TableName]:
    """Find all tables whose columns come to one, over however many links."""
    found: set[TableName] = set()
    reached = [table]
    while reached:
        more = links.partners.get(reached.pop(), frozenset()) - found
        found |= more
        reached += more
    return found
