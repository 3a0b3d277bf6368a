"""A mirror that is made anew from its change table alone is the one that was kept."""

from __future__ import annotations

from typing import Any

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.errors import CdcError, TableError, WarehouseError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.operations.removal import teardown
from cdc_assets.progress import TableRebuilt
from cdc_assets.replication.backfill import backfill
from cdc_assets.replication.rebuilding import rebuild
from cdc_assets.steps import Step
from cdc_assets_tests.audit import FULL
from cdc_assets_tests.command_line import assert_readable, rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import kill_at
from cdc_assets_tests.ledger import TABLES, Writer, create_ledger
from cdc_assets_tests.syncs import converge, errors_of, kept, query, sync_all, sync_once

pytestmark = pytest.mark.usefixtures("small")

GONE = "_cdc_commit_ts IS NULL"
NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"


@pytest.fixture
def ledger(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    create_ledger(database)
    database.execute(f"ALTER TABLE {TableName.parse(FULL).sql} REPLICA IDENTITY FULL")
    return kept(pipeline(*TABLES), ["mirror", "changes"])


def without_source(config: PipelineConfig) -> PipelineConfig:
    """Give the same pipeline where its source's server is down."""
    return load_config(rewrite(config, source__dsn=NOWHERE))


def execute(config: PipelineConfig, sql: str) -> None:
    with duckdb.connect(str(config.warehouse_path)) as warehouse:
        warehouse.execute(sql)


def rebuilt(config: PipelineConfig, table: str, **how: Any) -> TableRebuilt:
    *_, done = rebuild(config, TableName.parse(table), **how)
    assert isinstance(done, TableRebuilt)
    return done


def rows(config: PipelineConfig, table: str) -> list[tuple[Any, ...]]:
    return query(config, f"FROM {TableName.parse(table).sql} ORDER BY ALL")


def write(database: ScratchDatabase, writer: Writer) -> None:
    """Change rows in all ways, and truncate amidst a transaction."""
    writer.commit(60)
    database.execute(
        "INSERT INTO lines VALUES (9000, 1, 1); TRUNCATE lines, accounts;"
        " INSERT INTO accounts SELECT n, 'anew', n, repeat(md5(n::text), 90)"
        " FROM generate_series(1, 200) n; INSERT INTO lines VALUES (9000, 1, 2)"
    )
    database.execute("UPDATE accounts SET id = -id WHERE id < 50")
    database.execute("UPDATE accounts SET id = -id, owner = 'back' WHERE id < 0 AND id > -30")
    writer.commit(60)


def histories(config: PipelineConfig) -> dict[str, list[tuple[Any, ...]]]:
    return {table: rows(config, f"{table}__history") for table in TABLES}


def lose(database: ScratchDatabase, config: PipelineConfig, sql: str) -> None:
    """Change rows without a sync's getting to know it, and let backfills find that."""
    database.execute(sql)
    slot = config.source.slot
    database.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [slot])
    for table in TABLES:
        list(backfill(config, TableName.parse(table)))
    converge(database, config)


def assert_rebuilt(config: PipelineConfig, before: dict[str, list[tuple[Any, ...]]]) -> None:
    """Fail unless what is rebuilt without the source, in place and beside, is what was there."""
    offline = without_source(config)
    for table, there in before.items():
        beside = rebuilt(offline, table, into=TableName("other", "copy"))
        assert rows(config, "other.copy") == there
        name = TableName.parse(table)
        execute(
            config,
            f"UPDATE {name.sql} SET _cdc_lsn = _cdc_lsn + 1; DELETE FROM {name.sql} WHERE {GONE}",
        )
        assert rebuilt(offline, table).rows == beside.rows
        assert rows(config, table) == there


def mirrors(config: PipelineConfig) -> dict[str, list[tuple[Any, ...]]]:
    return {table: rows(config, table) for table in TABLES}


