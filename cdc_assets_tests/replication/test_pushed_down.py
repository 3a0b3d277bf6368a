"""What the config leaves out is left out by the publication, and never leaves the source."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName, quote
from cdc_assets.operations.checking import find_problems
from cdc_assets.operations.operator_sql import operator_sql
from cdc_assets.replication.backfill import backfill
from cdc_assets.source.setup import setup
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

T = TableName("public", "t")
CANARY = "canary-91d2"
SHAPED: dict[str, Any] = {
    "source": "public.t",
    "columns": {"exclude": ["Secret"], "rename": {"state": "status"}},
    "where": "id < 1000 AND NOT hidden",
}
PLAIN = {"source": "public.plain"}

MakePushed = Callable[..., PipelineConfig]


@pytest.fixture
def pushed(any_database: ScratchDatabase, tmp_path: Path) -> MakePushed:
    """Make tables, and configs of a pipeline whose publication and slot are not there yet."""
    any_database.execute(
        'CREATE TABLE t (id int, hidden boolean, state varchar(20), "Secret" text, body text,'
        " PRIMARY KEY (id, hidden)); ALTER TABLE t ALTER body SET STORAGE EXTERNAL;"
        f"INSERT INTO t SELECT i, i % 4 = 0, 'new', '{CANARY}', repeat(md5(i::text), 100)"
        " FROM unnest(ARRAY[1, 2, 3, 4, 5, 1001, 1002, 1003]) i;"
        "CREATE TABLE plain (id int PRIMARY KEY, body text); INSERT INTO plain VALUES (1, 'a')"
    )
    made = make_pipeline(any_database, tmp_path, "public.t", "public.plain", create=False)

    def make(*tables: dict[str, Any], push_down: bool = True) -> PipelineConfig:
        return load_config(rewrite(made, tables=list(tables), source__push_down=push_down))

    return make


def stream(database: ScratchDatabase, config: PipelineConfig) -> bytes:
    """Peek at all that the slot gives out."""
    rows = database.execute(
        "SELECT data FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL,"
        " 'proto_version', '1', 'publication_names', %s)",
        [config.source.slot, quote(config.source.publication)],
    )
    return b"".join(bytes(data) for (data,) in rows)


def entries(database: ScratchDatabase) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT oid, prrelid::regclass::text, prattrs::text, pg_get_expr(prqual, prrelid)"
        " FROM pg_publication_rel ORDER BY prrelid::regclass::text DESC"
    )


def write(database: ScratchDatabase) -> None:
    """Change what is published and what is not, and have rows enter and leave by their key."""
    database.execute(
        f"UPDATE t SET \"Secret\" = '{CANARY}' || id, state = 'seen' WHERE id < 1000;"
        f"UPDATE t SET state = '{CANARY}' WHERE id >= 1000 OR hidden;"
        "UPDATE t SET id = 7, state = 'in' WHERE id = 1001;"
        "UPDATE t SET hidden = false, state = 'in' WHERE id = 4;"
        "UPDATE t SET id = 2001, state = 'left' WHERE id = 2;"
        "UPDATE t SET state = 'in', id = 8, body = repeat('b', 4000) WHERE id = 1003;"
        f"INSERT INTO t VALUES (3000, false, '{CANARY}', 'x'), (9, false, 'y', '{CANARY}');"
        "DELETE FROM t WHERE id IN (3, 1002); UPDATE plain SET body = 'b'"
    )


def notes(config: PipelineConfig) -> list[str]:
    found: list[str] = []
    assert find_problems(config, found.append) == []
    return found


def notes_before(config: PipelineConfig) -> list[str]:
    found: list[str] = []
    find_problems(config, found.append)
    return found


def test_what_is_left_out_is_not_in_the_stream(
    any_database: ScratchDatabase, pushed: MakePushed
) -> None:
    config = pushed(SHAPED, PLAIN)
    setup(config)
    assert notes(config) == []
    converge(any_database, config)
    there = entries(any_database)
    assert [(row[2] is None, row[3] is None) for row in there] == [(False, False), (True, True)]
    for _ in range(2):
        write(any_database)
        sent = stream(any_database, config)
        assert b"seen" in sent
        assert CANARY.encode() not in sent
        converge(any_database, config)
        any_database.execute(
            "UPDATE t SET id = 1001 WHERE id = 7; UPDATE t SET id = 2 WHERE id = 2001;"
            "UPDATE t SET hidden = true WHERE id = 4; UPDATE t SET id = 1003 WHERE id = 8;"
            "DELETE FROM t WHERE id IN (9, 3000)"
        )
        converge(any_database, config)
    with at_step("chunk_committed", 1, lambda: write(any_database)):
        list(backfill(config, T))
    converge(any_database, config)

    assert setup(config) == []
    assert entries(any_database) == there


def test_each_step_says_the_next(any_database: ScratchDatabase, pushed: MakePushed) -> None:
    stops = {**SHAPED, "schema_changes": "stop"}
    config = pushed(stops, PLAIN, push_down=False)
    setup(config)
    converge(any_database, config)
    config = pushed(stops, PLAIN)
    for where in (SHAPED["where"], "id IN (1, 3, 5) OR id > 1001", None):
        config = pushed({**stops, "where": where}, PLAIN)
        (problem,) = [one for one in find_problems(config) if "push_down" in one.message]
        assert "'cdc-assets setup'" in problem.hint
        assert errors_of(sync_once(config))["public.t"].hint == problem.hint
        with pytest.raises(TableError, match="push_down"):
            list(backfill(config, T))
        any_database.execute("UPDATE t SET state = 'meanwhile'; UPDATE plain SET body = 'x'")
        (said,) = setup(config)
        assert "cdc-assets backfill public.t" in said
        error = errors_of(sync_once(config))["public.t"]
        assert "cdc-assets backfill public.t" in error.hint
        with at_step("chunk_committed", 1, lambda: write(any_database)):
            list(backfill(config, T))
        converge(any_database, config)
        assert setup(config) == []
        any_database.execute("TRUNCATE t")
        any_database.execute(
            "INSERT INTO t SELECT i, i % 4 = 0, 'new', 's', 'b'"
            " FROM unnest(ARRAY[1, 2, 3, 4, 5, 1001, 1002, 1003]) i"
        )
        converge(any_database, config)


def test_a_column_that_is_added_is_published_once_setup_has_run(
    any_database: ScratchDatabase, pushed: MakePushed
) -> None:
    config = pushed(SHAPED, PLAIN)
    setup(config)
    converge(any_database, config)
    any_database.execute("ALTER TABLE t ADD more int DEFAULT 5")
    assert "'cdc-assets setup'" in errors_of(sync_once(config))["public.t"].hint
    setup(config)
    list(backfill(config, T))
    converge(any_database, config)
    assert {more for (more,) in mirror_rows(config, "public.t", "more")} == {5}


def test_a_table_whose_entry_setup_has_replaced_is_copied_anew_by_the_next_sync(
    any_database: ScratchDatabase, pushed: MakePushed
) -> None:
    config = pushed(SHAPED, PLAIN, push_down=False)
    setup(config)
    converge(any_database, config)
    config = pushed(SHAPED, PLAIN)
    (problem,) = [one for one in find_problems(config) if "push_down" in one.message]
    assert problem.hint == "run 'cdc-assets setup'; then the next sync copies it anew"
    any_database.execute("UPDATE t SET state = 'meanwhile'")
    (said,) = setup(config)
    assert said.endswith("if it was copied before, the next sync copies it anew")
    converge(any_database, config)
    assert find_problems(config) == []


def test_one_look_says_all_steps_to_whole_old_rows(
    any_database: ScratchDatabase, pushed: MakePushed
) -> None:
    config = pushed(SHAPED, PLAIN)
    setup(config)
    converge(any_database, config)
    enrich = [{"from": "public.plain", "on": {"id": "id"}, "columns": {"body": "other"}}]
    config = pushed({**SHAPED, "enrich": enrich}, PLAIN)
    (problem,) = [one for one in find_problems(config) if "stored apart" in one.message]
    alter = 'ALTER TABLE "public"."t" REPLICA IDENTITY FULL;'
    assert re.fullmatch(
        "run 'cdc-assets setup', which publishes it without a column list, then "
        + re.escape(alter)
        + " then run 'cdc-assets setup' again, .*cdc-assets backfill public.t",
        problem.hint,
    )
    for step in (lambda: setup(config), lambda: any_database.execute(alter)):
        step()
        any_database.execute("UPDATE t SET state = 'between'")
    setup(config)
    list(backfill(config, T))
    converge(any_database, config)
    assert find_problems(config) == []
    assert next((row[2] is None, row[3] is None) for row in entries(any_database)) == (True, False)


def test_what_can_not_be_pushed_is_said_and_done_here(
    any_database: ScratchDatabase, pushed: MakePushed
) -> None:
    any_database.execute("ALTER TABLE plain REPLICA IDENTITY FULL")
    config = pushed(
        {**SHAPED, "where": "length(body) > 1 AND id > 1"},
        {**PLAIN, "columns": {"include": ["id"]}, "where": "length(id::text) = 1"},
    )
    setup(config)
    assert notes(config) == [
        "'where' of table 'public.t' is not pushed down: it is more than comparisons of columns "
        "with literals",
        "'columns' of table 'public.plain' is not pushed down: its replica identity is FULL, which "
        "takes no column list",
        "'where' of table 'public.plain' is not pushed down: it is more than comparisons of "
        "columns with literals",
    ]
    converge(any_database, config)
    write(any_database)
    any_database.execute("INSERT INTO plain VALUES (10, 'x'), (3, 'y')")
    converge(any_database, config)
    assert mirror_rows(config, "public.plain", "id") == [(1,), (3,)]
    assert setup(config) == []


@pytest.mark.parametrize("published", ["ALL TABLES", "TABLES IN SCHEMA public"])
def test_publications_without_entries(
    any_database: ScratchDatabase, pushed: MakePushed, published: str
) -> None:
    config = pushed(SHAPED, PLAIN)
    any_database.execute(
        f"CREATE PUBLICATION {quote(config.source.publication)} FOR {published}"
        " WITH (publish_via_partition_root = true)"
    )
    setup(config)
    why = notes(config)
    assert [line.partition(" ")[0] for line in why] == ["'columns'", "'where'"]
    assert all(repr(config.source.publication) in line for line in why)
    converge(any_database, config)
    write(any_database)
    converge(any_database, config)
    assert setup(config) == []


def test_the_printed_publication_is_the_one_that_setup_makes(
    any_database: ScratchDatabase, pushed: MakePushed
) -> None:
    renamed = {"columns": {"rename": {"id": "Number"}}, "where": "number < 10 AND NOT hidden"}
    config = pushed({**SHAPED, **renamed}, {**PLAIN, "where": "body <> 'a'"})
    text = operator_sql("publication", config)
    created = text[text.index("CREATE PUBLICATION") : text.index(";", text.index("CREATE"))]
    any_database.execute(created)
    there = entries(any_database)
    assert [row[3] is None for row in there] == [False, True]
    assert "outside of the replica identity" in " ".join(notes_before(config))
    assert setup(config) == [f"created slot {config.source.slot!r}"]
    assert entries(any_database) == there


def test_changes_of_a_table_with_a_pushed_filter(
    any_database: ScratchDatabase, pushed: MakePushed
) -> None:
    """With whole old rows a filter may read all columns; a list would stop the table's writers."""
    shaped = {
        **SHAPED,
        "where": "state IN ('new', 'seen')",
        "columns": {"exclude": ["Secret"]},
        "keep": ["mirror", "changes"],
    }
    config = pushed({**shaped, "keep": ["mirror"], "where": None}, PLAIN)
    setup(config)
    assert entries(any_database)[0][2] is not None
    config = pushed(shaped, PLAIN)
    hints = [
        problem.hint for problem in find_problems(config) if "whole old row" in problem.message
    ]
    assert all(
        "'cdc-assets setup', which publishes it without a column list" in hint for hint in hints
    )
    assert hints
    setup(config)
    any_database.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    setup(config)
    assert [row[3] is None for row in entries(any_database)] == [False, True]
    converge(any_database, config)
    any_database.execute("UPDATE t SET state = 'other' WHERE id < 3")
    any_database.execute("UPDATE t SET state = 'seen' WHERE id < 4")
    converge(any_database, config)
    any_database.execute("UPDATE t SET state = 'other', id = -id; DELETE FROM t WHERE id < -1000")
    converge(any_database, config)
    assert mirror_rows(config, "public.t") == []


