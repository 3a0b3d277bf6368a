"""What is built and installed: the wheel's contents, and bounds that were tried."""

from __future__ import annotations

import re
import tomllib
import zipfile

import pytest

from cdc_assets_tests.interrupting import PROJECT
from cdc_assets_tests.wheels import build_wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, opened."""
    return zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("wheel")))


def test_the_wheel_has_one_top_level_and_all_its_files(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cdc_assets"}
    assert not [name for name in names if "__pycache__" in name]
    wanted = {
        f"cdc_assets/{path.relative_to(PROJECT)}"
        for folder, ending in (("sql", "*.sql"), ("docs", "*.md"))
        for path in (PROJECT / folder).glob(ending)
    }
    assert wanted | {"cdc_assets/py.typed", "cdc_assets/demo/shop.sql"} <= names


def test_the_wheel_says_its_license_and_no_address(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = wheel.read(name).decode().partition("\n\n")[0]

    assert "License-Expression: MIT" in metadata
    assert "License-File: LICENSE" in metadata
    assert "Classifier: Typing :: Typed" in metadata
    assert "-URL" not in metadata
    assert not re.findall(r"^Requires-Dist: (?:pandas|sqlalchemy)[^;]*$", metadata, re.MULTILINE)


def test_lower_bounds_are_those_that_are_tried() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tried = dict(
        line.split("==")
        for line in (PROJECT / "constraints-oldest.txt").read_text().splitlines()
        if "==" in line
    )
    tried = {name.lower(): version for name, version in tried.items()}
    for wanted in [*project["dependencies"], *extras["pandas"], *extras["demo"]]:
        name, lowest = re.split(r"(?:\[\w+\])?>=", wanted.partition(",")[0])
        found = tried[name]
        assert f"{found}.".startswith(f"{lowest}."), f"{wanted}, but {found} is tried"
