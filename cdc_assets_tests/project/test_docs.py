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
from cdc_assets_tests.interrupting import PROJECT

PAGES = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
LINK = re.compile(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)")


def anchors(page: Path) -> Iterator[str]:
    for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE):
        words = re.sub(r"[^\w\- ]", "", heading.lower())
        yield words.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name}: {target}#{anchor}"


def test_what_the_code_names_lies_where_the_package_is_installed() -> None:
    for module in (PROJECT / "cdc_assets").rglob("*.py"):
        text = module.read_text()
        assert not re.findall(r"docs/[\w-]+\.md", text), module
        for name in re.findall(r"""page\(["']([\w-]+)["']\)""", text):
            assert Path(page(name)).is_file(), f"{module}: {name}"


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
