"""The command line in a Dagster project of any layout, with one pipeline or several."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from cdc_assets.config import COMPONENT_TYPE, parse_config
from cdc_assets.operations.operator_sql import FILES, operator_sql, own_names
from cdc_assets.pages import page
from cdc_assets_tests.command_line import Done
from cdc_assets_tests.dagster_pipelines import attributes
from cdc_assets_tests.forking import PROJECT, run

# No server listens there: a command that gets as far has found its pipeline.
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
FOUND = "can't be reached"


def run_in(directory: Path, *arguments: str, **env: str) -> Done:
    """Run `cdc-assets` as a user would in a directory."""
    inherited = {key: value for key, value in os.environ.items() if key != "SHOP_SOURCE_DSN"}
    done = run("cdc_assets.cli:main", *arguments, environment=inherited | env, directory=directory)
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


def pipeline(name: str = "shop", *, kind: str = COMPONENT_TYPE, **changed: Any) -> dict[str, Any]:
    written = attributes("public.orders", name=name, **changed)
    written["source"]["dsn"] = NOWHERE
    return {"type": kind, "attributes": written}


def write(path: Path, *documents: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("---\n".join(yaml.safe_dump(one, sort_keys=False) for one in documents))
    return path


def make_project(
    root: Path, settings: str = 'root_module = "my_shop"', file: str = "pyproject.toml"
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    table = "[project]" if file == "dg.toml" else "[tool.dg.project]"
    (root / file).write_text(f"{table}\n{settings}\n")
    return root


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project as `create-dagster project` makes it: below src/, with nothing in it."""
    made = make_project(tmp_path / "my-shop")
    (made / "src" / "my_shop" / "defs").mkdir(parents=True)
    return made


@pytest.mark.parametrize(
    ("settings", "file", "folder"),
    [
        ('root_module = "my_shop"', "pyproject.toml", "src/my_shop/defs"),
        ('root_module = "my_shop"', "pyproject.toml", "my_shop/defs"),
        ('root_module = "my_shop"', "pyproject.toml", "my_shop/definitions"),
        ('root_module = "my_shop"', "dg.toml", "src/my_shop/defs"),
        (
            'root_module = "my_shop"\ndefs_module = "my_shop.deep.assets"',
            "pyproject.toml",
            "src/my_shop/deep/assets",
        ),
    ],
)
def test_the_one_pipeline_is_found_from_anywhere_below(
    tmp_path: Path, settings: str, file: str, folder: str
) -> None:
    project = make_project(tmp_path, settings, file)
    write(project / folder / "ingest" / "shop" / "defs.yaml", pipeline())

    for below in (project, project / folder, project / folder / "ingest" / "shop"):
        assert FOUND in run_in(below, "check").err


def test_a_workspaces_projects_are_all_looked_at(tmp_path: Path) -> None:
    (tmp_path / "dg.toml").write_text(
        '[workspace]\n[[workspace.projects]]\npath = "a"\n[[workspace.projects]]\npath = "b"\n'
    )
    for name in ("a", "b"):
        made = make_project(tmp_path / name, f'root_module = "{name}"')
        write(made / name / "defs" / "defs.yaml", pipeline(f"pipeline_{name}"))

    assert "2 pipelines in" in run_in(tmp_path, "check").err
    assert FOUND in run_in(tmp_path, "check", "--pipeline", "pipeline_b").err
    assert FOUND in run_in(tmp_path / "a", "check").err


def test_outside_of_a_project_it_says_what_it_looked_for(tmp_path: Path) -> None:
    done = run_in(tmp_path, "check")

    assert done.code == 2
    assert "no Dagster project at" in done.err
    assert "--config PATH" in done.err


def test_a_project_without_a_pipeline_says_how_to_make_one(project: Path) -> None:
    write(project / "src/my_shop/defs/other/defs.yaml", {"type": "dagster_dbt.DbtComponent"})

    done = run_in(project, "check")

    assert done.code == 2
    assert "no pipeline in" in done.err
    assert "dg scaffold defs cdc_assets.PostgresCdcComponent" in done.err


def test_several_pipelines_are_listed_and_one_is_chosen_by_name(project: Path) -> None:
    defs = project / "src" / "my_shop" / "defs"
    write(defs / "shop" / "defs.yaml", pipeline("shop"), pipeline("sales"))
    write(defs / "other" / "defs.yaml", {"type": "dagster_dbt.DbtComponent", "attributes": {}})
    write(defs / "stock" / "defs.yml", pipeline("stock"))

    several = run_in(project, "status")
    assert several.code == 2
    assert "3 pipelines in" in several.err
    for line in ("shop: ", "sales: ", "stock: ", "defs.yaml, line ", "--pipeline NAME"):
        assert line in several.err
    for name in ("shop", "sales", "stock"):
        assert FOUND in run_in(project, "check", "--pipeline", name).err
    wrong = run_in(project, "check", "--pipeline", "shp")
    assert wrong.code == 2
    assert "no pipeline is called 'shp'" in wrong.err
    assert "sales: " in wrong.err


