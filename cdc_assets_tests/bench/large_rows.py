"""One row of hundreds of megabytes, and another one: what memory they take, or what is said."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cdc_assets_tests.bench.workloads import Connection

LARGE_ROWS_HEADER = """\
| a row, and another one in a transaction | first copy | stream | an UPDATE of both that leaves \
the value alone | backfill of both |
|---|---|---|---|---|"""

_TEXT = "repeat(md5('1'), {} * 32768)"


@dataclass(frozen=True, slots=True)
class LargeRow:
    """Columns of one type, and the SQL that makes so many megabytes for each."""

    type: str
    value: str
    megabytes: int
    columns: int = 1


LARGE_ROWS: Mapping[str, LargeRow] = {
    "200 MB of text": LargeRow("text", _TEXT, 200),
    "four columns of 50 MB of text": LargeRow("text", _TEXT, 50, columns=4),
    "200 MB of jsonb": LargeRow("jsonb", "to_jsonb(" + _TEXT + ")", 200),
    "200 MB of bytea": LargeRow("bytea", "convert_to(" + _TEXT + ", 'UTF8')", 200),
    "900 MB of text": LargeRow("text", _TEXT, 900),
    "600 MB of bytea": LargeRow("bytea", "convert_to(" + _TEXT + ", 'UTF8')", 600),
    "two columns of 600 MB of text, written one by one": LargeRow("text", _TEXT, 600, columns=2),
}


def measure_large_row(
    connection: Connection, run: Callable[..., int], about: str, row: LargeRow
) -> str:
    """Give a row of the table under `LARGE_ROWS_HEADER`.

    Args:
        connection: To an empty database of the server.
        run: Runs a command of the command line with arguments, and gives its peak of memory.
        about: What the row is called.
        row: What it is made of.
    """
    names = [f"c{number}" for number in range(row.columns)]
    listed = "".join(f", {name} {row.type}" for name in names)
    stored = ", ".join(f"ALTER {name} SET STORAGE EXTERNAL" for name in names)
    connection.execute(f"CREATE TABLE public.bench (id int PRIMARY KEY, n int{listed})")
    connection.execute(f"ALTER TABLE public.bench {stored}")
    _insert(connection, 1, names, row)
    run("setup")
    cells = [about, _peak(run, "sync")]
    _insert(connection, 2, names, row)
    cells.append(_peak(run, "sync"))
    connection.execute("UPDATE public.bench SET n = n + 1")
    cells.append(_peak(run, "sync"))
    cells.append(_peak(run, "backfill", "public.bench"))
    run("teardown", "--yes")
    return f"| {' | '.join(cells)} |"


def _insert(connection: Connection, key: int, names: list[str], row: LargeRow) -> None:
    """Write a row column by column, as together they may be more than Postgres takes at once."""
    connection.execute(f"INSERT INTO public.bench (id, n) VALUES ({key}, 0)")
    value = row.value.format(row.megabytes)
    if row.megabytes * len(names) < 1000:
        names = [", ".join(f"{name} = {value}" for name in names)]
    else:
        names = [f"{name} = {value}" for name in names]
    for assigned in names:
        connection.execute(f"UPDATE public.bench SET {assigned} WHERE id = {key}")


def _peak(run: Callable[..., int], *command: str) -> str:
    try:
        return f"{run(*command) / 1e9:.1f} GB"
    except SystemExit as error:
        sys.stderr.write(f"{error}\n")
        return "error"
