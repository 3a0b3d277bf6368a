from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from cdc_assets.demo import postgres, programs
from cdc_assets.demo.account import Account
from cdc_assets.demo.postgres import EmbeddedPostgres, EmbeddedPostgresError
from cdc_assets_tests.conftest import OLDER_BIN_DIR, SERVER_SETTINGS
from cdc_assets_tests.database import ScratchDatabase


@pytest.fixture
def server(tmp_path: Path):
    server = EmbeddedPostgres(tmp_path / "with space é", settings=SERVER_SETTINGS)
    yield server
    server.remove()


def ask(server: EmbeddedPostgres, sql: str):
    with closing(psycopg.connect(server.dsn(), autocommit=True)) as connection:
        return connection.execute(sql).fetchone()[0]


def test_settings_reach_the_server_whatever_they_hold(tmp_path: Path):
    name = 'it\'s "a" $name \\'
    server = EmbeddedPostgres(tmp_path, settings={"application_name": name})
    try:
        with server:
            assert ask(server, "SHOW application_name") == name
            assert ask(server, "SHOW wal_level") == "logical"
            assert ask(server, "SHOW server_encoding") == "UTF8"
    finally:
        server.remove()


def test_a_restart_keeps_rows_and_port(server: EmbeddedPostgres):
    with server:
        with closing(psycopg.connect(server.dsn(), autocommit=True)) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1")
        port = server.port
    with server:
        assert server.port == port
        assert ask(server, "SELECT count(*) FROM kept") == 1


def test_a_removed_server_leaves_no_shared_memory(tmp_path: Path):
    server = EmbeddedPostgres(tmp_path, settings=SERVER_SETTINGS).start()
    with closing(psycopg.connect(server.dsn(), autocommit=True)) as connection:
        connection.execute("SELECT pg_advisory_lock(1)")
        mapped = {
            path
            for entry in Path("/proc").glob("[0-9]*/maps")
            if str(server.cluster) in _text(entry.with_name("cmdline"))
            for path in re.findall(r"/dev/shm/\S+", _text(entry))
        }
        server.remove()
    assert mapped
    assert [path for path in mapped if Path(path).exists()] == []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # gone meanwhile
        return ""


def test_a_crashed_server_starts_again(server: EmbeddedPostgres):
    server.start()
    with closing(psycopg.connect(server.dsn())):
        server.kill()
    with server:
        assert ask(server, "SELECT 1") == 1


def test_a_pid_file_that_names_another_program_does_not_block_the_start(
    server: EmbeddedPostgres,
):
    with server:
        pass
    (server.cluster / "postmaster.pid").write_text(f"{os.getpid()}\n{server.cluster}\n")
    with server:
        assert ask(server, "SELECT 1") == 1


def test_a_port_that_was_taken_after_it_was_found_free_is_left(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
):
    free_port, found = postgres._free_port, []

    with socket.create_server(("127.0.0.1", 0)) as other:

        def late(wanted: int) -> int:
            found.append(free_port(wanted) if found else other.getsockname()[1])
            return found[-1]

        monkeypatch.setattr(postgres, "_free_port", late)
        with server:
            assert ask(server, "SELECT 1") == 1
            assert server.port not in (0, other.getsockname()[1])


def test_a_server_that_its_starter_left_behind_is_replaced(server: EmbeddedPostgres, tmp_path):
    server.start()
    again = EmbeddedPostgres(tmp_path / "with space é", settings={"work_mem": "1234kB"})
    with again:
        assert ask(server, "SHOW work_mem") == "1234kB"


def test_a_setting_that_the_server_refuses_is_a_readable_error(tmp_path: Path):
    server = EmbeddedPostgres(tmp_path, settings={"work_memory": "1"})
    try:
        with pytest.raises(EmbeddedPostgresError, match="work_memory") as caught:
            server.start()
        assert "log" in caught.value.hint
    finally:
        server.remove()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can't run Postgres as itself")
def test_folders_closed_to_the_servers_account_stay_closed(tmp_path: Path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    server = EmbeddedPostgres(closed / "demo", settings=SERVER_SETTINGS)
    try:
        with server:
            assert ask(server, "SELECT 1") == 1
        assert closed.stat().st_mode & 0o777 == 0o700
    finally:
        server.remove()
    assert not server.cluster.parent.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can't run Postgres as itself")
def test_starts_at_one_time_copy_the_programs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tmp_path.chmod(0o700)
    bin_dir = tmp_path / "site" / "package" / "pginstall" / "bin"
    shutil.copytree(programs.wheel_bin_dir().parent, bin_dir.parent, symlinks=True)
    account, copied = Account.for_server(), []
    copy, all_look = programs._copy_installation, threading.Barrier(3)

    class Looking(Account):
        def run(self, *arguments, **options):
            all_look.wait(60)
            return account.run(*arguments, **options)

    def counted(*paths: Path) -> None:
        copied.append(paths)
        copy(*paths)

    monkeypatch.setattr(programs, "_copy_installation", counted)
    monkeypatch.setattr(programs, "own_folder", lambda _: folder)
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        with ThreadPoolExecutor() as pool:
            starts = [
                pool.submit(programs.reachable_programs, bin_dir, Looking()) for _ in range(3)
            ]
        assert len({start.result() for start in starts}) == 1
        assert len(copied) == 1
    finally:
        shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can't run Postgres as itself")
def test_a_deleted_directory_takes_a_cluster_elsewhere_along(tmp_path: Path):
    directory = tmp_path / "demo"
    directory.mkdir(mode=0o700)
    server = EmbeddedPostgres(directory, settings=SERVER_SETTINGS)
    try:
        with server:
            ask(server, "SELECT lo_create(1234)")
        with server:
            assert ask(server, "SELECT count(*) FROM pg_largeobject_metadata") == 1
        server.start()
        shutil.rmtree(directory)
        server = EmbeddedPostgres(directory, settings=SERVER_SETTINGS)
        with server:
            assert ask(server, "SELECT count(*) FROM pg_largeobject_metadata") == 0
    finally:
        server.remove()


def test_the_older_server_is_version_15(older_database: ScratchDatabase):
    assert older_database.server.bin_dir == OLDER_BIN_DIR
    assert older_database.execute("SHOW server_version_num")[0][0].startswith("15")


def test_a_dropped_database_takes_its_slots_along(postgres: EmbeddedPostgres):
    scratch = ScratchDatabase(postgres, "test_with_slots")
    scratch.create()
    with closing(scratch.connect()) as holder:
        holder.execute("SELECT pg_create_logical_replication_slot('kept', 'pgoutput')")
        holder.execute("SELECT pg_create_logical_replication_slot('gone', 'pgoutput', true)")
        scratch.drop()
    assert ask(postgres, "SELECT count(*) FROM pg_replication_slots") == 0