def test_a_list_that_stops_writers_is_taken_out(
    any_database: ScratchDatabase, pushed: MakePushed
) -> None:
    config = pushed(SHAPED, PLAIN)
    setup(config)
    converge(any_database, config)
    any_database.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    with pytest.raises(psycopg.Error):
        write(any_database)
    assert "'cdc-assets setup'" in errors_of(sync_once(config))["public.t"].hint
    (said,) = setup(config)
    assert "WHERE" in said
    write(any_database)
    list(backfill(config, T))
    converge(any_database, config)


def test_a_partitioned_table(any_database: ScratchDatabase, pushed: MakePushed) -> None:
    any_database.execute(
        "CREATE TABLE p (id int, region text, secret text, body text, PRIMARY KEY (id, region))"
        " PARTITION BY LIST (region);"
        "CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu');"
        "CREATE TABLE p_us PARTITION OF p FOR VALUES IN ('us');"
        f"INSERT INTO p SELECT i, CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, '{CANARY}',"
        " repeat(md5(i::text), 100) FROM generate_series(1, 9) i"
    )
    table = {
        "source": "public.p",
        "columns": {"include": ["body", "region"]},
        "where": "region = 'eu' OR id < 5",
    }
    config = pushed(table)
    setup(config)
    assert notes(config) == []
    converge(any_database, config)
    for _ in range(2):
        any_database.execute(
            f"UPDATE p SET secret = '{CANARY}2'; UPDATE p SET region = 'us' WHERE id = 8;"
            "UPDATE p SET region = 'eu' WHERE id = 7; UPDATE p SET id = 4 - id WHERE id IN (4, 9);"
            "UPDATE p SET id = 20 WHERE id = 1; UPDATE p SET id = 1 WHERE id = 20;"
            f"INSERT INTO p VALUES (31, 'us', 'x', '{CANARY}') ON CONFLICT DO NOTHING"
        )
        sent = stream(any_database, config)
        assert b"eu" in sent
        assert CANARY.encode() not in sent
        converge(any_database, config)
    assert setup(config) == []


