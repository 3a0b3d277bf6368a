"""`make bench`: one workload after another on a fresh embedded Postgres.

Every measurement reads the same range of the same WAL: the range's start is kept in a slot of its
own and copied for each reader, and the warehouse file is put back to where it was before the range.
The three readers take turns, so that a slow minute of the machine meets all of them; figures are
medians. `sync` is the whole process, from its start until everything is committed, confirmed and
the warehouse is closed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import psycopg
import yaml

from cdc_assets.config import COMPONENT_TYPE
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets_tests.bench.copies import COPY_HEADER, measure_copies
from cdc_assets_tests.bench.large_rows import (
    LARGE_ROWS,
    LARGE_ROWS_HEADER,
    LargeRow,
    measure_large_row,
)
from cdc_assets_tests.bench.many_tables import (
    MANY_TABLES_HEADER,
    TABLES,
    many_tables,
    measure_many_tables,
)
from cdc_assets_tests.bench.shaped import SHAPED_HEADER, measure_shaped
from cdc_assets_tests.bench.under_load import (
    LARGE,
    ROWS,
    SMALL,
    UNDER_LOAD_HEADER,
    measure_under_load,
)
from cdc_assets_tests.bench.workloads import TABLE, WORKLOADS, Connection, Workload
from cdc_assets_tests.interrupting import PROJECT

_SERVER = {"max_wal_size": "32GB", "checkpoint_timeout": "1h", "max_replication_slots": "10"}
_COPIES, _UNDER_LOAD, _SHAPED, _MANY_TABLES, _LARGE_ROWS = "f", "g", "h", "i", "j"
_OTHERS = (_COPIES, _UNDER_LOAD, _SHAPED, _MANY_TABLES)  # j, which takes 9 GB, when it is asked for
_SLOT, _START = "bench", "bench_start"
_OPTIONS = "'proto_version', '1', 'publication_names', 'bench'"


@dataclass(slots=True)
class Measured:
    """Seconds per repetition, and the peak of sync's memory."""

    server: list[float] = field(default_factory=list)
    recvlogical: list[float] = field(default_factory=list)
    sync: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)


