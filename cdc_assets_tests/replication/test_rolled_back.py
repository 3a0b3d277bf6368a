"""Transactions that come to nothing, wholly or in part, on each version of the server.

A server of version 18 says of some that they were aborted, though nothing of them was given out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from random import Random
from typing import LiteralString, cast

import psycopg
import pytest

from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ProtocolError
from cdc_assets.identifiers import quote_literal
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput import messages as messages_module
from cdc_assets.pgoutput.messages import Messages
from cdc_assets.replication.journal import read_journal
from cdc_assets_tests.command_line import run_command
from cdc_assets_tests.conftest import MakePipeline, make_pipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import make_small
from cdc_assets_tests.pgoutput.test_decode import (
    begin,
    change,
    commit,
    messages_of,
    relation,
    values,
)
from cdc_assets_tests.syncs import converge, mirror_rows, sync_all

SAVEPOINT = (
    "BEGIN; INSERT INTO t VALUES (-1, 'a'); SAVEPOINT s; INSERT INTO t VALUES (-2, 'b');"
    "RELEASE SAVEPOINT s;"
)
LARGE = "INSERT INTO t SELECT n, repeat('x', 200) FROM generate_series(10, 3000) n;"
ROLLED_BACK = {
    "savepoint": [f"{SAVEPOINT} {LARGE} ROLLBACK"],
    "unpublished": [f"{SAVEPOINT} {LARGE} ROLLBACK".replace(" t ", " u ")],
    "ddl": [f"{SAVEPOINT} ALTER TABLE t ADD COLUMN c int; {LARGE} ROLLBACK"],
    "exception": [
        "BEGIN; DO $$ BEGIN INSERT INTO t VALUES (-3, 'c');"
        " BEGIN INSERT INTO t VALUES (-4, 'd'); PERFORM 1 / 0;"
        " EXCEPTION WHEN division_by_zero THEN NULL; END;"
        " BEGIN INSERT INTO t VALUES (-5, 'd');"
        f" EXCEPTION WHEN unique_violation THEN NULL; END; END $$; {LARGE} ROLLBACK"
    ],
    "prepared": [f"{SAVEPOINT} {LARGE} PREPARE TRANSACTION 'p'", "ROLLBACK PREPARED 'p'"],
}
ABORT = b"A" + struct.pack(">II", 7, 8)
ROW = change("I", b"N" + values(b"1"))


@pytest.fixture
def config(any_database: ScratchDatabase, tmp_path: Path) -> PipelineConfig:
    """A published table, one that is not, and a server that spills what passes 64 kB."""
    any_database.execute("CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (LIKE t)")
    any_database.execute(
        f"ALTER DATABASE {any_database.name} SET logical_decoding_work_mem = '64kB'"
    )
    return make_pipeline(any_database, tmp_path, "public.t")


def kinds_on_slot(database: ScratchDatabase, config: PipelineConfig) -> set[str]:
    rows = database.execute(
        "SELECT DISTINCT chr(get_byte(data, 0)) FROM pg_logical_slot_peek_binary_changes("
        f"{quote_literal(config.source.slot)}, NULL, NULL, 'proto_version', '1',"
        f" 'publication_names', {quote_literal(config.source.publication)})"
    )
    return {kind for (kind,) in rows}


@pytest.mark.parametrize("shape", ROLLED_BACK)
def test_what_is_rolled_back_stops_nothing(
    any_database: ScratchDatabase, config: PipelineConfig, shape: str
) -> None:
    sync_all(config)
    any_database.execute("INSERT INTO t VALUES (1, 'before')")
    with closing(any_database.connect()) as session:
        for text in ROLLED_BACK[shape]:
            session.execute(cast("LiteralString", text))
        says_so = session.info.server_version >= 180000
    any_database.execute("INSERT INTO t VALUES (2, 'behind')")

    assert kinds_on_slot(any_database, config) == {"B", "R", "I", "C", *("A" if says_so else "")}
    converge(any_database, config)
    # said again as long as the server reads that WAL again, wherever the slot is
    assert kinds_on_slot(any_database, config) <= {"A"}
    converge(any_database, config)


def test_a_window_of_nothing_but_what_was_rolled_back_moves_on(
    any_database: ScratchDatabase, config: PipelineConfig
) -> None:
    sync_all(config)
    any_database.execute(ROLLED_BACK["savepoint"][0])
    finished = sync_all(config)
    assert finished.confirmed_lsn >= finished.target_lsn
    converge(any_database, config)


class Writer:
    """One session that takes steps of random transactions in a key range of its own."""

    def __init__(self, random: Random, session: psycopg.Connection, number: int) -> None:
        self.random, self.session, self.number = random, session, number
        self.next_key = number * 1_000_000
        self.savepoints = 0
        self.is_open = False
        self.prepared = ""

    def step(self) -> None:
        """Begin, change something, set or leave a savepoint, or end."""
        if self.prepared:
            self.execute(f"{self.random.choice(['COMMIT', 'ROLLBACK'])} PREPARED '{self.prepared}'")
            self.prepared = ""
        elif not self.is_open:
            self.execute("BEGIN")
            self.is_open, self.savepoints = True, 0
        else:
            steps = [self.change] * 5 + [self.savepoint] * 2 + [self.leave] * 2 + [self.end]
            self.random.choice(steps)()

    def change(self) -> None:
        table = self.random.choice(["t", "t", f"own{self.number}", "u"])
        first, count = self.next_key, self.random.choice([1, 30, 400, 1500])
        keys = f"id / 1000000 = {self.number}"
        match self.random.choice(["insert", "insert", "update", "delete", "move", "fault", "ddl"]):
            case "insert":
                self.next_key += count
                self.execute(
                    f"INSERT INTO {table} (id, v) SELECT n, repeat('x', 200)"
                    f" FROM generate_series({first}, {first + count - 1}) n"
                )
            case "update":
                self.execute(f"UPDATE {table} SET v = v || 'y' WHERE {keys} AND id % 3 = 0")
            case "delete":
                self.execute(f"DELETE FROM {table} WHERE {keys} AND id % 7 = {count % 7}")
            case "move":
                self.next_key += 1
                self.execute(
                    f"UPDATE {table} SET id = {first} WHERE id ="
                    f" (SELECT max(id) FROM {table} WHERE {keys} AND id < {first})"
                )
            case "fault":
                self.next_key += count
                self.execute(
                    f"DO $$ BEGIN INSERT INTO {table} (id, v) SELECT n, repeat('z', 300)"
                    f" FROM generate_series({first}, {first + count - 1}) n;"
                    " PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END $$"
                )
            case _:  # of a table that is published, and taken back in any case
                self.execute("SAVEPOINT ddl")
                self.execute(f"ALTER TABLE own{self.number} ADD COLUMN extra{first} int DEFAULT 5")
                self.execute(f"INSERT INTO own{self.number} (id, v) VALUES ({-first - 1}, 'ddl')")
                self.execute("ROLLBACK TO SAVEPOINT ddl")

    def savepoint(self) -> None:
        self.savepoints += 1
        self.execute(f"SAVEPOINT s{self.savepoints}")

    def leave(self) -> None:
        if self.savepoints:
            how = self.random.choice(["RELEASE", "ROLLBACK TO"])
            self.execute(f"{how} SAVEPOINT s{self.savepoints}")
            self.savepoints -= how == "RELEASE"

    def end(self) -> None:
        how = self.random.choice(["COMMIT", "ROLLBACK", "ROLLBACK", "PREPARE TRANSACTION"])
        if how.startswith("PREPARE"):
            self.prepared = f"p{self.number}_{self.session.info.backend_pid}_{self.next_key}"
            how = f"{how} '{self.prepared}'"
        self.execute(how)
        self.is_open = False

    def execute(self, sql: str) -> None:
        self.session.execute(cast("LiteralString", sql))


@pytest.fixture
def writers(any_database: ScratchDatabase) -> Iterator[list[psycopg.Connection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(closing(any_database.connect())) for _ in range(4)]


def test_random_transactions_give_what_the_source_shows(
    any_database: ScratchDatabase,
    writers: list[psycopg.Connection],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_small(monkeypatch.setattr)
    any_database.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (LIKE t INCLUDING ALL)"
    )
    own = [f"own{number}" for number in range(len(writers))]
    for table in own:
        any_database.execute(f"CREATE TABLE {table} (LIKE t INCLUDING ALL)")
    any_database.execute(
        f"ALTER DATABASE {any_database.name} SET logical_decoding_work_mem = '64kB'"
    )
    config = make_pipeline(any_database, tmp_path, "public.t", *(f"public.{name}" for name in own))
    sync_all(config)

    random = Random(15)
    sessions = [Writer(random, session, number) for number, session in enumerate(writers)]
    kinds: set[str] = set()
    for _ in range(6):
        for _ in range(60):
            random.choice(sessions).step()
        kinds |= kinds_on_slot(any_database, config)
        converge(any_database, config)
    for writer in sessions:
        while writer.is_open or writer.prepared:
            writer.step()
    kinds |= kinds_on_slot(any_database, config)
    converge(any_database, config)
    assert ("A" in kinds) == (writers[0].info.server_version >= 180000)


def kept(*raw: bytes, inside: bool = False) -> list[bytes]:
    messages = messages_of(list(raw)).framed(inside=inside)
    again = Messages.from_arrow(messages.to_arrow()) if len(messages) else messages
    return [bytes(again.buffer[a:b]) for a, b in zip(again.starts, again.ends, strict=True)]


def test_aborts_are_left_out_wherever_they_stand_between_transactions() -> None:
    whole = [begin(), ROW, commit()]
    assert kept(ABORT) == []
    assert kept(ABORT, *whole, ABORT, ABORT, *whole, ABORT) == whole * 2
    assert kept(ROW, commit(), ABORT, begin(), inside=True) == [ROW, commit(), begin()]
    assert kept(*whole) == whole


@pytest.mark.parametrize("wrong", [ABORT[:-1], ABORT + b"x", ABORT + bytes(16), b"A"])
def test_an_abort_of_another_length_is_refused(wrong: bytes) -> None:
    with pytest.raises(ProtocolError, match="'A' at byte 21: expected 9 bytes") as raised:
        kept(begin(), wrong)
    assert (raised.value.kind, raised.value.offset) == ("A", 21)


@pytest.mark.parametrize("raw", [[begin(), ABORT], [begin(), commit(), begin(), ROW, ABORT]])
def test_an_abort_inside_a_transaction_is_refused(raw: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match="inside a transaction"):
        kept(*raw)
    with pytest.raises(ProtocolError, match="'A' at byte 0: inside"):
        kept(ABORT, commit(), inside=True)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    "raw",
    [
        [begin(), begin(), ROW, commit(), commit()],
        [begin(), commit(), ROW, begin(), commit()],
        [begin(), commit(), commit(), begin()],
        [begin(), ROW, commit(), ABORT, relation(1, "id")],
    ],
)
def test_messages_outside_of_one_transaction_after_the_other_are_refused(
    raw: list[bytes], inside: bool
) -> None:
    with pytest.raises(ProtocolError, match=r"(in|out)side a transaction"):
        kept(*raw[inside:], inside=inside)
    with pytest.raises(ProtocolError, match=r"'B' at byte 0: inside|'I' at byte 0: outside"):
        kept(begin() if inside else ROW, *raw[1:], inside=inside)


@pytest.mark.parametrize("kind", "SEcpbPKrV")
def test_what_comes_with_streaming_or_two_phase_commit_only_is_refused(kind: str) -> None:
    with pytest.raises(ProtocolError, match=f"'{kind}' at byte 21: unknown kind"):
        messages_of([begin(), kind.encode() + bytes(20)])


def test_what_is_not_understood_is_an_error_of_its_window_that_stays_known(
    database: ScratchDatabase, pipeline: MakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    config = pipeline("public.t")
    reached = sync_all(config).confirmed_lsn
    database.execute("INSERT INTO t VALUES (1, 'a')")
    database.execute("TRUNCATE t")
    known = messages_module._KNOWN.copy()
    known[ord("T")] = False
    monkeypatch.setattr(messages_module, "_KNOWN", known)

    with pytest.raises(ProtocolError) as raised:
        sync_all(config)

    error = raised.value
    start, _, upto = error.window.partition(" to ")
    assert (error.kind, LSN.parse(start)) == ("T", reached)
    assert LSN.parse(upto) > reached
    assert f"'T' at byte {error.offset} in the window from {error.window}: unknown" in str(error)
    assert mirror_rows(config, "public.t") == []
    journal = read_journal(config)
    assert journal is not None
    assert journal.run.error is not None
    assert (journal.run.error.kind, journal.run.error.message) == ("ProtocolError", error.message)
    for command in ("status", "check"):
        done = run_command(config, command)
        assert done.code == 1
        assert error.message in done.out + done.err

    monkeypatch.undo()
    converge(database, config)
    for command in ("status", "check"):
        assert run_command(config, command).code == 0
