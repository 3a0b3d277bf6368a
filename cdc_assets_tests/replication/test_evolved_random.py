"""Random alterations between random changes, with Postgres as the oracle.

Whatever is altered, however often between two syncs, rolled back or killed, and whatever value does
not fit its column: the mirror has the source's columns with the source's values or their text, the
history's open versions are the mirror's rows, and a backfill of everything finds no difference.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.progress import BucketBackfilled
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.rebuilding import rebuild
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import kill_at
from cdc_assets_tests.syncs import kept, query, sync_all
from cdc_assets_tests.waiting import wait_until_unlocked

TABLE = "public.t"
KEEPS = (["mirror"], ["mirror", "changes"], ["mirror", "changes", "history"])
TYPES = ("int", "bigint", "text", "varchar(9)", "numeric(6,2)", "bool", "timestamp", "int[]")
VALUES = {
    "int": "(random() * 99)::int",
    "bigint": "(random() * 99)::int",
    "text": "'x' || (random() * 99)::int",
    "varchar(9)": "'v' || (random() * 9)::int",
    "varchar(90)": "'v' || (random() * 9)::int",
    "numeric(6,2)": "round((random() * 99)::numeric, 2)",
    "numeric(9,2)": "round((random() * 99)::numeric, 2)",
    "bool": "random() < 0.5",
    "timestamp": "timestamp '2024-02-29' + random() * interval '1 day'",
    "int[]": "ARRAY[(random() * 9)::int, NULL]",
}
UNFIT = {
    "numeric(6,2)": "'NaN'",
    "numeric(9,2)": "'NaN'",
    "timestamp": "'294276-12-31 23:59:59.999999'",
    "int[]": "'[0:1]={1,2}'",
}
WIDER = {
    "int": "bigint",
    "varchar(9)": "varchar(90)",
    "varchar(90)": "text",
    "numeric(6,2)": "numeric(9,2)",
}
CONSTANTS = {
    "int": "7",
    "bigint": "8",
    "text": "'it''s'",
    "varchar(9)": "'c'",
    "numeric(6,2)": "1.5",
}
FIRST = {"a": "int", "b": "text", "n": "numeric(6,2)", "l": "int[]"}
STEPS = ("schema_evolved", "before_commit", "window_committed", "chunk_committed", "copy_staged")


@dataclass
class RandomTable:
    """What the test knows of the table on the source: its columns besides the key."""

    random: random.Random
    columns: dict[str, str] = field(default_factory=lambda: dict(FIRST))
    made: int = 0

    def change(self) -> str:
        """Give a change of a few rows."""
        low = self.random.randrange(1, 40)
        match self.random.choice(["insert", "update", "update", "delete", "key"]):
            case "insert":
                names = ", ".join(["id", *self.columns])
                values = ", ".join(["i", *(VALUES[kind] for kind in self.columns.values())])
                return (
                    f"INSERT INTO t ({names}) SELECT {values}"
                    f" FROM generate_series({low}, {low + 5}) i ON CONFLICT DO NOTHING"
                )
            case "update" if self.columns:
                name, kind = self.random.choice(list(self.columns.items()))
                if kind in UNFIT and self.random.random() < 0.4:
                    return (
                        f"UPDATE t SET {name} = {UNFIT[kind]} WHERE id BETWEEN {low} AND {low + 9}"
                    )
                return f"UPDATE t SET {name} = {VALUES[kind]} WHERE id BETWEEN {low} AND {low + 3}"
            case "key":
                return (
                    f"UPDATE t SET id = {low} WHERE id = {low + 1}"
                    f" AND NOT EXISTS (SELECT FROM t WHERE id = {low})"
                )
            case _:
                return f"DELETE FROM t WHERE id = {low}"

    def alter(self) -> str:
        """Give an alteration, and take it over."""
        chosen = self.random.choice(
            [
                "add",
                "add",
                "constant",
                "volatile",
                "drop",
                "rename",
                "widen",
                "using",
                "swap",
                "anew",
            ]
        )
        names = list(self.columns)
        name = self.random.choice(names) if names else ""
        if chosen in ("add", "constant", "volatile") or not names:
            self.made += 1
            name, kind = f"c{self.made}", self.random.choice(list(TYPES))
            self.columns[name] = kind
            said = f"ALTER TABLE t ADD {name} {kind}"
            if chosen == "constant" and kind in CONSTANTS:
                return f"{said} DEFAULT {CONSTANTS[kind]}"
            return f"{said} DEFAULT {VALUES[kind]}" if chosen == "volatile" else said
        kind = self.columns[name]
        match chosen:
            case "drop":
                del self.columns[name]
                return f"ALTER TABLE t DROP {name}"
            case "rename":
                self.made += 1
                new = f"r{self.made}"
                self.columns = {new if one == name else one: of for one, of in self.columns.items()}
                return f"ALTER TABLE t RENAME {name} TO {new}"
            case "widen" if kind in WIDER:
                self.columns[name] = WIDER[kind]
                return f"ALTER TABLE t ALTER {name} TYPE {WIDER[kind]}"
            case "using" if kind in ("int", "bigint"):
                return f"ALTER TABLE t ALTER {name} TYPE {kind} USING {name} + 1"
            case "swap" if len(names) > 1:
                other = self.random.choice([one for one in names if one != name])
                self.columns[name], self.columns[other] = self.columns[other], kind
                return (
                    f"ALTER TABLE t RENAME {name} TO swapped; ALTER TABLE t RENAME {other} TO"
                    f" {name}; ALTER TABLE t RENAME swapped TO {other}"
                )
            case "anew":
                return f"ALTER TABLE t DROP {name}, ADD {name} {kind}"
        return "VACUUM FULL t"


def create(database: ScratchDatabase, rows: int) -> None:
    """Create the table as a `RandomTable` begins."""
    columns = ", ".join(f"{name} {kind}" for name, kind in FIRST.items())
    database.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    database.execute(
        f"INSERT INTO t SELECT i, i, 'b' || i, i / 10.0 FROM generate_series(1, {rows}) i"
    )


def write(database: ScratchDatabase, table: RandomTable) -> None:
    """Change and alter the table, now and then in one transaction, or in none in the end."""
    dice = table.random
    if dice.random() < 0.2:
        before, parts = dict(table.columns), [table.change()]
        for _ in range(dice.randrange(1, 4)):
            altered = table.alter()
            parts += [] if altered.startswith("VACUUM") else [altered]
            parts.append(table.change())
        is_kept = dice.random() < 0.6
        database.execute(f"BEGIN; {'; '.join(parts)}; {'COMMIT' if is_kept else 'ROLLBACK'}")
        if not is_kept:
            table.columns = before
        return
    for _ in range(dice.randrange(1, 6)):
        database.execute(table.alter() if dice.random() < 0.25 else table.change())


def assert_followed(
    database: ScratchDatabase, config: PipelineConfig, table: RandomTable, keep: list[str]
) -> None:
    """Fail where the mirror, or what is open in the history, is not what the source has."""
    names = ", ".join(["id", *table.columns])
    sql = "SELECT column_name FROM duckdb_columns() WHERE table_name = 't' AND data_type"
    texts = {name for (name,) in query(config, f"{sql} = 'VARCHAR'")}
    read = [f"{name}::text" if name in texts else name for name in table.columns]
    wanted = database.execute(f"SELECT {', '.join(['id', *read])} FROM t ORDER BY id")
    assert query(config, f"SELECT {names} FROM {TABLE} ORDER BY id") == wanted
    if "history" in keep:
        now = f"SELECT {names} FROM {TABLE}__history WHERE _cdc_valid_to_lsn IS NULL ORDER BY id"
        assert query(config, now) == wanted


@pytest.mark.parametrize("seed", range(4))
def test_a_mirror_follows_whatever_is_altered(
    database: ScratchDatabase, pipeline: MakePipeline, seed: int
) -> None:
    table = RandomTable(random.Random(seed))
    keep = table.random.choice(KEEPS)
    create(database, rows=20)
    config = kept(pipeline(TABLE), keep, unfit_values="text")
    sync_all(config)
    for _ in range(12):
        write(database, table)
        if table.random.random() < 0.3:
            kill_at(config, table.random.choice(STEPS), 1)
            wait_until_unlocked(database)
        sync_all(config)
        assert_followed(database, config, table, keep)
    for event in backfill(config, TableName.parse(TABLE)):
        if isinstance(event, BucketBackfilled):
            assert (event.rows_inserted, event.rows_changed, event.rows_removed) == (0, 0, 0)
    if "changes" in keep:
        list(rebuild(config, TableName.parse(TABLE)))
        assert_followed(database, config, table, keep)