class Bench:
    """One workload on one database, measured as often as asked."""

    def __init__(
        self, server: EmbeddedPostgres, name: str, directory: Path, tables: Sequence[str]
    ) -> None:
        self._server, self._name = server, f"bench_{name}"
        self._config, self._warehouse = directory / "defs.yaml", directory / "bench.duckdb"
        self._before = directory / "before.duckdb"
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {self._name}")
            self.version = connection.info.server_version
        self._config.write_text(yaml.safe_dump(self._component(tables)))

    def run(self, workload: Workload, *, repeats: int) -> Measured:
        """Make the range, then measure its readers in turns."""
        measured = Measured()
        with psycopg.connect(self._server.dsn(self._name), autocommit=True) as connection:
            connection.execute(TABLE)
            self._cdc_assets("setup")
            self._cdc_assets("sync")
            shutil.copy(self._warehouse, self._before)
            _copy_slot(connection, _SLOT, _START)
            workload.run(connection, workload.changes)
            connection.execute("CHECKPOINT")
            end = connection.execute("SELECT pg_current_wal_lsn()").fetchone()
            for _ in range(repeats):
                measured.server.append(_seconds(lambda: _decode(connection)))
                self._measure_recvlogical(connection, str(end[0] if end else ""), measured)
                self._measure_sync(connection, measured)
            self._compare(connection)
            for slot in (_SLOT, _START):
                connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])
        return measured

    def _component(self, tables: Sequence[str]) -> dict[str, object]:
        attributes = {
            "name": "bench",
            "source": {
                "dsn": self._server.dsn(self._name),
                "slot": _SLOT,
                "publication": "bench",
            },
            "warehouse": {"duckdb": {"path": str(self._warehouse)}},
            "tables": [{"source": table} for table in tables],
        }
        return {"type": COMPONENT_TYPE, "attributes": attributes}

    def copies(self, *, repeats: int) -> list[str]:
        """Measure copies of a whole table; gives rows of a table."""
        with psycopg.connect(self._server.dsn(self._name), autocommit=True) as connection:
            return measure_copies(
                connection,
                self._warehouse,
                self._server.dsn(self._name),
                self._cdc_assets,
                repeats=repeats,
            )

    def shaped(self, workload: Workload, *, repeats: int) -> list[str]:
        """Measure what shaping costs; gives rows of a table."""
        with psycopg.connect(self._server.dsn(self._name), autocommit=True) as connection:
            return measure_shaped(
                connection, self._config, self._cdc_assets, workload, repeats=repeats
            )

    def under_load(self, *, rows: int) -> list[str]:
        """Measure the first copy of a table that is written meanwhile; gives rows of a table."""
        dsn = self._server.dsn(self._name)
        return measure_under_load(dsn, self._config, self._warehouse, self._compare, rows=rows)

    def many_tables(self, *, count: int, repeats: int) -> list[str]:
        """Measure what does nothing for most of many tables; gives rows of a table."""
        with psycopg.connect(self._server.dsn(self._name), autocommit=True) as connection:
            return measure_many_tables(connection, self._cdc_assets, count=count, repeats=repeats)

    def large_row(self, about: str, row: LargeRow) -> str:
        """Measure a large row; gives a row of a table."""
        self._warehouse.unlink(missing_ok=True)
        with psycopg.connect(self._server.dsn(self._name), autocommit=True) as connection:
            return measure_large_row(connection, self._cdc_assets, about, row)

    def _cdc_assets(self, command: str, *more: str) -> int:
        """Run one command as a process of its own, and give its peak of memory in bytes."""
        program = str(Path(sys.executable).with_name("cdc-assets"))
        arguments = [program, command, *more, "--config", str(self._config)]
        process = subprocess.Popen(
            arguments,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(PROJECT)},  # where the transform is
        )
        said = process.stderr.read() if process.stderr else ""
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"cdc-assets {command} failed:\n{said}")
        return usage.ru_maxrss * 1024

    def _measure_recvlogical(self, connection: Connection, end: str, measured: Measured) -> None:
        _copy_slot(connection, _START, "bench_recv")
        command = [
            str(self._server.bin_dir / "pg_recvlogical"),
            f"--dbname={self._server.dsn(self._name)}",
            *("--slot=bench_recv", "--start", "--file=/dev/null", f"--endpos={end}"),
            *("--option=proto_version=1", "--option=publication_names=bench"),
        ]
        measured.recvlogical.append(_seconds(lambda: subprocess.run(command, check=True)))
        connection.execute("SELECT pg_drop_replication_slot('bench_recv')")

    def _measure_sync(self, connection: Connection, measured: Measured) -> None:
        connection.execute("SELECT pg_drop_replication_slot(%s)", [_SLOT])
        _copy_slot(connection, _START, _SLOT)
        shutil.copy(self._before, self._warehouse)
        measured.sync.append(_seconds(lambda: measured.peak_bytes.append(self._cdc_assets("sync"))))

    def _compare(self, connection: Connection) -> None:
        """Refuse figures of a sync that did not bring every row."""
        source = connection.execute(
            "SELECT count(*), sum(id)::bigint, sum(amount)::text,"
            " sum(length(status) + length(note) + extract(epoch FROM created)::bigint)::bigint"
            " FROM public.bench"
        ).fetchone()
        with duckdb.connect(str(self._warehouse), read_only=True) as warehouse:
            mirror = warehouse.execute(
                "SELECT count(*), sum(id)::bigint, sum(amount)::varchar,"
                " sum(length(status) + length(note) + epoch_us(created) // 1000000)::bigint"
                " FROM public.bench"
            ).fetchall()[0]
        if source != mirror:
            raise SystemExit(f"the mirror is not equal: source {source}, warehouse {mirror}")


def _copy_slot(connection: Connection, slot: str, copy: str) -> None:
    connection.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", [slot, copy])


def _decode(connection: Connection) -> None:
    connection.execute(
        f"SELECT count(*) FROM pg_logical_slot_peek_binary_changes('{_START}', NULL, NULL,"
        f" {_OPTIONS})"
    )


