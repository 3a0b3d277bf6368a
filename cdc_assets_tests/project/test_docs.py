"""The pages hold what they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc_assets import errors
from cdc_assets.operations.health import CHECK_NAMES
from cdc_assets.orchestration.reconcile import EQUALS_SOURCE
from cdc_assets.pages import page
from cdc_assets.pgoutput.types import SCALARS, SourceType, named_type
from cdc_assets.warehouse.types import column_type
from cdc_assets_tests.interrupting import PROJECT

PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)")


def anchors(page: Path) -> Iterator[str]:
    """Give what a link may lead to: a page's headings, a module's tests."""
    if page.suffix == ".py":
        yield from re.findall(r"^def (test_\w+)", page.read_text(), re.MULTILINE)
    for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        yield words.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}#{anchor}"


def test_every_row_of_the_schema_changes_is_linked_to_its_tests() -> None:
    page = (PROJECT / "docs" / "schema-changes.md").read_text()
    rows = re.findall(r"^\| .*", page.partition("| on the source |")[2], re.MULTILINE)
    assert len(rows) > 15
    for row in rows:
        assert re.search(r"\(\.\./cdc_assets_tests/[\w/]+\.py#test_\w+\)", row), row


def test_what_the_code_names_lies_where_the_package_is_installed() -> None:
    for module in (PROJECT / "cdc_assets").rglob("*.py"):
        text = module.read_text()
        assert not re.findall(r"docs/[\w-]+\.md", text), module
        for name in re.findall(r"""page\(["']([\w-]+)["']\)""", text):
            assert Path(page(name)).is_file(), f"{module}: {name}"


# Oids of types that have a row in the page's table, each with the name that it has there
OIDS = {
    **{"smallint": 21, "integer": 23, "bigint": 20, "real": 700, "double precision": 701},
    **{"other numeric": 1700, "boolean": 16, "text": 25, "varchar": 1043, "char(n)": 1042},
    **{"name": 19, '"char"': 18, "date": 1082, "time": 1083, "timestamp": 1114},
    **{"timestamptz": 1184, "interval": 1186, "uuid": 2950, "json": 114, "jsonb": 3802},
    **{"bytea": 17, "everything else: composites": 600},
}


def test_the_table_of_types_is_what_the_code_does() -> None:
    table = (PROJECT / "docs" / "types.md").read_text().split("**What does not fit**")[0]
    said = {}
    for names, arrows, types in re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|", table, re.M):
        listed = names.split(", "), re.split(r", (?!tz=|s\))", arrows), types.split(", ")
        for at, name in enumerate(listed[0]):
            said[name] = tuple(part[at % len(part)] for part in listed[1:])
    for name, oid in OIDS.items():
        own = SourceType(name, oid, -1, is_array=False, is_enum=False).own
        assert said[name] == (str(own), column_type(own)), name
    assert said["numeric(p,s)"] == ("decimal128(p, s)", "DECIMAL(p,s)")
    assert column_type(named_type("numeric(38,5)").own) == "DECIMAL(38,5)"
    assert said["enum"] == said["text"]
    assert SCALARS.keys() <= {*OIDS.values()}


def kinds(of: type[errors.CdcError]) -> Iterator[str]:
    for kind in of.__subclasses__():
        if kind.__module__ == errors.__name__:
            yield kind.__name__
        yield from kinds(kind)


def test_every_kind_of_error_has_its_cure_on_the_page() -> None:
    page = (PROJECT / "docs" / "on-call.md").read_text()
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert rows == set(kinds(errors.CdcError))


def test_checks_that_the_pages_name_exist() -> None:
    page = (PROJECT / "docs" / "on-call.md").read_text()
    named = set(re.findall(r"checks? `(\w+)`", page))
    assert named
    assert named <= {*CHECK_NAMES, EQUALS_SOURCE}
