"""Imports run downward only, and Dagster stays above everything else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import cdc_assets

PACKAGE = Path(cdc_assets.__file__).parent
BASICS = (
    "errors",
    "lsn",
    "identifiers",
    "pages",
    "config",
    "progress",
    "steps",
    "waits",
    "wording",
)
LAYERS = {
    **dict.fromkeys(BASICS, 0),
    "pgoutput": 1,
    "changes": 2,
    "shaping": 3,
    "source": 4,
    "warehouse": 4,
    "replication": 5,
    "operations": 6,
    "orchestration": 7,
    **dict.fromkeys(("definitions", "defs", "cli", "demo"), 8),
}
WITH_DAGSTER = {"orchestration", "definitions", "defs"}


def imports() -> Iterator[tuple[Path, str, str]]:
    """Give every import, lazy ones too: its file, that file's part of the package, its target."""
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((path, part, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                yield path, part, node.module or ""


def test_imports_run_downward_only() -> None:
    upward = [
        f"{path.relative_to(PACKAGE)} imports {target}"
        for path, part, target in imports()
        if part != "__init__" and target.startswith("cdc_assets.")
        if LAYERS[target.split(".")[1]] > LAYERS[part]
    ]
    assert upward == []


def test_no_modules_import_each_other() -> None:
    """Not in functions either, nor for types alone: no part is understood before another then."""
    known: dict[str, set[str]] = {}
    for path, _, target in imports():
        module = ".".join(("cdc_assets", *path.relative_to(PACKAGE).with_suffix("").parts))
        known.setdefault(module, set()).add(target)

    order = TopologicalSorter({module: targets & known.keys() for module, targets in known.items()})
    order.prepare()


def test_source_and_warehouse_do_not_know_each_other() -> None:
    ends = {"source": "cdc_assets.warehouse", "warehouse": "cdc_assets.source"}
    crossing = [
        str(path) for path, part, target in imports() if target.startswith(ends.get(part, "\0"))
    ]
    assert crossing == []


def test_use_cases_know_a_warehouse_by_its_contract_alone() -> None:
    """A second kind of warehouse comes without a change outside of its package."""
    known = {f"cdc_assets.warehouse.{module}" for module in ("base", "values", "opening")}
    found = {
        f"{path.relative_to(PACKAGE)} imports {target}"
        for path, part, target in imports()
        if part != "warehouse" and target.startswith("cdc_assets.warehouse")
        if target not in known
    }
    assert found == set()


def test_dagster_is_imported_where_it_belongs_only() -> None:
    found = {part for _, part, target in imports() if target.split(".")[0] == "dagster"}
    assert found <= WITH_DAGSTER | {"__init__"}


def test_layers_without_io_import_no_driver() -> None:
    drivers = {"psycopg", "duckdb", "adbc_driver_postgresql", "adbc_driver_manager", "sqlalchemy"}
    found = {
        str(path)
        for path, part, target in imports()
        if part in {"pgoutput", "changes", *BASICS} and target.split(".")[0] in drivers
    }
    assert found == set()