def _seconds(action: Callable[[], object]) -> float:
    started = time.monotonic()
    action()
    return time.monotonic() - started


def _row(workload: Workload, measured: Measured) -> str:
    server = statistics.median(measured.server)
    recvlogical = statistics.median(measured.recvlogical)
    sync = statistics.median(measured.sync)
    ratio = statistics.median(
        ours / theirs for ours, theirs in zip(measured.sync, measured.recvlogical, strict=True)
    )
    cells = (
        f"{workload.about} ({len(measured.sync)} times)",
        f"{server:.1f} s",
        f"{recvlogical:.1f} s",
        f"{sync:.1f} s",
        f"**{ratio:.2f}**",
        f"{sync / server:.2f}",
        f"{workload.changes / sync:,.0f}",
        f"{max(measured.peak_bytes) / 1e6:,.0f} MB",
    )
    return f"| {' | '.join(cells)} |"


_HEADER = """\
| workload | server's own decoding | pg_recvlogical to /dev/null | cdc-assets sync | sync / \
pg_recvlogical | sync / decoding | changes per second | peak memory |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    known = ", ".join([*WORKLOADS, *_OTHERS])
    more = f"{_LARGE_ROWS}, which takes 9 GB of memory"
    parser.add_argument("workloads", nargs="*", help=f"of {known}; default: all; and {more}")
    parser.add_argument("--repeats", type=int, help="default: 3, and 1 for the large transactions")
    parser.add_argument("--rows", type=int, default=ROWS, help="of g; default: %(default)s")
    parser.add_argument("--tables", type=int, default=TABLES, help="of i; default: %(default)s")
    options = parser.parse_args()
    rows, copies, loads, shaped = list[str](), list[str](), list[str](), list[str]()
    many, large = list[str](), list[str]()
    version = 0
    for name in options.workloads or [*WORKLOADS, *_OTHERS]:
        with tempfile.TemporaryDirectory(prefix="cdc-bench-") as folder:
            directory = Path(folder)
            with EmbeddedPostgres(directory / "postgres", settings=_SERVER) as server:
                tables = [str(LARGE), *([str(SMALL)] if name == _UNDER_LOAD else [])]
                if name == _MANY_TABLES:
                    tables = [str(table) for table in many_tables(options.tables)]
                if name == _LARGE_ROWS:
                    for at, (about, row) in enumerate(LARGE_ROWS.items()):
                        bench = Bench(server, f"{name}{at}", directory, tables)
                        version = bench.version
                        large.append(bench.large_row(about, row))
                    continue
                bench = Bench(server, name, directory, tables)
                version = bench.version
                if name == _COPIES:
                    copies = bench.copies(repeats=options.repeats or 3)
                    continue
                if name == _UNDER_LOAD:
                    loads = bench.under_load(rows=options.rows)
                    continue
                if name == _SHAPED:
                    shaped = bench.shaped(WORKLOADS["a"], repeats=options.repeats or 3)
                    continue
                if name == _MANY_TABLES:
                    many = bench.many_tables(count=options.tables, repeats=options.repeats or 3)
                    continue
                workload = WORKLOADS[name]
                measured = bench.run(workload, repeats=options.repeats or workload.repeats)
        rows.append(_row(workload, measured))
        sys.stderr.write(rows[-1] + "\n")
    head = f"{os.cpu_count()} cores, PostgreSQL {version // 10000}.{version % 10000}, medians"
    printed = [["", _HEADER, *rows]] if rows else []
    printed += [["", COPY_HEADER, *copies]] if copies else []
    printed += [["", UNDER_LOAD_HEADER, *loads]] if loads else []
    printed += [["", SHAPED_HEADER, *shaped]] if shaped else []
    printed += [["", MANY_TABLES_HEADER, *many]] if many else []
    printed += [["", LARGE_ROWS_HEADER, *large]] if large else []
    sys.stdout.write("\n".join([head, *(line for table in printed for line in table), ""]))


if __name__ == "__main__":
    main()
