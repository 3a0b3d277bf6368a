"""Keys whose operators are not in pg_catalog, or do not take the column's own type."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc_assets.replication import copying
from cdc_assets_tests.conftest import make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step
from cdc_assets_tests.syncs import converge

# what makes the types, the key's columns, and keys in ascending order
KEYS = {
    "ltree": ("CREATE EXTENSION ltree", ["ltree"], ["a", "a.b", "a.b.c", "b", "c.a"]),
    "hstore": (
        "CREATE EXTENSION hstore",
        ["hstore"],
        ["", "a=>1", "a=>2", "b=>1", "a=>1,b=>1"],
    ),
    "an extension in a schema of an odd name": (
        'CREATE SCHEMA "Odd %s ""x"; CREATE EXTENSION ltree SCHEMA "Odd %s ""x"',
        ['"Odd %s ""x".ltree'],
        ["a", "a.b", "a.b.c", "b", "c.a"],
    ),
    "a domain over an enum": (
        "CREATE TYPE mood AS ENUM ('e', 'd', 'c', 'b', 'a'); CREATE DOMAIN m AS mood NOT NULL",
        ["m"],
        ["e", "d", "c", "b", "a"],
    ),
    "a domain over a domain over an enum": (
        "CREATE TYPE mood AS ENUM ('e', 'd', 'c', 'b', 'a'); CREATE DOMAIN m AS mood;"
        "CREATE DOMAIN mm AS m",
        ["mm"],
        ["e", "d", "c", "b", "a"],
    ),
    "a domain over ltree": (
        "CREATE EXTENSION ltree; CREATE DOMAIN trail AS ltree",
        ["trail"],
        ["a", "a.b", "a.b.c", "b", "c.a"],
    ),
    "ltree, a number and a domain over an enum": (
        "CREATE EXTENSION ltree; CREATE TYPE mood AS ENUM ('b', 'a'); CREATE DOMAIN m AS mood",
        ["int", "ltree", "m"],
        ["1|a|b", "1|a|a", "1|b|b", "2|a|b", "2|a.b|a"],
    ),
    "a number and ltree in arrays": (
        "CREATE EXTENSION ltree",
        ["ltree[]", "int"],
        ["{a}|1", "{a}|2", "{a,b}|1", "{b}|1", "{c}|1"],
    ),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_any_order_is_copied_while_it_is_written(
    older_database: ScratchDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """Version 15: the server with extensions."""
    monkeypatch.setattr(copying, "CHUNK_ROWS", 2)
    ddl, types, keys = KEYS[key]
    database, names = older_database, [f"k{at}" for at in range(len(types))]
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, types, strict=True))
    listed = ", ".join(names)
    database.execute(ddl)
    database.execute(f"CREATE TABLE t ({columns}, v int, a text, PRIMARY KEY ({listed}))")
    database.execute("ALTER TABLE t ALTER a SET STORAGE EXTERNAL")

    def put(number: int, text: str, value: str) -> None:
        values = ", ".join("'" + part.replace("'", "''") + "'" for part in text.split("|"))
        database.execute(f"INSERT INTO t VALUES ({values}, {number}, {value})")

    for number, text in enumerate(keys[:4]):
        put(number, text, "repeat('x', 3000)")
    config = make_pipeline(database, tmp_path, "public.t")

    def change() -> None:
        database.execute("UPDATE t SET v = v + 10; DELETE FROM t WHERE v = 11")
        put(1, keys[1], "'again'")
        moved = ", ".join("'" + part.replace("'", "''") + "'" for part in keys[4].split("|"))
        target = f"({listed}) = ROW({moved})" if len(types) > 1 else f"{listed} = {moved}"
        database.execute(f"UPDATE t SET {target} WHERE v = 10")  # its TOASTed value does not come

    with at_step("chunk_committed", 1, change):
        converge(database, config)
    database.execute("UPDATE t SET v = v + 1; DELETE FROM t WHERE v = 13")
    converge(database, config)
