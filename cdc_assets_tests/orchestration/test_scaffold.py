"""`dg scaffold defs cdc_assets.PostgresCdcComponent` with its parameters and a live source."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from cdc_assets.config import load_config
from cdc_assets_tests.dagster_project import copy_project, dg
from cdc_assets_tests.database import ScratchDatabase


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return copy_project(tmp_path)


def scaffold(
    project: Path, name: str, *options: str, **env: str
) -> subprocess.CompletedProcess[str]:
    kind = "cdc_assets.PostgresCdcComponent"
    return dg(project, "scaffold", "defs", kind, name, *options, **env)


def written(project: Path, name: str) -> Path:
    return project / "cdc_assets" / "defs" / name / "defs.yaml"


def test_variable_and_tables_are_those_that_were_given(project: Path) -> None:
    done = scaffold(
        project, "sales", "--dsn-env", "CRM_DSN", "--tables", 'public.a, crm."x, y",crm."z.z"'
    )
    assert done.returncode == 0, done.stdout + done.stderr

    config = load_config(written(project, "sales"))

    assert config.name == "sales"
    assert [str(table) for table in config.table_names] == ["public.a", "crm.x, y", 'crm."z.z"']
    text = written(project, "sales").read_text()
    assert yaml.safe_load(text)["attributes"]["source"]["dsn"] == {"env": "CRM_DSN"}
    wrong = scaffold(project, "other", "--tables", "public.a,orders")
    assert wrong.returncode != 0
    assert "--tables: expected schema.table, got 'orders'" in wrong.stdout + wrong.stderr


def test_a_live_sources_tables_are_listed_and_why_some_are_not(
    project: Path, database: ScratchDatabase
) -> None:
    database.execute(
        "CREATE TABLE orders (id int PRIMARY KEY); CREATE TABLE log (line text);"
        'CREATE TABLE "Odd: #1" (id int PRIMARY KEY);'
        "CREATE SCHEMA _cdc; CREATE TABLE _cdc.t (id int PRIMARY KEY);"
        'CREATE TABLE "Orders" (id int PRIMARY KEY); CREATE VIEW v AS SELECT 1 AS id;'
        "CREATE UNLOGGED TABLE u (id int PRIMARY KEY);"
        "CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY LIST (id);"
        "CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1)"
    )
    (project / ".env").write_text(f"SALES_SOURCE_DSN='{database.dsn}'\n")

    done = scaffold(project, "sales")

    assert done.returncode == 0, done.stdout + done.stderr
    tables = [str(table) for table in load_config(written(project, "sales")).table_names]
    assert set(tables) == {
        "public.parts",
        "public.Odd: #1",
        *({"public.orders", "public.Orders"} & {*tables}),
    }
    assert len(tables) == 3
    text = written(project, "sales").read_text()
    assert database.dsn not in text
    for table, reason in (
        ("public.log", "has no replica identity"),
        ("_cdc.t", "the name is reserved"),
        ("public.[oO]rders", "ignores case"),
    ):
        assert _reason(text, table, reason), text
    assert text.count("keep: [changes]") == 1
    assert re.search(r"- source: public.log  # .*\n    #   keep: \[changes\]", text), text


def test_a_source_that_does_not_answer_leaves_an_example(project: Path) -> None:
    dsn = "postgresql://nobody:canary@127.0.0.1:1/nothing"
    done = scaffold(project, "sales", SALES_SOURCE_DSN=dsn)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "could not be asked for its tables" in done.stderr
    assert "canary" not in done.stdout + done.stderr
    assert str(load_config(written(project, "sales")).table_names[0]) == "public.my_table"


def test_python_is_refused_with_the_reason(project: Path) -> None:
    done = scaffold(project, "sales", "--format", "python")

    assert done.returncode != 0
    assert "it is YAML only" in done.stdout + done.stderr


def _reason(text: str, table: str, reason: str) -> bool:
    return bool(re.search(rf"^    # - source: {table}  # .*{reason}", text, re.MULTILINE))
