"""Problems that many tables share, as people read them: once, with the tables' names."""

from __future__ import annotations

from collections.abc import Sequence

from cdc_assets.errors import CdcError, TableError
from cdc_assets.identifiers import TableName

_NAMED = 5  # tables that are listed before the rest is counted


def grouped(problems: Sequence[CdcError]) -> list[CdcError]:
    """Make one problem of those that differ in their tables only, in the order of the first ones.

    The tables' own problems, each with its hint, are for programs to read.
    """
    groups: dict[object, list[CdcError]] = {}
    for problem in problems:
        groups.setdefault(_cause(problem), []).append(problem)
    return [_together(group) for group in groups.values()]


def _cause(problem: CdcError) -> object:
    if not isinstance(problem, TableError):
        return id(problem)
    return type(problem), _without_table(problem.message, problem)


def _without_table(text: str, problem: TableError) -> str:
    try:
        table = TableName.parse(problem.table)
    except ValueError:
        return text
    for spelled in (repr(problem.table), problem.table, table.sql):
        text = text.replace(spelled, "\0")
    return text


def _together(group: list[CdcError]) -> CdcError:
    first = group[0]
    if len(group) == 1 or not isinstance(first, TableError):
        return first
    tables = [problem.table for problem in group if isinstance(problem, TableError)]
    if first.many:
        message = f"{len(tables)} tables {first.many}: {_listed(tables)}"
    else:
        message = f"{first.message}; alike for {len(tables) - 1} more: {_listed(tables[1:])}"
    hint = first.hint
    if any(problem.hint != hint for problem in group):
        hint += f" (this is {tables[0]!r}: --json has the hint of every table)"
    return CdcError(message, hint=hint)


def _listed(tables: list[str]) -> str:
    named = ", ".join(map(repr, tables[:_NAMED]))
    return f"{named} and {len(tables) - _NAMED} more" if len(tables) > _NAMED else named
