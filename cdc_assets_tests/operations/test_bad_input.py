"""Whatever is wrong with the source is one readable error with a way out, and nothing is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdc_assets.config import PipelineConfig
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.operations.removal import forget_tables
from cdc_assets_tests.command_line import assert_readable, rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge
from cdc_assets_tests.waiting import wait_for, wait_for_row

CANARY = "canary-5ecret"


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """A pipeline that runs well, with a change that is not synced yet."""
    database.execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")
    made = pipeline("public.orders", schema_changes="stop")
    converge(database, made)
    database.execute("INSERT INTO orders VALUES (2)")
    return made


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"port": 1}, "can't be reached"),
        ({"host": "no.such.host.invalid"}, "can't be reached"),
        ({"password": CANARY}, "password authentication failed"),
        ({"user": "nobody_at_all", "password": CANARY}, "refuses the connection"),
        ({"dbname": "no_such_database"}, "does not exist"),
    ],
    ids=["port", "host", "password", "user", "database"],
)
def test_a_source_that_can_not_be_connected_to(
    database: ScratchDatabase, config: PipelineConfig, changed: dict[str, str], says: str
) -> None:
    given = {"password": CANARY} if changed.keys() & {"port", "host"} else {}
    bad = rewrite(config, source__dsn=make_conninfo(database.dsn, **{**changed, **given}))

    commands = ("sync", "check", "setup", "teardown") if "port" in changed else ("sync",)
    for command in commands:
        done = run_command(bad, command)
        assert_readable(done, says=says, hint="source.dsn")
        assert CANARY not in done.out + done.err
    status = run_command(bad, "status")
    assert (status.code, says in status.out, "source.dsn" in status.out) == (1, True, True)
    assert CANARY not in status.out + status.err

    converge(database, config)


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql//cdc:{CANARY}@127.0.0.1/shop",
        f"host=127.0.0.1 password='{CANARY}",
        f"postgresql://cdc:{CANARY}@127.0.0.1/shop?no_such_option=1",
        f"postgresql://cdc:{CANARY}%@127.0.0.1/shop",
    ],
    ids=["scheme", "quote", "option", "percent"],
)
def test_a_dsn_that_is_none_is_not_shown(config: PipelineConfig, dsn: str) -> None:
    done = run_command(rewrite(config, source__dsn=dsn), "sync")

    assert_readable(done, says="not a libpq connection string", hint="postgresql://", code=2)
    assert CANARY not in done.out + done.err


def test_a_role_without_replication(database: ScratchDatabase, config: PipelineConfig) -> None:
    role = f"role_{database.name}"
    database.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{CANARY}'")
    try:
        dsn = make_conninfo(database.dsn, user=role, password=CANARY)
        done = run_command(rewrite(config, source__dsn=dsn), "sync")
    finally:
        database.execute(f"DROP ROLE {role}")

    assert_readable(done, says="lacks the REPLICATION attribute", hint="ALTER ROLE")
    converge(database, config)


def test_a_role_that_may_not_read_the_table(database: ScratchDatabase, tmp_path: Path) -> None:
    role = f"role_{database.name}"
    database.execute("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1)")
    config = make_pipeline(database, tmp_path, "public.orders")
    database.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD '{CANARY}'")
    try:
        dsn = make_conninfo(database.dsn, user=role, password=CANARY)
        done = run_command(rewrite(config, source__dsn=dsn), "sync")
        assert done.code == 1
        assert "Traceback" not in done.err
        assert "may not read table 'public.orders'" in done.err
        assert "GRANT SELECT" in done.err
        database.execute(f"GRANT SELECT ON orders TO {role}")
        good = run_command(rewrite(config, source__dsn=dsn), "sync")
        assert good.code == 0, good
        assert CANARY not in good.out + good.err
    finally:
        database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    converge(database, config)


def test_a_publication_that_is_gone(database: ScratchDatabase, config: PipelineConfig) -> None:
    database.execute(f"ALTER PUBLICATION {config.source.publication} RENAME TO gone")

    done = run_command(config, "sync")

    assert_readable(done, says="does not exist", hint="cdc-assets setup")


def test_a_publication_that_was_gone_for_a_while(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    """Postgres 18 leaves out, with a warning only, what was changed while it was gone."""
    database.execute(f"ALTER PUBLICATION {config.source.publication} RENAME TO gone")
    table = config.table_names[0]
    database.execute(f"DELETE FROM {table.sql}")
    database.execute(f"ALTER PUBLICATION gone RENAME TO {config.source.publication}")

    done = run_command(config, "sync")

    assert done.code == 1
    assert "was altered since the last sync: changes of" in done.err
    assert "cdc-assets backfill " in done.err
    forget_tables(config, config.table_names)
    converge(database, config)


def test_a_publication_that_leaves_out_deletes(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    name = config.source.publication
    database.execute(f"ALTER PUBLICATION {name} SET (publish = 'insert, update, truncate')")

    done = run_command(config, "sync")

    assert_readable(done, says="leaves out delete", hint="ALTER PUBLICATION")


def test_a_slot_that_is_missing(config: PipelineConfig) -> None:
    done = run_command(rewrite(config, source__slot="no_such_slot"), "sync")

    assert_readable(done, says="slot 'no_such_slot' does not exist", hint="cdc-assets setup")


def test_a_slot_that_is_not_ours(
    database: ScratchDatabase, config: PipelineConfig, postgres: EmbeddedPostgres
) -> None:
    physical = f"physical_{database.name}"
    elsewhere = f"elsewhere_{database.name}"
    database.execute("SELECT pg_create_physical_replication_slot(%s)", [physical])
    with psycopg.connect(postgres.dsn("template1"), autocommit=True) as other:
        other.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [elsewhere])
    try:
        for slot in (physical, elsewhere):
            for command in ("sync", "setup", "teardown"):
                done = run_command(rewrite(config, source__slot=slot), command)
                assert_readable(done, says="expected 'pgoutput'", hint="source.slot")
    finally:
        for slot in (physical, elsewhere):
            database.execute("SELECT pg_drop_replication_slot(%s)", [slot])
    converge(database, config)


def test_a_slot_past_the_checkpoint_stops_the_run(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute(
        "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [config.source.slot]
    )

    for command in ("sync", "check"):
        done = run_command(config, command)
        assert_readable(done, says="past the checkpoint", hint="changes in between are gone")

    assert run_command(config, "teardown", "--table", "public.orders").code == 0
    converge(database, config)


def test_a_slot_that_another_reader_holds(
    database: ScratchDatabase, config: PipelineConfig, postgres: EmbeddedPostgres
) -> None:
    slot = config.source.slot
    with _receiving(postgres, database, slot):
        pid = wait_for_row(
            database,
            "SELECT active_pid FROM pg_replication_slots"
            " WHERE slot_name = %s AND active_pid IS NOT NULL",
            "pg_recvlogical to hold the slot",
            [slot],
        )[0]
        done = run_command(config, "sync")

    assert_readable(done, says=f"is in use by pid {pid}", hint="stop the other reader")
    wait_for(
        lambda: database.execute(
            "SELECT active_pid IS NULL FROM pg_replication_slots WHERE slot_name = %s", [slot]
        )[0][0],
        "the slot to be free",
    )
    converge(database, config)


@contextmanager
def _receiving(server: EmbeddedPostgres, database: ScratchDatabase, slot: str) -> Iterator[None]:
    """Hold a slot without confirming anything."""
    process = subprocess.Popen(
        [
            str(server.bin_dir / "pg_recvlogical"), "--start", "--slot", slot,
            "--dbname", database.dsn, "--file", "/dev/null", "--fsync-interval", "0",
            "--status-interval", "0", "--option", "proto_version=1",
            "--option", f"publication_names={slot}", "--no-loop",
        ],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_two_runs_at_once(database: ScratchDatabase, config: PipelineConfig) -> None:
    from cdc_assets.source.connection import connect
    from cdc_assets.source.lock import lock_pipeline

    with connect(database.dsn) as other:
        lock_pipeline(other, config.source.slot)
        pid = other.info.backend_pid
        done = run_command(config, "sync")

    assert_readable(done, says="another run holds the pipeline", hint="wait for it to end")
    assert f"pid {pid}" in done.err
    converge(database, config)


def test_a_table_without_replica_identity(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("CREATE TABLE log (line text); CREATE TABLE gone (id int PRIMARY KEY)")
    database.execute("ALTER TABLE gone REPLICA IDENTITY NOTHING")
    for table, has in (("log", "no replica identity"), ("gone", "REPLICA IDENTITY NOTHING")):
        bad = rewrite(config, tables=[{"source": f"public.{table}"}])
        for command in ("setup", "check"):
            done = run_command(bad, command)
            assert_readable(done, says=f"'public.{table}' has {has}", hint="REPLICA")
    ((count,),) = database.execute(
        "SELECT count(*) FROM pg_publication_tables WHERE tablename IN ('log', 'gone')"
    )
    assert count == 0


def test_a_table_that_loses_its_key_fails_alone(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    config = pipeline("public.a", "public.b")
    converge(database, config)
    database.execute("ALTER TABLE b DROP CONSTRAINT b_pkey; INSERT INTO a VALUES (1)")

    done = run_command(config, "sync", "--json")

    assert done.code == 1
    assert "Traceback" not in done.err
    tables = {table["table"]: table for table in done.json["tables"]}
    assert "no replica identity" in tables["public.b"]["error"]
    assert tables["public.a"]["error"] is None
    assert tables["public.a"]["inserted"] == 1


def test_an_unknown_table_names_the_nearest_one(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    for name in ("public.ordres", "public.Orders", "publik.orders"):
        done = run_command(rewrite(config, tables=[{"source": name}]), "sync")
        assert_readable(done, says="does not exist on the source", hint="'public.orders'")
    done = run_command(config, "sync", "--table", "public.ordres")
    assert_readable(done, says="is not in pipeline", hint="'public.orders'", code=2)
    converge(database, config)


def test_a_table_that_is_dropped_fails_readably(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    database.execute("DROP TABLE orders")

    done = run_command(config, "sync")

    assert_readable(done, says="was dropped on the source", hint="config")
