"""A schedule is checked by what Dagster reads it with, on the command line too."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._utils.schedules import is_valid_cron_string

from cdc_assets.config import PipelineConfig, parse_config
from cdc_assets.config.cron import longest_gap
from cdc_assets.errors import ConfigError
from cdc_assets_tests.dagster_pipelines import attributes, definitions
from cdc_assets_tests.interrupting import PROJECT

TAKEN = [
    *("* * * * *", "*/5 * * * *", "0 3 * * *", "0 0 29 2 *", "@hourly", "@daily", "@midnight"),
    *(
        "0 0 L * *",
        "0 0 * * mon#2",
        "15,45 8-18 * * 1-5",
        "0 0 1 jan *",
        "* * * 1 *",
        "5/15 * * * *",
    ),
]
REFUSED = [
    *("61 * * * *", "@fortnightly", "@reboot", "a b c d e", "* * * *", "* * * * * *", ""),
    *("0 24 * * *", "0 0 0 * *", "0 0 * 13 *", "*/0 * * * *", "H * * * *", "0 0 30 2 *"),
    *("* * * * * * 2030", "0 0 * * mon#6", "every minute, please ."),
]


@pytest.mark.parametrize("cron", TAKEN)
def test_what_dagster_takes_both_ends_take(cron: str) -> None:
    assert is_valid_cron_string(cron)
    defs = definitions(attributes("public.orders", schedule=cron))

    assert defs.resolve_schedule_def("shop_sync_schedule").cron_schedule == cron
    assert read(cron).schedule == read({"cron": cron}).schedule


@pytest.mark.parametrize("cron", REFUSED)
def test_what_dagster_refuses_both_ends_refuse(cron: str) -> None:
    assert not is_valid_cron_string(cron)
    with pytest.raises(ConfigError) as as_text:
        read(cron)
    with pytest.raises(ConfigError) as as_mapping:
        read({"cron": cron})
    with pytest.raises(ConfigError) as in_dagster:
        definitions(attributes("public.orders", schedule=cron))

    (problem,) = as_text.value.problems
    assert problem.startswith("schedule: ")
    assert repr(cron) in problem
    assert as_mapping.value.problems == (problem.replace("schedule: ", "schedule.cron: "),)
    assert in_dagster.value.problems == as_text.value.problems


def test_a_day_that_never_comes_is_refused() -> None:
    with pytest.raises(ConfigError) as error:
        read("0 0 31 4,6 *")

    assert error.value.problems == ("schedule: there is no day on which '0 0 31 4,6 *' comes",)


@pytest.mark.parametrize(
    ("cron", "timezone", "gap"),
    [
        ("* * * * *", "UTC", timedelta(minutes=1)),
        ("*/7 * * * *", "Europe/Berlin", timedelta(minutes=7)),
        ("0 3 * * *", "UTC", timedelta(days=1)),
        ("0 3 * * *", "Europe/Berlin", timedelta(hours=25)),
        ("*/15 8-18 * * 1-5", "UTC", timedelta(days=2, hours=13, minutes=15)),
        ("0 0 29 2 *", "UTC", timedelta(days=4 * 365 + 1)),
        ("* * * 1 *", "UTC", timedelta(days=335, minutes=1)),
        ("@monthly", "Asia/Kolkata", timedelta(days=31)),
    ],
)
def test_the_longest_gap_is_known(cron: str, timezone: str, gap: timedelta) -> None:
    assert longest_gap(cron, timezone) == gap


def test_a_leap_days_schedule_loads_and_promises_its_gap() -> None:
    defs = definitions(attributes("public.orders", schedule="0 0 29 2 *"))
    policy = defs.resolve_all_asset_specs()
    (freshness,) = (spec.freshness_policy for spec in policy if spec.freshness_policy)

    assert freshness.warn_window.to_timedelta() > timedelta(days=4 * 365)


def test_zone_and_start_are_the_configs() -> None:
    written = {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "start": "stopped"}
    schedule = definitions(attributes("public.orders", schedule=written)).resolve_schedule_def(
        "shop_sync_schedule"
    )

    assert schedule.execution_timezone == "Europe/Berlin"
    assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED


def test_no_schedule_is_no_schedule() -> None:
    defs = definitions(attributes("public.orders", schedule=None))

    assert not defs.schedules
    assert read(None).schedule is None


def test_what_is_wrong_with_zone_and_start_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        read({"cron": "0 3 * * *", "timezone": "Europe/Berln", "start": "runing", "zone": "UTC"})

    assert set(error.value.problems) == {
        "schedule.timezone: unknown time zone 'Europe/Berln', did you mean 'Europe/Berlin'?",
        "schedule.start: expected 'running' or 'stopped'",
        "schedule.zone: unknown key, did you mean 'timezone'?",
    }


def test_the_check_loads_nothing_else_of_dagster() -> None:
    program = (
        "import sys; from cdc_assets.config.cron import checked_cron\n"
        "checked_cron('*/5 * * * *')\n"
        "assert not [name for name in sys.modules if name.startswith('dagster')]\n"
        "import dagster; dagster.Definitions()\n"
        "from dagster._utils.schedules import is_valid_cron_string as valid\n"
        "assert valid('*/5 * * * *')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def read(schedule: Any) -> PipelineConfig:
    return parse_config(attributes("public.orders", schedule=schedule), root=PROJECT, place="x")
