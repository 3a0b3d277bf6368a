"""A composite value with a null field is not null, whatever `IS NULL` says of it."""

from __future__ import annotations

from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, mirror_rows

TYPES = "CREATE TYPE pair AS (a int, b text); CREATE DOMAIN maybe_pair AS pair"
ROWS = "(1, '(,)', '(,)'), (2, '(1,)', '(,a)'), (3, '(1,a)', '(1,a)'), (4, NULL, NULL)"


def test_composites_with_null_fields_survive_the_first_copy(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(TYPES)
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v pair, w maybe_pair)")
    database.execute(f"INSERT INTO t VALUES {ROWS}")
    config = pipeline("public.t")
    converge(database, config)
    assert mirror_rows(config, "public.t", "id, v, w") == [
        (1, "(,)", "(,)"),
        (2, "(1,)", "(,a)"),
        (3, "(1,a)", "(1,a)"),
        (4, None, None),
    ]


def test_composites_with_null_fields_survive_the_stream(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(TYPES)
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v pair, w maybe_pair)")
    config = pipeline("public.t")
    converge(database, config)
    database.execute(f"INSERT INTO t VALUES {ROWS}")
    converge(database, config)
    database.execute("UPDATE t SET v = '(,)'")
    converge(database, config)
