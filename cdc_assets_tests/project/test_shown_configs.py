"""What the README shows of a config that shapes and keeps works as it stands."""

from __future__ import annotations

import re

import duckdb
import yaml

from cdc_assets_tests.command_line import rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import PROJECT


def blocks(page: str, kind: str, having: str) -> list[str]:
    """Give the blocks of code of a kind that hold a text."""
    text = (PROJECT / page).read_text()
    found = re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block for block in found if having in block]


def test_what_is_shaped_and_kept(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute(
        "CREATE TABLE customers (id int PRIMARY KEY, email text);"
        "CREATE TABLE orders (id int PRIMARY KEY, customer_id int, placed_at timestamptz,"
        " internal_note text);"
        "CREATE TABLE events (kind text);"
        "CREATE TABLE items (id int PRIMARY KEY, quantity int, price numeric(12,2),"
        " cost numeric(12,2));"
        "INSERT INTO customers VALUES (1, 'a@example.com'); INSERT INTO events VALUES ('x');"
        "INSERT INTO orders VALUES (1, 1, now(), 'n'); INSERT INTO items VALUES (1, 2, 5, 3)"
    )
    names = ("customers", "orders", "events", "items")
    made = pipeline(*(f"public.{name}" for name in names))
    (shown,) = blocks("README.md", "yaml", "add_margin")
    functions = [*blocks("README.md", "python", "def add_margin")]
    functions += blocks("docs/shaping.md", "python", "def add_margin")
    assert len(functions) == 2
    path = rewrite(made, **yaml.safe_load(shown))
    module = path.parent / "src" / "my_project" / "transforms.py"
    module.parent.mkdir(parents=True)
    for function in functions:
        module.write_text(function)
        checked = run_command(path, "check")
        assert checked.code == 0, checked.err
    assert run_command(path, "sync").code == 0
    (queries,) = blocks("README.md", "sql", "orders__changes")
    with duckdb.connect(str(made.warehouse_path), read_only=True) as warehouse:
        changes = warehouse.sql(queries.splitlines()[0]).to_arrow_table().to_pylist()
        items = warehouse.execute("SELECT margin::int FROM public.items").fetchall()
    (change,) = changes
    assert {"ordered_at", "customer_email"} <= change.keys() and "internal_note" not in change
    assert len(change["customer_email"]) == 64
    assert items == [(2,)]
