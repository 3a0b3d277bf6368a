"""What a Dagster instance lacks is said where somebody looks; a file that has it all is written."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from cdc_assets.cli import main
from cdc_assets.config import PipelineConfig
from cdc_assets.operations.instance import TEMPLATE, lacking, lacking_here
from cdc_assets.orchestration import instance as warnings_about_the_instance
from cdc_assets_tests.command_line import run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.dagster_pipelines import attributes, definitions
from cdc_assets_tests.dagster_project import PROJECT, copy_project
from cdc_assets_tests.dagster_project import dg as run_dg
from cdc_assets_tests.database import ScratchDatabase


@pytest.fixture(autouse=True)
def _nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings_about_the_instance, "_said", set())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    return pipeline("public.orders")


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What is logged while the definitions are loaded."""
    log, lines = logging.getLogger("dagster.cdc_assets"), list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)


def test_the_packages_file_and_the_projects_own_are_one() -> None:
    assert (PROJECT / "dagster.yaml").read_text() == TEMPLATE.read_text()


def test_an_instance_of_the_file_lacks_nothing(tmp_path: Path) -> None:
    settings = yaml.safe_load(TEMPLATE.read_text())
    with dg.instance_for_test(overrides=settings, temp_dir=str(tmp_path)) as instance:
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 60
        assert not lacking(settings)
        assert not _said_at_tick(instance)


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"run_monitoring": {"enabled": False}}, "run_monitoring.enabled"),
        ({"run_monitoring": None}, "run_monitoring.free_slots_after_run_end_seconds"),
        ({"concurrency": {"pools": {"granularity": "op"}}}, "concurrency.pools.default_limit"),
        ({"run_coordinator": {}}, "run_queue.dequeue_interval_seconds"),
        ({"retention": {}}, "retention.schedule"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_thing_that_is_missing_is_named(settings: dict[str, Any], missing: str) -> None:
    found = lacking({**yaml.safe_load(TEMPLATE.read_text()), **settings})

    assert any(line.startswith(missing) for line in found), found


def test_what_stands_in_the_queues_own_section_is_found() -> None:
    settings = yaml.safe_load(TEMPLATE.read_text())
    del settings["run_coordinator"]

    assert not lacking({**settings, "run_queue": {"dequeue_interval_seconds": 2}})


def test_loading_says_once_what_is_missing(home: Path, told: list[str]) -> None:
    for _ in range(2):
        definitions(attributes("public.orders"))

    (line,) = told
    assert f"the Dagster instance lacks a dagster.yaml in {str(home)!r}; run_monitoring" in line
    assert "'cdc-assets scaffold instance'" in line


def test_loading_says_nothing_where_there_is_no_instance(
    told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    definitions(attributes("public.orders"))

    assert not told


def test_the_first_tick_says_what_its_instance_lacks(tmp_path: Path) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        said, again = _said_at_tick(instance), _said_at_tick(instance)

    assert "the Dagster instance lacks run_monitoring.enabled" in said
    assert "concurrency.pools.default_limit" in said
    assert not again


def test_check_notes_it_and_is_no_failure(config: PipelineConfig, home: Path) -> None:
    checked = run_command(config, "check")

    assert checked.code == 0
    assert f"note: the Dagster instance lacks a dagster.yaml in {str(home)!r}" in checked.err


def test_the_way_out_leaves_nothing_to_say(config: PipelineConfig, home: Path) -> None:
    assert main(["scaffold", "instance"]) == 0

    assert (home / "dagster.yaml").read_text() == TEMPLATE.read_text()
    assert not lacking_here()
    assert "note" not in run_command(config, "check").err


def test_a_file_that_is_there_is_not_written_over(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "dagster.yaml").write_text("nux: {enabled: false}")

    code = main(["scaffold", "instance", str(home / "elsewhere")])

    assert code == 2
    assert "dagster.yaml' exists already" in capsys.readouterr().err
    assert "nux" in (home / "elsewhere" / "dagster.yaml").read_text()


def test_elsewhere_the_variable_that_is_needed_is_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["scaffold", "instance", str(home / "new" / "home")]) == 0

    assert f"DAGSTER_HOME={str(home / 'new' / 'home')!r}" in capsys.readouterr().out


def test_dg_shows_it_as_the_code_location_is_loaded(tmp_path: Path) -> None:
    project = copy_project(tmp_path)
    (project / ".dagster" / "dagster.yaml").unlink()

    done = run_dg(project, "check", "defs")

    assert done.returncode == 0
    assert (done.stdout + done.stderr).count("the Dagster instance lacks a dagster.yaml") == 1


def _said_at_tick(instance: dg.DagsterInstance) -> str:
    lines: list[str] = []
    context = dg.build_schedule_context(instance=instance)
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    context.log.addHandler(handler)
    schedule = definitions(attributes("public.orders")).resolve_schedule_def("shop_sync_schedule")
    schedule.evaluate_tick(context)
    return "\n".join(lines)