def test_two_of_one_name_are_told_apart_by_their_files(project: Path) -> None:
    defs = project / "src" / "my_shop" / "defs"
    first = write(defs / "a" / "defs.yaml", pipeline())
    write(defs / "b" / "defs.yaml", pipeline())

    done = run_in(project, "check", "--pipeline", "shop")
    assert done.code == 2
    assert "2 pipelines are called 'shop'" in done.err
    assert FOUND in run_in(project, "check", "--config", str(first)).err


def test_a_neighbour_that_is_not_yaml_stops_nothing(project: Path) -> None:
    defs = project / "src" / "my_shop" / "defs"
    write(defs / "shop" / "defs.yaml", pipeline())
    (defs / "broken").mkdir()
    (defs / "broken" / "defs.yaml").write_text("type: [")

    assert FOUND in run_in(project, "check").err
    (defs / "shop" / "defs.yaml").unlink()
    alone = run_in(project, "check")
    assert alone.code == 2
    assert "is not YAML" in alone.err


@pytest.mark.parametrize("deep", ["", "src/my_shop/defs", "src/my_shop/defs/shop"])
def test_config_takes_a_folder(project: Path, tmp_path: Path, deep: str) -> None:
    write(project / "src/my_shop/defs/shop/defs.yaml", pipeline())

    assert FOUND in run_in(tmp_path, "check", "--config", str(project / deep)).err


def test_a_subclass_is_known_by_its_shape_and_its_own_keys_are_dagsters(project: Path) -> None:
    kind = "my_shop.components.ShopCdc"
    path = project / "src/my_shop/defs/shop/defs.yaml"
    write(path, pipeline(kind=kind, team="shop", owners=["{{ env.OWNER }}"]))
    assert FOUND in run_in(project, "check").err

    write(path, pipeline(kind=kind, team="shop", window={"max_wal_byte": 1}))
    wrong = run_in(project, "check")
    assert wrong.code == 2
    assert "window.max_wal_byte: unknown key, did you mean 'max_wal_bytes'?" in wrong.err
    assert "team" not in wrong.err


@pytest.mark.parametrize("kind", ["cdc_assets.PostgresCdcComponnt", "dagster.DefsFolderComponent"])
def test_another_type_is_named(project: Path, kind: str) -> None:
    written = {"type": kind, "attributes": {"name": "shop"}}
    path = write(project / "src/my_shop/defs/shop/defs.yaml", written)

    done = run_in(project, "check", "--config", str(path))

    assert done.code == 2
    assert f"type: expected {COMPONENT_TYPE!r} or a subclass of it, got {kind!r}" in done.err


def test_a_key_that_stands_twice_is_named_with_its_lines(project: Path) -> None:
    path = write(project / "src/my_shop/defs/shop/defs.yaml", pipeline())
    lines = path.read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if "slot:" in line)
    path.write_text("\n".join([*lines[: at + 1], "    slot: other_cdc", *lines[at + 1 :]]))

    done = run_in(project, "check")

    assert done.code == 2
    assert f"line {at + 2}: key 'slot' stands twice, first in line {at + 1}" in done.err


def test_the_projects_env_file_is_read_and_goes_before_the_shell(project: Path) -> None:
    written = pipeline()
    written["attributes"]["source"]["dsn"] = {"env": "SHOP_SOURCE_DSN"}
    written["attributes"]["warehouse"]["duckdb"]["path"] = {"env": "SHOP_WAREHOUSE"}
    path = write(project / "src/my_shop/defs/shop/defs.yaml", written)
    assert "'SHOP_WAREHOUSE' is not set" in run_in(project, "check").err

    (project / ".env").write_text(f'SHOP_SOURCE_DSN="{NOWHERE}"\nSHOP_WAREHOUSE=data/a.duckdb\n')

    assert FOUND in run_in(project, "check").err
    assert FOUND in run_in(project.parent, "check", "--config", str(path)).err
    elsewhere = run_in(project, "check", SHOP_SOURCE_DSN="postgresql://x@no.such.host.invalid/x")
    assert "127.0.0.1" in elsewhere.err


