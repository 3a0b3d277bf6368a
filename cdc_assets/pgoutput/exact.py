"""The slow, exact readers: one value at a time, for what the fast path refuses.

Infinity of dates and timestamps is kept as the largest integer that the storage type has, and
-infinity as its negative: DuckDB's own encoding, and no other value of Postgres has these numbers.
"""

from __future__ import annotations

import re
from datetime import date

DATE_INFINITY = 2**31 - 1
TIMESTAMP_INFINITY = 2**63 - 1

_DAY_MICROSECONDS = 86_400_000_000
_DATE = re.compile(r"(\d{4,})-(\d\d)-(\d\d)( BC)?")
_TIMESTAMP = re.compile(r"(\d{4,}-\d\d-\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:\+00)?( BC)?")
_CYCLE_YEARS, _CYCLE_DAYS = 400, 146_097  # the Gregorian calendar repeats
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


class UnfitValueError(ValueError):
    """A value that the column's type can't hold; says which type, never the value."""

    def __init__(self, wanted: str) -> None:
        super().__init__(f"a value does not fit {wanted}")
        self.wanted = wanted


def date_days(text: str) -> int:
    """Count a date's days since 1970-01-01, proleptic Gregorian as Postgres counts.

    Raises:
        UnfitValueError: Not a date.
    """
    if text in ("infinity", "-infinity"):
        return DATE_INFINITY if text == "infinity" else -DATE_INFINITY
    match = _DATE.fullmatch(text)
    if match is None:
        raise UnfitValueError("date")
    year, month, day = (int(part) for part in match.groups()[:3])
    days = _days(1 - year if match[4] else year, month, day)
    if days >= DATE_INFINITY:
        raise UnfitValueError("date")
    return days


def _days(year: int, month: int, day: int) -> int:
    cycles, year_in_cycle = divmod(year, _CYCLE_YEARS)
    try:
        moved = date(year_in_cycle + _CYCLE_YEARS, month, day)  # a year that datetime.date takes
    except ValueError as error:
        raise UnfitValueError("date") from error
    return moved.toordinal() + (cycles - 1) * _CYCLE_DAYS - _EPOCH_ORDINAL


def timestamp_micros(text: str) -> int:
    """Count a UTC timestamp's microseconds since 1970-01-01.

    Raises:
        UnfitValueError: Not a timestamp, or later than the year 294247 (Postgres counts from 2000
            and reaches 294276).
    """
    if text in ("infinity", "-infinity"):
        return TIMESTAMP_INFINITY if text == "infinity" else -TIMESTAMP_INFINITY
    match = _TIMESTAMP.fullmatch(text)
    if match is None:
        raise UnfitValueError("timestamp")
    days = date_days(match[1] + (match[6] or ""))
    seconds = (int(match[2]) * 60 + int(match[3])) * 60 + int(match[4])
    micros = days * _DAY_MICROSECONDS + seconds * 1_000_000 + int((match[5] or "").ljust(6, "0"))
    if not -TIMESTAMP_INFINITY < micros < TIMESTAMP_INFINITY:
        raise UnfitValueError("timestamp of 64-bit microseconds since 1970")
    return micros


Nested = list["Nested | str | None"]


def nested_parts(text: str, dimensions: int) -> Nested:
    """Split the text of an array of so many dimensions into its elements' texts.

    Raises:
        UnfitValueError: Another number of dimensions, or bounds other than from 1. An array without
            an element has none of either, and fits.
    """
    wanted = f"list of {dimensions} dimensions that starts at 1"
    if text == "{}":
        return []
    try:
        found, at = _nested_from(text, 0, dimensions, wanted)
    except (IndexError, ValueError) as error:
        raise UnfitValueError(wanted) from error
    if at != len(text):
        raise UnfitValueError(wanted)
    return found


def _nested_from(text: str, at: int, dimensions: int, wanted: str) -> tuple[Nested, int]:
    if text[at] != "{":
        raise UnfitValueError(wanted)
    found: Nested = []
    while text[at] != "}":
        at += 1  # the brace, or the comma
        if dimensions > 1:
            inner, at = _nested_from(text, at, dimensions - 1, wanted)
            found.append(inner)
        else:
            part, at = _element(text, at)
            found.append(part)
    return found, at + 1


def array_parts(text: str) -> list[str | None]:
    """Split the text of a one-dimensional array into its elements' texts (`array_out`).

    Raises:
        UnfitValueError: More than one dimension, or bounds other than from 1: a list has neither.
    """
    if not text.startswith("{") or not text.endswith("}"):
        raise UnfitValueError("list that starts at 1")
    parts: list[str | None] = []
    at, end = 1, len(text) - 1
    try:
        while at < end:
            part, at = _element(text, at)
            parts.append(part)
            at += 1  # the comma, or the closing brace
    except IndexError as error:
        raise UnfitValueError("list whose quotes are closed") from error
    return parts


def _element(text: str, at: int) -> tuple[str | None, int]:
    if text[at] == "{":
        raise UnfitValueError("list of one dimension")
    if text[at] != '"':
        behind = min(place for mark in ",}" if (place := text.find(mark, at)) >= 0)
        part = text[at:behind]
        return (None if part == "NULL" else part), behind
    characters = []
    at += 1
    while text[at] != '"':
        at += text[at] == "\\"
        characters.append(text[at])
        at += 1
    return "".join(characters), at + 1
