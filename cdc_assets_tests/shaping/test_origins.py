"""Of which columns of the source the columns of a kept table are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.config.shaping import ColumnsConfig
from cdc_assets.identifiers import TableName
from cdc_assets.pgoutput.types import SourceType
from cdc_assets.shaping.columns import Shaping
from cdc_assets.shaping.enriching import Enrichment
from cdc_assets.shaping.origins import origins_of
from cdc_assets.shaping.transforms import Transform

ORDERS, CUSTOMERS = TableName("public", "orders"), TableName("public", "customers")
TEXT = SourceType(name="text", oid=25, typmod=-1, is_array=False, is_enum=False)
MODULE = """
def grade(frame):
    return frame.assign(grade=frame["total"] + frame["note"])
"""


def column(name: str) -> SourceColumn:
    return SourceColumn(name, 1, TEXT, 25, -1, nullable=True)


def shape(*names: str, taken: tuple[str, ...] = ()) -> TableShape:
    return TableShape(
        oid=1,
        columns=tuple(map(column, names)),
        key=(names[0],),
        enriched=tuple(map(column, taken)),
    )


@pytest.fixture
def function(tmp_path: Path) -> str:
    name = f"graded_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    return f"{name}:grade"


def told(shaping: Shaping, *names: str, **more: object) -> dict[str, list[tuple[str, str, str]]]:
    """Give, of each column, the source's tables and columns, and how."""
    shapings = {ORDERS: shaping, CUSTOMERS: Shaping(mask={"email": "sha256"})}
    shapes = {ORDERS: shape(*names, **more), CUSTOMERS: shape("id", "email")}  # type: ignore[arg-type]
    return {
        name: [(str(of.table), of.source_column, of.how) for of in origins]
        for name, origins in origins_of(ORDERS, shapings, shapes).items()
    }


def test_columns_are_kept_renamed_and_masked() -> None:
    shaping = Shaping(
        columns=ColumnsConfig(rename={"placed": "ordered_at", "phone": "tel"}),
        mask={"phone": "last4", "note": "null"},
    )
    assert told(shaping, "id", "placed", "phone", "note") == {
        "id": [("public.orders", "id", "as it is")],
        "ordered_at": [("public.orders", "placed", "renamed")],
        "tel": [("public.orders", "phone", "renamed, masked by last4")],
        "note": [("public.orders", "note", "masked by null")],
    }


@pytest.mark.parametrize("is_current", [False, True])
def test_what_is_taken_is_of_the_partners_table_and_masked_as_there(is_current: bool) -> None:
    enrich = Enrichment(
        partner=CUSTOMERS,
        on={"customer": "id"},
        columns={"email": "customer_email"},
        made_of={"email": "email"},
        is_current=is_current,
    )
    found = told(Shaping(enrich=(enrich,)), "id", "customer", taken=("customer_email",))

    how = "customer = id, kept current" if is_current else "customer = id"
    assert found["customer_email"] == [
        ("public.customers", "email", f"taken where {how}, masked by sha256")
    ]


@pytest.mark.parametrize("lineage", [{}, {"grade": ["total", "note"]}])
def test_what_a_function_makes_is_of_what_is_declared_or_of_all(
    function: str, tmp_path: Path, lineage: dict[str, list[str]]
) -> None:
    transform = Transform(function, tmp_path, lineage=lineage)
    shaping = Shaping(mask={"note": "sha256"}, transform=transform)

    found = told(shaping, "id", "total", "note")

    assert found["id"] == [("public.orders", "id", "as it is")]
    assert found["total"] == [("public.orders", "total", f"through {function}")]
    made = f"made by {function}" if lineage else f"made by {function}, of all columns"
    of_all = [] if lineage else [("public.orders", "id", made)]
    assert found["grade"] == [
        *of_all,
        ("public.orders", "total", made),
        ("public.orders", "note", f"masked by sha256, {made}"),
    ]


def test_a_column_that_a_function_alters_is_what_is_declared(function: str, tmp_path: Path) -> None:
    transform = Transform(function, tmp_path, lineage={"total": ["total", "note"]})
    found = told(Shaping(transform=transform), "id", "total", "note")
    assert [of for _, of, _ in found["total"]] == ["total", "note"]


def test_a_partners_function_is_on_the_way(function: str, tmp_path: Path) -> None:
    there = Shaping(transform=Transform(function, tmp_path, lineage={"grade": ["total"]}))
    enrich = Enrichment(
        partner=CUSTOMERS,
        on={"customer": "id"},
        columns={"grade": "customer_grade"},
        made_of={"grade": "grade"},
    )
    shapings = {ORDERS: Shaping(enrich=(enrich,)), CUSTOMERS: there}
    shapes = {
        ORDERS: shape("id", "customer", taken=("customer_grade",)),
        CUSTOMERS: shape("id", "total", "note"),
    }

    (found,) = origins_of(ORDERS, shapings, shapes)["customer_grade"]

    assert (found.table, found.source_column) == (CUSTOMERS, "total")
    assert found.how == f"taken where customer = id, made by {function}"
