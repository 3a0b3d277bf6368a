"""What a publication leaves out, and names of every kind."""

from __future__ import annotations

import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName, quote
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, mirror_rows, sync_all


def publish(database: ScratchDatabase, config: PipelineConfig, what: str) -> None:
    database.execute(f"ALTER PUBLICATION {config.source.publication} SET TABLE {what}")


def test_rows_that_leave_and_enter_a_row_filter(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, shown bool, mood varchar(9), a text)")
    database.execute("ALTER TABLE t ALTER a SET STORAGE EXTERNAL")
    database.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    database.execute(
        "INSERT INTO t SELECT g, g % 2 = 0, 'sad', repeat('x', 3000) FROM generate_series(1, 9) g"
    )
    config = pipeline("public.t")
    publish(database, config, "t WHERE (shown AND mood = 'sad' AND id < 100)")

    def expect_filtered() -> None:
        sync_all(config)
        query = "SELECT id, a FROM t WHERE shown AND mood = 'sad' AND id < 100 ORDER BY id"
        assert mirror_rows(config, "public.t", "id, a") == database.execute(query)

    expect_filtered()
    database.execute("UPDATE t SET shown = NOT shown WHERE id < 6")
    database.execute("UPDATE t SET mood = 'happy' WHERE id = 6")
    database.execute("UPDATE t SET id = id + 100 WHERE id = 8")
    database.execute("UPDATE t SET id = id + 10 WHERE id IN (1, 2)")
    expect_filtered()
    database.execute(
        "UPDATE t SET shown = true, mood = 'sad', id = id % 100; DELETE FROM t WHERE id = 3"
    )
    expect_filtered()
    database.execute("TRUNCATE t; INSERT INTO t VALUES (1, true, 'sad'), (2, false, 'sad')")
    expect_filtered()