def test_a_mirror_is_what_its_changes_make_of_it(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    writer = Writer(database, seed=31)
    with writer.running():  # so chunks of a copy are of other LSNs than its end
        sync_all(ledger)
    writer.commit(60)
    converge(database, ledger)

    assert_rebuilt(ledger, mirrors(ledger))

    writer.commit(20)
    converge(database, ledger)


def test_a_history_is_what_its_changes_make_of_it(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    ledger = kept(ledger, ["mirror", "changes", "history"])
    writer = Writer(database, seed=41)
    with writer.running():
        sync_all(ledger)
    converge(database, ledger)
    write(database, writer)
    converge(database, ledger)
    lose(database, ledger, "UPDATE accounts SET owner = 'lost' WHERE id < 20; DELETE FROM lines")
    writer.commit(20)
    converge(database, ledger)
    there, versions = mirrors(ledger), histories(ledger)
    offline = without_source(ledger)

    for table in TABLES:
        execute(ledger, f"DELETE FROM {TableName.parse(table + '__history').sql}")
        beside = rebuilt(offline, table, into=TableName("other", "copy"))
        assert rows(ledger, "other.copy__history") == versions[table]
        assert rebuilt(offline, table).versions == beside.versions == len(versions[table])

    assert mirrors(ledger) == there
    assert histories(ledger) == versions
    ledger = kept(ledger, ["mirror", "changes", "history"])
    writer.commit(30)
    converge(database, ledger)
    ((lsn,),) = query(ledger, "SELECT min(lsn) FROM _cdc.checkpoints")
    assert query(ledger, f"SELECT count(*) FROM public.lines__as_of_lsn({lsn})") == query(
        ledger, "SELECT count(*) FROM public.lines"
    )
    with pytest.raises(duckdb.InvalidInputException, match="the history of public"):
        query(ledger, "FROM public.lines__as_of_lsn(5)")


def test_a_history_that_goes_further_back_than_its_changes_is_left_alone(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, kept(ledger, ["mirror", "history"]))
    database.execute("UPDATE lines SET amount = 1")
    converge(database, kept(ledger, ["mirror", "history"]))
    config = kept(ledger, ["mirror", "changes", "history"])
    converge(database, config)
    database.execute("UPDATE lines SET amount = 2")
    converge(database, config)
    there = rows(config, "public.lines__history")

    done = rebuilt(config, "public.lines")

    assert "it is left as it is" in " ".join(done.notes)
    assert rows(config, "public.lines__history") == there
    assert rebuilt(config, "public.lines", into=TableName("public", "then")).versions == 600


def test_a_history_that_was_asked_for_later_goes_back_to_where_changes_begin(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    before = query(ledger, "SELECT lsn FROM _cdc.checkpoints LIMIT 1")[0][0]
    there = rows(ledger, "public.lines")
    database.execute("UPDATE lines SET amount = 1; UPDATE lines SET line = line + 7")
    converge(database, ledger)
    config = kept(ledger, ["mirror", "changes", "history"])
    converge(database, config)
    assert len(rows(config, "public.lines__history")) == 300

    rebuilt(config, "public.lines")

    as_of = f"FROM public.lines__as_of_lsn({before}) ORDER BY ALL"
    assert query(config, as_of) == [row[:3] for row in there]
    database.execute("DELETE FROM lines WHERE account < 5")
    converge(database, config)
    assert len(rows(config, "public.lines__history")) == 600


def test_shaped_rows_are_rebuilt_as_they_were_shaped(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE people (id int PRIMARY KEY, email text); ALTER TABLE people REPLICA IDENTITY"
        " FULL; CREATE TABLE orders (id int PRIMARY KEY, person int, state text, total int);"
        "ALTER TABLE orders REPLICA IDENTITY FULL;"
        "INSERT INTO people SELECT n, n || '@x' FROM generate_series(1, 9) n;"
        "INSERT INTO orders SELECT n, n % 9 + 1, 'draft', n FROM generate_series(1, 60) n"
    )
    keep = ["mirror", "changes", "history"]
    taken = {"from": "public.people", "on": {"person": "id"}, "columns": {"email": "mail"}}
    tables = [
        {"source": "public.people", "mask": {"email": "sha256"}},
        {
            "source": "public.orders",
            "keep": keep,
            "where": "state <> 'draft'",
            "columns": {"rename": {"total": "amount"}},
            "enrich": [taken],
        },
    ]
    config = load_config(rewrite(pipeline("public.people", "public.orders"), tables=tables))
    sync_all(config)
    for n in range(1, 6):
        database.execute(
            f"UPDATE orders SET state = 'open' WHERE id % {n} = 0; UPDATE people SET email = 'new'"
            f" WHERE id = {n}; UPDATE orders SET total = -{n} WHERE id < 20;"
            f" UPDATE orders SET state = 'draft', id = id + 100 WHERE id % 7 = {n}"
        )
        sync_all(config)
    there, versions = rows(config, "public.orders"), rows(config, "public.orders__history")

    rebuilt(without_source(config), "public.orders")

    assert rows(config, "public.orders") == there
    assert rows(config, "public.orders__history") == versions


def test_changes_that_begin_beside_a_mirror_tell_which_transactions_wrote_its_rows(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    without = kept(ledger, ["mirror"])
    converge(database, without)
    writer = Writer(database, seed=32)
    writer.commit(60)
    converge(database, without)
    ledger = kept(ledger, ["mirror", "changes"])
    writer.commit(20)
    converge(database, ledger)

    assert_rebuilt(ledger, mirrors(ledger))


def test_what_backfills_have_found_is_rebuilt(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    writer = Writer(database, seed=33)
    converge(database, ledger)
    writer.commit(20)
    converge(database, ledger)
    for wrong in ("wrong", "worse"):
        execute(
            ledger,
            "DELETE FROM public.accounts WHERE id = (SELECT max(id) FROM public.accounts);"
            f"UPDATE public.accounts SET owner = '{wrong}' WHERE id < 20;"
            "INSERT INTO public.accounts"
            " SELECT 100000 + n, 'more', 1, NULL, 0, NULL FROM range(3) one(n)",
        )
        list(backfill(ledger, TableName("public", "accounts")))
    writer.commit(40)
    converge(database, ledger)

    assert_rebuilt(ledger, {"public.accounts": rows(ledger, "public.accounts")})


def test_deleted_rows_that_are_kept_are_rebuilt(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    ledger = kept(ledger, ["mirror", "changes"], deletes="soft")
    writer = Writer(database, seed=34)
    sync_all(ledger)
    write(database, writer)
    sync_all(ledger)
    execute(
        ledger,
        "DELETE FROM public.accounts WHERE id ="
        " (SELECT max(id) FROM public.accounts WHERE NOT _cdc_deleted);"
        "INSERT INTO public.accounts VALUES (100000, 'more', 1, NULL, 0, NULL, false)",
    )
    list(backfill(ledger, TableName("public", "accounts")))
    writer.commit(20)
    sync_all(ledger)
    assert query(ledger, "SELECT count(*) > 100 FROM public.accounts WHERE _cdc_deleted")[0][0]

    assert_rebuilt(ledger, mirrors(ledger))


def test_rows_that_were_deleted_before_changes_were_kept_are_not_lost_without_a_word(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    sync_all(kept(ledger, ["mirror"], deletes="soft"))
    database.execute("DELETE FROM lines WHERE account = 1")
    sync_all(kept(ledger, ["mirror"], deletes="soft"))
    ledger = kept(ledger, ["mirror", "changes"], deletes="soft")
    sync_all(ledger)

    error = refusal(ledger)

    assert "its mirror keeps 5 rows that were deleted before its changes were" in error.message
    assert rebuilt(ledger, "public.lines", into=TableName("public", "then")).rows == 295


def test_a_table_is_made_as_of_any_lsn_beside_its_mirror(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    writer = Writer(database, seed=35)
    converge(database, ledger)
    moments = []
    for _ in range(2):
        writer.commit(25)
        converge(database, ledger)
        ((lsn,),) = query(ledger, "SELECT min(lsn) FROM _cdc.checkpoints")
        moments.append((LSN(lsn), mirrors(ledger)))
    database.execute('TRUNCATE "Notes"; DELETE FROM lines')
    write(database, writer)
    converge(database, ledger)

    for lsn, there in moments:
        for table in TABLES:
            done = rebuilt(ledger, table, to_lsn=lsn, into=TableName("public", "then"))
            assert rows(ledger, "public.then") == there[table]
            assert (done.lsn, done.rows) == (lsn, len(there[table]))


@pytest.mark.parametrize("step", ["rebuild_applied", "rebuild_staged", "rebuild_placed"])
def test_a_kill_leaves_the_mirror_of_before_or_the_new_one(
    database: ScratchDatabase, ledger: PipelineConfig, step: Step
) -> None:
    writer = Writer(database, seed=36)
    converge(database, ledger)
    writer.commit(40)
    converge(database, ledger)
    there = rows(ledger, "public.accounts")
    assert kill_at(without_source(ledger), step, 1, work="rebuild accounts")
    assert rows(ledger, "public.accounts") == there
    left = query(ledger, "SELECT 1 FROM duckdb_tables() WHERE table_name LIKE '%cdc_rebuild'")
    assert len(left) == (step != "rebuild_placed")
    ledger = kept(ledger, ["mirror", "changes"])
    writer.commit(20)
    converge(database, ledger)

    assert_rebuilt(ledger, {"public.accounts": rows(ledger, "public.accounts")})
    assert kill_at(without_source(ledger), "rebuild_applied", 1, work="rebuild accounts")
    teardown(ledger, drop_tables=True)
    left = query(ledger, "SELECT table_name FROM duckdb_tables() WHERE schema_name <> '_cdc'")
    assert left == [("copy",)]


def test_a_table_whose_mirror_was_spoilt_goes_on_after_a_rebuild(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    execute(ledger, "DROP TABLE public.lines; DELETE FROM public.accounts")
    database.execute("UPDATE accounts SET balance = 1; DELETE FROM lines WHERE line = 2")
    assert set(errors_of(sync_once(ledger))) == {"public.accounts", "public.lines"}

    for table in ("public.accounts", "public.lines"):
        rebuilt(without_source(ledger), table)
        assert query(ledger, f"SELECT error FROM _cdc.checkpoints WHERE source_table = '{table}'")[
            0
        ] == ("",)

    converge(database, kept(ledger, ["mirror", "changes"]))


def test_a_table_is_not_made_as_of_when_it_was_not_followed(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    lose(database, ledger, "DELETE FROM lines WHERE account = 1")
    ((low, high),) = query(
        ledger, "SELECT from_lsn, to_lsn FROM _cdc.record_gaps WHERE name LIKE '%lines%'"
    )

    into = TableName("public", "then")
    assert "it was not followed" in refusal(ledger, to_lsn=LSN(high - 1), into=into).message

    assert rebuilt(ledger, "public.lines", to_lsn=LSN(low), into=into).rows == 300
    assert rebuilt(ledger, "public.lines", to_lsn=LSN(high), into=into).rows == 295
    assert_rebuilt(ledger, {"public.lines": rows(ledger, "public.lines")})


def refusal(config: PipelineConfig, table: str = "public.lines", **how: Any) -> TableError:
    with pytest.raises(TableError) as refused:
        rebuilt(config, table, **how)
    return refused.value


def test_what_can_not_be_rebuilt_says_why_and_the_way_out(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    assert "can't be rebuilt" in str(refusal_of_none(ledger))
    converge(database, ledger)
    ((since, lsn),) = query(
        ledger,
        "SELECT since_lsn, lsn FROM _cdc.change_tables JOIN _cdc.checkpoints USING (source_table)"
        " WHERE source_table = 'public.lines'",
    )
    into = TableName("public", "then")

    early = refusal(ledger, to_lsn=LSN(since - 1), into=into)
    assert f"is not between {LSN(since)} and" in early.message
    assert "is not between" in refusal(ledger, to_lsn=LSN(2**60), into=into).message
    database.execute("INSERT INTO lines VALUES (70, 1, 1)")
    converge(database, ledger)
    past = refusal(ledger, to_lsn=LSN(lsn))
    assert "is before its checkpoint" in past.message
    assert "--into NAME" in past.hint
    taken = refusal(ledger, into=TableName("public", "accounts"))
    assert "'public.accounts' is a table of the pipeline" in taken.message
    execute(ledger, "CREATE TABLE public.mine (a int)")
    foreign = refusal(ledger, into=TableName("public", "MINE"))
    assert "exists in the warehouse, and no rebuild has made it" in foreign.message
    mirror_alone = refusal(kept(ledger, ["mirror"]))
    assert "its changes are not kept" in mirror_alone.message
    assert "it has no mirror" in refusal(kept(ledger, ["changes"])).message
    renamed = kept(ledger, ["mirror", "changes"], columns={"exclude": ["amount"]})
    assert "is shaped otherwise" in refusal(renamed).message


def refusal_of_none(config: PipelineConfig) -> CdcError:
    with pytest.raises(WarehouseError, match="there is no warehouse at"):
        rebuilt(config, "public.lines")
    execute(config, "SELECT 1")
    return refusal(config)


def test_changes_that_do_not_add_up_are_no_mirror(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    database.execute("UPDATE accounts SET balance = 2; DELETE FROM lines WHERE account = 3")
    converge(database, ledger)
    before = mirrors(ledger)
    execute(ledger, "DELETE FROM public.lines__changes WHERE account = 3 AND line = 1")

    error = refusal(ledger)

    assert "do not add up between" in error.message
    assert "of 1 keys" in error.message
    assert mirrors(ledger) == before


def test_values_of_many_types_are_rebuilt_as_they_are(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE many (id uuid PRIMARY KEY, body text, doc jsonb, raw bytea, at timestamptz,"
        " day date, hour time, price numeric(12, 2), ratio float8, few float4[], tags text[],"
        " refs uuid[], docs json[], days date[], ok bool, small int2);"
        "ALTER TABLE many ALTER COLUMN body SET STORAGE EXTERNAL;"
        "INSERT INTO many SELECT md5(n::text)::uuid, repeat(md5(n::text), 90), '{\"k\": 1}',"
        " '\\x00ff', 'infinity', '-infinity', '24:00:00', 1.10, '-0', '{1.5,NaN,-0}',"
        " '{a,NULL,\"b,c\"}', array[md5('r')::uuid, NULL], array['{\"a\": 1}', NULL]::json[],"
        " '{infinity,2024-02-29}', true, 1 FROM generate_series(1, 4) n"
    )
    config = kept(pipeline("public.many"), ["mirror", "changes"])
    converge(database, config)
    database.execute(
        "UPDATE many SET small = 2; UPDATE many SET refs = NULL, docs = '{}' WHERE body LIKE 'c%';"
        "INSERT INTO many (id) VALUES ('00000000-0000-0000-0000-000000000000')"
    )
    converge(database, config)
    shown = "SELECT many::VARCHAR, signbit(ratio), signbit(few[3]) FROM public.many ORDER BY ALL"
    there = query(config, shown)  # in Python NaN is not what it is

    rebuilt(config, "public.many")

    assert query(config, shown) == there


def test_rows_that_were_read_by_themselves_are_rebuilt(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute(
        "CREATE TABLE notes (id int PRIMARY KEY, state text, body text);"
        "ALTER TABLE notes ALTER body SET STORAGE EXTERNAL;"
        "INSERT INTO notes SELECT n, 'x', repeat(n::text, 9000) FROM generate_series(501, 520) n"
    )
    config = pipeline("public.notes")
    database.execute(
        f'ALTER PUBLICATION "{config.source.publication}" SET TABLE notes WHERE (id < 100)'
    )
    config = kept(config, ["mirror", "changes", "history"])
    sync_all(config)
    for n in range(1, 20):  # some of them go on, and some leave before their values are read
        database.execute(f"UPDATE notes SET id = {n} WHERE id = 500 + {n}")
        database.execute("UPDATE notes SET state = state || 'y' WHERE id IN (3, 5, 7)")
        if n % 4 == 0:
            database.execute(f"DELETE FROM notes WHERE id = {n - 1}")
            sync_all(config)
    sync_all(config)
    sync_all(config)
    there, versions = rows(config, "public.notes"), rows(config, "public.notes__history")
    assert len(there) == 15

    rebuilt(config, "public.notes")

    assert rows(config, "public.notes") == there
    assert rows(config, "public.notes__history") == versions
    ((low, high),) = query(config, "SELECT from_lsn, upto_lsn FROM _cdc.unread LIMIT 1")
    into = TableName("public", "then")
    between = refusal(config, "public.notes", to_lsn=LSN(high - 1), into=into)
    assert "some of its rows are not known" in between.message
    for known in (low, high):
        rebuilt(config, "public.notes", to_lsn=LSN(known), into=into)


def test_the_command_rebuilds_without_the_source(
    database: ScratchDatabase, ledger: PipelineConfig
) -> None:
    converge(database, ledger)
    offline = without_source(ledger)
    there = rows(ledger, "public.lines")

    done = run_command(offline, "rebuild", "public.lines", "--into", "public.then", "--json")

    assert done.code == 0, done
    assert (done.json["into"], done.json["rows"]) == ("public.then", len(there))
    assert rows(ledger, "public.then") == there
    execute(ledger, "DELETE FROM public.lines")
    said = run_command(offline, "rebuild", "public.lines")
    assert said.code == 0, said
    assert said.out.startswith("public.lines was rebuilt as of ")
    assert rows(ledger, "public.lines") == there
    refused = run_command(offline, "rebuild", "public.lines", "--to-lsn", "0/1")
    assert_readable(refused, says="'public.lines' can't be rebuilt: 0/1 is not between", hint="LSN")
    assert run_command(offline, "rebuild", "public.lines", "--into", "then").code == 2
