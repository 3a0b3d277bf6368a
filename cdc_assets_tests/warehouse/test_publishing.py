"""A copy for readers: whole, of now, replaced while they read, and never the run's undoing."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.steps import Step
from cdc_assets.warehouse import publishing
from cdc_assets_tests.command_line import assert_readable, rewrite, run_command
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import at_step, kill_at
from cdc_assets_tests.syncs import converge, mirror_rows, sync_all
from cdc_assets_tests.waiting import wait_until_unlocked

# Reads in a loop until its input ends: each state that it sees is whole, and never an error
READER = """
import os, select, sys, duckdb
path, rounds, seen = sys.argv[1], 0, set()
while not select.select([sys.stdin], [], [], 0)[0]:
    with duckdb.connect(path, read_only=True) as copy:
        one = copy.execute("SELECT sum(balance), count(*) FROM public.accounts").fetchall()
        two = copy.execute("SELECT max(n), count(*) FROM public.transfers").fetchall()
        assert one == [(1000, 10)], one
        assert two[0][0] == two[0][1], two
        seen.add(two[0][0])
    rounds += 1
    if rounds == 1:
        print("reading", flush=True)
print(rounds, len(seen), flush=True)
"""


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute(
        "CREATE TABLE accounts (id int PRIMARY KEY, balance int);"
        "CREATE TABLE transfers (n int PRIMARY KEY);"
        "INSERT INTO accounts SELECT i, 100 FROM generate_series(1, 10) i;"
        "INSERT INTO transfers VALUES (1)"
    )
    plain = pipeline("public.accounts", "public.transfers")
    return publishing_at(plain, plain.warehouse_path.with_name("copy.duckdb"))


def publishing_at(config: PipelineConfig, target: Path) -> PipelineConfig:
    """Publish to a file; the config is written over, so that it can be synced by a process, too."""
    duckdb_config = {"path": str(config.warehouse_path), "publish": str(target)}
    path = rewrite(config, warehouse={"duckdb": duckdb_config})
    kept = config.root / "defs.yaml"
    shutil.copy(path, kept)
    return load_config(kept)


def copy_of(config: PipelineConfig) -> Path:
    assert config.publish_path is not None
    return config.publish_path


def rows(path: Path) -> list[tuple[object, ...]]:
    with duckdb.connect(str(path), read_only=True) as copy:
        return copy.execute("SELECT n FROM public.transfers ORDER BY n").fetchall()


def transfer(database: ScratchDatabase, n: int) -> None:
    database.execute(
        f"UPDATE accounts SET balance = balance - {n} WHERE id = {n % 10 + 1};"
        f"UPDATE accounts SET balance = balance + {n} WHERE id = {(n + 1) % 10 + 1};"
        f"INSERT INTO transfers VALUES ({n})"
    )


def test_a_copy_is_published_when_something_changed_and_only_then(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    copy = copy_of(config)
    assert sync_all(config).published == str(copy)
    first = copy.stat()
    assert sync_all(config).published == ""
    left = copy.stat()
    assert (left.st_ino, left.st_mtime_ns) == (first.st_ino, first.st_mtime_ns)

    with duckdb.connect(str(copy), read_only=True) as held:
        transfer(database, 2)
        assert sync_all(config).published == str(copy)
        assert held.execute("SELECT count(*) FROM public.transfers").fetchall() == [(1,)]
    assert rows(copy) == [(1,), (2,)]
    assert copy.stat().st_ino != first.st_ino

    shutil.move(copy, tmp_path / "by itself.duckdb")  # without a log it is whole
    assert rows(tmp_path / "by itself.duckdb") == [(1,), (2,)]
    assert sync_all(config).published == str(copy)
    assert rows(copy) == [(1,), (2,)]


def test_a_copy_has_the_columns_of_a_quiet_table_that_was_altered(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    sync_all(config)
    database.execute("ALTER TABLE transfers ADD note text DEFAULT 'none'")

    assert sync_all(config).published

    with duckdb.connect(str(copy_of(config)), read_only=True) as copy:
        assert copy.execute("SELECT n, note FROM public.transfers").fetchall() == [(1, "none")]


def test_a_copy_is_for_reading(config: PipelineConfig) -> None:
    done = run_command(config, "sync")
    assert f"published to {copy_of(config)}\n" in done.out
    assert not stat.S_IMODE(copy_of(config).stat().st_mode) & 0o222
    assert run_command(config, "sync", "--json").json["published"] is None


def test_readers_never_meet_a_run_nor_half_a_state(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    sync_all(config)
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(copy_of(config))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "reading\n"
        for n in range(2, 12):
            transfer(database, n)
            assert sync_all(config).published
        said, failed = reader.communicate("stop\n")
    assert (reader.returncode, failed) == (0, "")
    rounds, seen = map(int, said.split())
    assert rounds > 5
    assert seen > 2
    converge(database, config)


@pytest.mark.parametrize("step", ["copy_written", "copy_published"])
def test_a_kill_while_publishing_leaves_a_whole_copy(
    database: ScratchDatabase, config: PipelineConfig, step: Step
) -> None:
    sync_all(config)
    transfer(database, 2)
    assert kill_at(config, step, 1)
    wait_until_unlocked(database)

    copied = [(1,)] if step == "copy_written" else [(1,), (2,)]
    assert rows(copy_of(config)) == copied
    status = run_command(config, "status").out
    assert ("older than the warehouse" in status) == (step == "copy_written")

    assert bool(sync_all(config).published) == (step == "copy_written")
    assert rows(copy_of(config)) == [(1,), (2,)]
    assert not list(copy_of(config).parent.glob("*publishing*"))
    converge(database, config)


def test_a_kill_between_commit_and_copy_is_made_good_by_a_quiet_run(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    sync_all(config)
    transfer(database, 2)
    assert kill_at(config, "window_confirmed", 1)
    wait_until_unlocked(database)

    finished = sync_all(config)

    assert (finished.counts.total, bool(finished.published)) == (0, True)
    assert rows(copy_of(config)) == [(1,), (2,)]


@pytest.mark.parametrize("wrong", ["a database", "a text", "a folder", "no folder"])
def test_what_can_not_be_published_is_said_and_fails_no_run(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path, wrong: str
) -> None:
    target = tmp_path / "published.duckdb"
    if wrong == "a database":
        with duckdb.connect(str(target)) as other:
            other.execute("CREATE TABLE precious AS SELECT 42 AS n")
    elif wrong == "a text":
        target.write_text("precious")
    elif wrong == "a folder":
        target.mkdir()
    else:
        target = tmp_path / "none" / "published.duckdb"
    config = publishing_at(config, target)

    assert_readable(run_command(config, "check"), says=str(target), hint="")
    done = run_command(config, "sync", "--json")

    assert done.code == 0
    assert [note for note in done.json["notes"] if str(target) in note]
    assert done.json["published"] is None
    assert mirror_rows(config, "public.transfers", "n") == [(1,)]
    assert str(target) in run_command(config, "status").out
    if wrong == "a database":
        with duckdb.connect(str(target)) as other:
            assert other.execute("FROM precious").fetchall() == [(42,)]
    converge(database, config)


def test_a_full_disk_leaves_the_copy_as_it_was(
    database: ScratchDatabase, config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_all(config)
    transfer(database, 2)

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "_copy", full)
        finished = sync_all(config)

    assert ["No space left on device" in note for note in finished.notes] == [True]
    assert rows(copy_of(config)) == [(1,)]
    assert not list(copy_of(config).parent.glob("*publishing*"))
    assert sync_all(config).published
    assert rows(copy_of(config)) == [(1,), (2,)]


def test_nobody_writes_the_warehouse_while_it_is_copied(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    """A descriptor of the file that is closed would release DuckDB's lock on it."""
    sync_all(config)
    transfer(database, 2)
    tried: list[subprocess.CompletedProcess[str]] = []

    def write() -> None:
        program = "import duckdb, sys; duckdb.connect(sys.argv[1])"
        command = [sys.executable, "-c", program, str(config.warehouse_path)]
        tried.append(subprocess.run(command, capture_output=True, text=True, check=False))

    with at_step("copy_written", 1, write), at_step("copy_published", 1, write):
        sync_all(config)

    assert ["Could not set lock" in one.stderr for one in tried] == [True, True]