def test_an_owner_is_told_the_entries(any_database: ScratchDatabase, pushed: MakePushed) -> None:
    config = pushed(SHAPED, PLAIN, push_down=False)
    setup(config)
    role = f"reader_{any_database.name}"
    any_database.execute(
        f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'; GRANT SELECT ON t, plain TO {role}"
    )
    dsn = f"postgresql://{role}:x@127.0.0.1:{any_database.server.port}/{any_database.name}"
    config = pushed(SHAPED, PLAIN)
    limited = load_config(rewrite(config, source__dsn=dsn, source__push_down=True))
    try:
        with pytest.raises(TableError, match="push_down") as refused:
            setup(limited)
        told = refused.value.hint.partition("as the owner: ")[2].partition("; then ")[0]
        any_database.execute(told)
        assert setup(limited) == []
        assert entries(any_database)[0][3] is not None
        converge(any_database, limited)
    finally:
        any_database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_changes_alone_without_the_key(any_database: ScratchDatabase, pushed: MakePushed) -> None:
    """Where no mirror is kept the key may be left out; Postgres publishes it all the same."""
    table = {"source": "public.t", "keep": ["changes"], "columns": {"exclude": ["id", "Secret"]}}
    config = pushed(table)
    setup(config)
    assert [line for line in notes(config) if "pushed" in line] == [
        "'columns' of table 'public.t' is not pushed down: 'id' is of the replica identity, which "
        "is published"
    ]
    sync_once(config)
    write(any_database)
    any_database.execute("UPDATE t SET state = '' WHERE state LIKE 'canary%'")
    assert f"{CANARY}1".encode() not in stream(any_database, config)
    assert errors_of(sync_once(config)) == {}
    assert setup(config) == []
