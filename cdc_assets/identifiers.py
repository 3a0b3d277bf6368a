"""Names of tables and columns, quoted and compared as the source and the warehouse do."""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass

_FOLDED = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_PART = r'(?:"(?:[^"]|"")+"|[^."]+)'
_QUALIFIED = re.compile(rf"({_PART})\.({_PART})")


def quote(name: str) -> str:
    """Quote an identifier for Postgres and DuckDB alike."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a string literal for Postgres (standard_conforming_strings = on) and DuckDB."""
    return "'" + text.replace("'", "''") + "'"


def fold(name: str) -> str:
    """Give what DuckDB compares of a name: A to Z and a to z are the same, nothing else is."""
    return name.translate(_FOLDED)


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Find the candidate that a mistyped `name` most likely meant."""
    by_folded = {candidate.casefold(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[found[0]] if found else None


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A schema-qualified table, spelled as the source's catalog spells it."""

    schema: str
    name: str

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Read `schema.table`; a part with a dot or a quote in it is written in double quotes.

        Unlike SQL nothing is folded: `public.Orders` is the table `"Orders"`.

        Raises:
            ValueError: `text` is not a schema and a table.
        """
        match = _QUALIFIED.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"expected schema.table, got {text!r}")
        return cls(*(_unquote(part) for part in match.groups()))

    def __str__(self) -> str:
        return ".".join(_quote_if_needed(part) for part in (self.schema, self.name))

    @property
    def sql(self) -> str:
        """The name as SQL writes it, always quoted."""
        return f"{quote(self.schema)}.{quote(self.name)}"

    @property
    def folded(self) -> tuple[str, str]:
        """What a warehouse that ignores case compares."""
        return fold(self.schema), fold(self.name)


def record_table(table: TableName, keep: str) -> TableName:
    """Name what is kept beside a table's mirror: its change table or its history."""
    return TableName(table.schema, f"{table.name}__{keep}")


def change_table(table: TableName) -> TableName:
    """Name a table's change table in the warehouse."""
    return record_table(table, "changes")


def history_table(table: TableName) -> TableName:
    """Name a table's history in the warehouse."""
    return record_table(table, "history")


def _unquote(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part


def _quote_if_needed(part: str) -> str:
    return quote(part) if set(part) & {".", '"'} or part != part.strip() else part