def test_hints_carry_what_the_command_was_told(project: Path) -> None:
    defs = project / "src" / "my_shop" / "defs"
    write(defs / "shop" / "defs.yaml", pipeline("shop"), pipeline("sales"))
    program = (
        "import sys; from cdc_assets.cli import main, commands; "
        "from cdc_assets.errors import CdcError\n"
        "def fail(options): raise CdcError(\"it fails: see 'cdc-assets check'\","
        " hint=\"run 'cdc-assets teardown --table t; cdc-assets sync', cdc-assets sql role\")\n"
        "commands.setup = fail; sys.exit(main(sys.argv[1:]))"
    )

    def failed(*options: str) -> str:
        arguments = [sys.executable, "-c", program, "setup", *options]
        env = {**os.environ, "PYTHONPATH": str(PROJECT)}
        done = subprocess.run(
            arguments, cwd=project, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1, done.stderr
        return done.stderr

    assert failed() == (
        "error: it fails: see 'cdc-assets check'\n"
        "hint: run 'cdc-assets teardown --table t; cdc-assets sync', cdc-assets sql role\n"
    )
    assert failed("--pipeline", "sales") == (
        "error: it fails: see 'cdc-assets check --pipeline sales'\n"
        "hint: run 'cdc-assets teardown --pipeline sales --table t;"
        " cdc-assets sync --pipeline sales', cdc-assets sql role --pipeline sales\n"
    )
    as_json = json.loads(failed("--config", "a b/defs.yaml", "--pipeline", "sales", "--json"))
    assert as_json["kind"] == "CdcError"
    assert as_json["error"] == (
        "it fails: see 'cdc-assets check --config 'a b/defs.yaml' --pipeline sales'"
    )


def test_errors_are_json_where_the_result_is(project: Path) -> None:
    path = write(project / "src/my_shop/defs/shop/defs.yaml", pipeline(tabels=[]))

    done = run_in(project, "status", "--json")

    assert done.code == 2
    assert done.out == ""
    error = json.loads(done.err)
    assert error["kind"] == "ConfigError"
    assert error["problems"] == ["tabels: unknown key, did you mean 'tables'?"]
    write(path, pipeline())
    assert json.loads(run_in(project, "sync", "--json").err)["kind"] == "ConnectionLostError"
    status = run_in(project, "status", "--json")
    assert json.loads(status.out)["source_error"]["kind"] == "ConnectionLostError"


def test_it_says_its_version(tmp_path: Path) -> None:
    assert run_in(tmp_path, "--version").out == f"cdc-assets {version('cdc-assets')}\n"


def test_operators_sql_has_the_pipelines_names(project: Path) -> None:
    written = pipeline("sales")
    written["attributes"]["source"] |= {"dsn": {"env": "SALES_DSN"}, "slot": "sales_slot"}
    written["attributes"]["tables"] = [{"source": 'public."Order.Items"'}, {"source": "crm.leads"}]
    write(project / "src/my_shop/defs/sales/defs.yaml", written)
    tables = '"public"."Order.Items", "crm"."leads"'

    role = run_in(project, "sql", "role")
    assert role.code == 0
    assert 'CREATE ROLE "sales_slot" LOGIN REPLICATION' in role.out
    assert 'GRANT USAGE ON SCHEMA "public", "crm" TO "sales_slot"' in role.out
    assert f'GRANT SELECT ON {tables} TO "sales_slot"' in role.out
    dsn = "postgresql://reader:canary@db.example.com/prod"
    known = run_in(project, "sql", "role", SALES_DSN=dsn)
    assert 'CREATE ROLE "reader" LOGIN' in known.out
    assert 'GRANT CONNECT ON DATABASE "prod" TO "reader"' in known.out
    assert "canary" not in known.out
    made = run_in(project, "sql", "publication", "--json").json["sql"]
    only = 'ONLY "public"."Order.Items", ONLY "crm"."leads"'
    assert f'CREATE PUBLICATION "shop_cdc"\n    FOR TABLE {only}' in made
    assert "pg_create_logical_replication_slot('sales_slot', 'pgoutput')" in made
    assert run_in(project, "sql", "monitoring").out.count("SELECT") >= 3


def test_operators_sql_is_the_demos_where_there_is_no_pipeline(
    project: Path, tmp_path: Path
) -> None:
    for directory in (project, tmp_path):
        printed = run_in(directory, "sql", "publication")
        assert (printed.code, printed.out) == (0, (PROJECT / "sql/publication.sql").read_text())
        assert run_in(directory, "sql", "role", "--pipeline", "shop").code == 2


def test_every_name_that_is_filled_in_is_in_its_file() -> None:
    config = parse_config(attributes("public.orders"), root=PROJECT, place="x")
    for name in FILES:
        text = operator_sql(name, None)
        assert all(written in text for written in own_names(name, config)), name


def test_pages_that_hints_name_are_there(project: Path) -> None:
    write(project / "src/my_shop/defs/shop/defs.yaml", pipeline(tabels=[]))

    hint = run_in(project, "check").err.splitlines()[-1]

    named = hint.removeprefix("hint: ").removesuffix(" lists every key")
    assert Path(named).is_file()
    assert Path(page("types")).is_file()