def test_a_published_schema_overrules_a_row_filter(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
    config = pipeline("public.t")
    publish(database, config, "t WHERE (id < 2)")
    database.execute(f"ALTER PUBLICATION {config.source.publication} ADD TABLES IN SCHEMA public")
    converge(database, config)
    database.execute("UPDATE t SET id = id + 5")
    converge(database, config)


def test_a_column_list_alone_is_copied(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    database.execute("CREATE TABLE t (secret text, id int PRIMARY KEY, a int, hidden int, b text)")
    database.execute("INSERT INTO t VALUES ('canary', 1, 2, 3, 'b')")
    config = pipeline("public.t")
    publish(database, config, "t (b, id)")
    sync_all(config)
    database.execute(
        "INSERT INTO t VALUES ('canary', 2, 2, 3, 'c'); UPDATE t SET hidden = 7, b = 'd'"
    )
    database.execute("UPDATE t SET id = 5 WHERE id = 1; UPDATE t SET secret = 'other'")
    sync_all(config)
    rows = mirror_rows(config, "public.t", "* EXCLUDE (_cdc_lsn, _cdc_commit_ts)")
    assert rows == [(2, "d"), (5, "d")]


def test_generated_columns_follow_what_the_publication_says(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (a int, double int GENERATED ALWAYS AS (a * 2) STORED,"
        " id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
        " half int GENERATED ALWAYS AS (a / 2) VIRTUAL, b text DEFAULT 'd')"
    )
    database.execute("INSERT INTO t (a) VALUES (1), (2)")
    config = pipeline("public.t")
    converge(database, config)
    database.execute(
        "INSERT INTO t (a, b) VALUES (3, NULL); UPDATE t SET a = a + 1; DELETE FROM t WHERE a = 2"
    )
    converge(database, config)


def test_published_generated_columns_are_copied(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (double int GENERATED ALWAYS AS (a * 2) STORED, id int PRIMARY KEY, a int)"
    )
    database.execute("INSERT INTO t VALUES (DEFAULT, 1, 1)")
    config = pipeline("public.t")
    database.execute(
        f"ALTER PUBLICATION {config.source.publication} SET (publish_generated_columns = stored)"
    )
    sync_all(config)
    database.execute("INSERT INTO t VALUES (DEFAULT, 2, 2); UPDATE t SET a = a + 1")
    sync_all(config)
    assert mirror_rows(config, "public.t", "id, a, double") == [(1, 2, 4), (2, 3, 6)]


def test_partitions_come_under_their_root(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE t (id int, region text, a text, PRIMARY KEY (id, region))"
        " PARTITION BY LIST (region);"
        "CREATE TABLE t_eu PARTITION OF t FOR VALUES IN ('eu');"
        # another order of columns, and one that was dropped: the root's order counts
        "CREATE TABLE t_us (dropped int, a text, region text NOT NULL, id int NOT NULL);"
        "ALTER TABLE t_us DROP dropped; ALTER TABLE t ATTACH PARTITION t_us FOR VALUES IN ('us');"
        "CREATE TABLE t_rest PARTITION OF t DEFAULT PARTITION BY RANGE (id);"
        "CREATE TABLE t_low PARTITION OF t_rest FOR VALUES FROM (0) TO (50);"
        "CREATE TABLE t_high PARTITION OF t_rest FOR VALUES FROM (50) TO (1000)"
    )
    for table in ("t_eu", "t_us", "t_low", "t_high"):
        database.execute(f"ALTER TABLE {table} ALTER a SET STORAGE EXTERNAL")
    rows = "SELECT g, (ARRAY['eu', 'us', 'as'])[g % 3 + 1], repeat('x', 3000) FROM generate_series"
    database.execute(f"INSERT INTO t {rows}(1, 60) g")
    config = pipeline("public.t")
    converge(database, config)
    database.execute(f"INSERT INTO t {rows}(61, 90) g")
    database.execute("UPDATE t SET a = 'short' WHERE id % 5 = 0")
    database.execute("UPDATE t SET region = 'us' WHERE id % 7 = 0")  # from partition to partition
    database.execute(
        "UPDATE t SET id = id + 500 WHERE id % 11 = 0; DELETE FROM t WHERE id % 13 = 0"
    )
    converge(database, config)
    database.execute("INSERT INTO t_us VALUES ('direct', 'us', 999); DELETE FROM t_eu")
    converge(database, config)
    database.execute("CREATE TABLE t_af PARTITION OF t FOR VALUES IN ('af')")
    database.execute("INSERT INTO t VALUES (1, 'af', 'new')")
    converge(database, config)
    database.execute("TRUNCATE t; INSERT INTO t VALUES (2, 'af', 'new')")
    converge(database, config)


def test_rows_of_child_tables_are_not_the_parents(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, a text)")
    database.execute("CREATE TABLE child (b int, PRIMARY KEY (id)) INHERITS (t)")
    database.execute("INSERT INTO t VALUES (1, 'a'); INSERT INTO child VALUES (1, 'a', 2)")
    config = pipeline("public.t", "public.child")
    publish(database, config, "ONLY t, child")
    sync_all(config)
    database.execute("INSERT INTO child VALUES (2, 'c', 2); UPDATE t SET a = 'both'")
    sync_all(config)
    assert mirror_rows(config, "public.t", "id, a") == [(1, "both")]
    assert mirror_rows(config, "public.child", "id, a, b") == [(1, "both", 2), (2, "both", 2)]


NAMES = [
    'say "hi"', "select", "Table", "with space", " lead", "dot.ted", "semi;colon--", "%s %(x)s {y}",
    "it's", "\\", "\u65e5" * 21, "\u0416" * 31, "\U0001f600" * 15, "x" * 63, "e\u0301", "$1", "1",
    "\t", "mirror", "rowid", "_cdc_batch", "null", "\u0131", "ß",
]  # fmt: skip


def test_names_of_every_kind_are_kept(database: ScratchDatabase, pipeline: MakePipeline) -> None:
    tables = []
    for name in NAMES:
        schema = f"s {name}"[:20].encode()[:60].decode(errors="ignore")
        table = TableName(schema, name)
        tables.append(table)
        column, key = (
            quote("_" + name if name.startswith("_cdc_") else name),
            quote("Key " + name[:14]),
        )
        if name.startswith("_cdc_"):
            column = quote("c" + name)
        database.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}")
        database.execute(f"CREATE TABLE {table.sql} ({column} text, {key} int PRIMARY KEY)")
        database.execute(f"ALTER TABLE {table.sql} ALTER {column} SET STORAGE EXTERNAL")
        database.execute(f"INSERT INTO {table.sql} VALUES (repeat('x', 3000), 1), ('', 2)")
    config = pipeline(*map(str, tables))
    assert config.table_names == tuple(tables)
    converge(database, config)
    for table, name in zip(tables, NAMES, strict=True):
        key = quote("Key " + name[:14])
        database.execute(
            f"UPDATE {table.sql} SET {key} = {key} + 10; INSERT INTO {table.sql} VALUES (NULL, 2)"
        )
    converge(database, config)


@pytest.mark.parametrize("schema", ["main", "memory", "public2", "pg", "information", "Order"])
def test_schemas_that_mean_something_to_the_warehouse_are_kept(
    database: ScratchDatabase, pipeline: MakePipeline, schema: str
) -> None:
    database.execute(
        f"CREATE SCHEMA {quote(schema)}; CREATE TABLE {quote(schema)}.t (id int PRIMARY KEY)"
    )
    database.execute(f"INSERT INTO {quote(schema)}.t VALUES (1)")
    config = pipeline(f"{schema}.t")
    converge(database, config)
    database.execute(f"INSERT INTO {quote(schema)}.t VALUES (2)")
    converge(database, config)
