"""What a schedule's cron expression and time zone may be: what Dagster takes, and when it comes.

The expression is read by the croniter that Dagster carries along, so both ends agree. Importing
Dagster for it would take the command line longer than many a sync, so that one module is loaded
without the rest.
"""

from __future__ import annotations

import sys
from datetime import datetime, time, timedelta
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from cdc_assets.identifiers import nearest

EVERY_MINUTE = "* * * * *"

# Five years with two leap days: a schedule of days that are further apart has no day at all.
_LOOKED_AT_FROM, _LOOKED_AT_TO = datetime(2024, 1, 1), datetime(2029, 1, 1)


def checked_cron(text: str) -> str:
    """Give a cron expression back that Dagster takes and that comes true some day.

    Raises:
        ValueError: It is none, or it never comes.
    """
    if text == EVERY_MINUTE:  # the commonest one costs no import
        return text
    croniter = _library().croniter
    # Dagster knows no seconds and no years
    if not croniter.is_valid(text) or len(croniter.expand(text)[0]) != 5:
        raise ValueError(f"expected a cron expression with five fields, got {text!r}")
    if not _first_ticks(text):
        raise ValueError(f"there is no day on which {text!r} comes")
    return text


def checked_timezone(name: str) -> str:
    """Give a time zone's name back that is in the IANA database.

    Raises:
        ValueError: It is not.
    """
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        meant = nearest(name, available_timezones())
        advice = f"did you mean {meant!r}?" if meant else "expected one like 'Europe/Berlin'"
        raise ValueError(f"unknown time zone {name!r}, {advice}") from None
    return name


@cache
def longest_gap(cron: str, timezone: str) -> timedelta:
    """Give the longest time between two ticks of a checked expression.

    Where clocks change an hour is added, unless there are ticks in every hour: a day there has 25
    of them once a year.
    """
    minutes, hours = _times_of_day(cron)
    times = [time(hour, minute) for hour in hours for minute in minutes]
    within = [_apart(one, other) for one, other in pairwise(times)]
    days = _first_ticks(cron)
    night = _apart(times[-1], times[0])  # negative but for its days
    between = [later.date() - day.date() + night for day, later in pairwise(days)]
    longest = max(within + between)
    return longest + timedelta(hours=int(len(hours) < 24 and _clocks_change(timezone)))


def _clocks_change(timezone: str) -> bool:
    winter, summer = datetime(2024, 1, 1), datetime(2024, 7, 1)
    return ZoneInfo(timezone).utcoffset(winter) != ZoneInfo(timezone).utcoffset(summer)


def _apart(one: time, other: time) -> timedelta:
    return timedelta(hours=other.hour - one.hour, minutes=other.minute - one.minute)


def _times_of_day(cron: str) -> tuple[list[int], list[int]]:
    minutes, hours, *_ = _library().croniter.expand(cron)[0]
    every = ["*"]
    return (
        list(range(60)) if minutes == every else minutes,
        list(range(24)) if hours == every else hours,
    )


@cache
def _first_ticks(cron: str) -> tuple[datetime, ...]:
    """Give the first tick of every day that has one, among the days looked at."""
    library = _library()
    start = _LOOKED_AT_FROM - timedelta(minutes=1)
    ticks = library.croniter(cron, start, max_years_between_matches=5)
    found: list[datetime] = []
    try:
        while (tick := ticks.get_next(datetime)) < _LOOKED_AT_TO:
            found.append(tick)
            ticks.set_current(datetime.combine(tick, time.max), force=True)
    except library.CroniterBadDateError:  # none at all: a 31st of April
        return ()
    return tuple(found)


@cache
def _library() -> Any:
    name = "dagster._vendored.croniter"
    if "dagster" in sys.modules:
        return import_module(name)
    found = find_spec("dagster")
    package = ModuleType("dagster")
    package.__path__ = list(found.submodule_search_locations or ()) if found else []
    sys.modules["dagster"] = package
    try:
        return import_module(name)
    finally:  # whoever imports Dagster afterwards gets all of it
        for loaded in [key for key in sys.modules if key.partition(".")[0] == "dagster"]:
            del sys.modules[loaded]