def test_a_log_beside_the_old_copy_is_not_the_new_ones(
    database: ScratchDatabase, config: PipelineConfig
) -> None:
    sync_all(config)
    copy = copy_of(config)
    copy.chmod(0o644)
    program = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]);"
        " c.execute('CREATE TABLE public.mine (i int)'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(copy)], check=True)
    assert Path(f"{copy}.wal").exists()
    transfer(database, 2)

    assert sync_all(config).published

    assert rows(copy) == [(1,), (2,)]
    assert not Path(f"{copy}.wal").exists()


def test_the_copy_of_another_warehouse_stays(
    database: ScratchDatabase, config: PipelineConfig, tmp_path: Path
) -> None:
    sync_all(config)
    precious = copy_of(config).read_bytes()
    duckdb_config = {"path": str(tmp_path / "new.duckdb"), "publish": str(copy_of(config))}
    new = load_config(rewrite(config, warehouse={"duckdb": duckdb_config}))
    assert run_command(new, "setup", "--take-over").code == 0

    assert ["left alone" in note for note in sync_all(new).notes] == [True]
    assert copy_of(new).read_bytes() == precious

    copy_of(new).unlink()
    assert sync_all(new).published
    converge(database, new)


def test_a_copy_is_not_the_warehouse_itself(config: PipelineConfig, tmp_path: Path) -> None:
    same = {"path": "data/x.duckdb", "publish": "data/../data/x.duckdb"}
    done = run_command(rewrite(config, warehouse={"duckdb": same}), "check")
    assert (done.code, "expected another file than path" in done.err) == (2, True)

    link = tmp_path / "link.duckdb"
    link.symlink_to(config.warehouse_path)
    linked = publishing_at(config, link)
    assert ["left alone" in note for note in sync_all(linked).notes] == [True]
    assert sync_all(linked).published == ""
