"""What is masked or left out is in no file, not even in one without a name."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.shaping.engine import session
from cdc_assets.source import window
from cdc_assets.source.sealing import SealedFile
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.interrupting import make_small
from cdc_assets_tests.syncs import converge, sync_all

CANARY = "canary-7391"
PLAIN = "plain-text"


@pytest.fixture
def config(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    database.execute("CREATE TABLE t (id int PRIMARY KEY, secret text, shown text)")
    return pipeline("public.t")


def shaped(config: PipelineConfig, **more: Any) -> PipelineConfig:
    return load_config(rewrite(config, tables=[{"source": "public.t", **more}]))


def spooled(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Collect what the files without a name hold whenever something is put into one."""
    make_small(monkeypatch.setattr)
    found: list[bytes] = []
    writes = window._OpenTransaction._write_held

    def observed(self: window._OpenTransaction) -> None:
        writes(self)
        assert self._file is not None
        self._file.flush()
        for link in Path("/proc/self/fd").iterdir():
            if re.search(r"\(deleted\)$", os.path.realpath(link)):
                found.append(link.read_bytes())

    monkeypatch.setattr(window._OpenTransaction, "_write_held", observed)
    return found


@pytest.mark.parametrize(
    "more", [{"mask": {"secret": "sha256"}}, {"columns": {"exclude": ["secret"]}}]
)
def test_the_spool_does_not_show_what_is_hidden(
    database: ScratchDatabase,
    config: PipelineConfig,
    monkeypatch: pytest.MonkeyPatch,
    more: dict[str, Any],
) -> None:
    config = shaped(config, **more)
    sync_all(config)
    found = spooled(monkeypatch)
    database.execute(
        f"INSERT INTO t SELECT n, '{CANARY}' || n, '{PLAIN}' FROM generate_series(1, 5000) n"
    )
    converge(database, config)
    assert max(map(len, found)) > 100_000
    for one in found:
        assert CANARY.encode() not in one
        assert PLAIN.encode() not in one
    for path in config.warehouse_path.parent.rglob("*"):
        assert not path.is_file() or CANARY.encode() not in path.read_bytes(), path


def test_where_nothing_is_hidden_nothing_is_sealed(
    database: ScratchDatabase, config: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync_all(config)
    found = spooled(monkeypatch)
    database.execute(
        f"INSERT INTO t SELECT n, '{CANARY}' || n, '{PLAIN}' FROM generate_series(1, 5000) n"
    )
    converge(database, config)
    assert any(CANARY.encode() in one for one in found)


def test_a_sealed_file_gives_what_was_written(tmp_path: Path) -> None:
    pick = random.Random(1)
    plain = b"".join(bytes([at % 251]) * 997 for at in range(700))
    with (tmp_path / "sealed").open("w+b") as file:
        sealed, at = SealedFile(file), 0
        while at < len(plain):
            part = plain[at : at + pick.choice((0, 1, 8, 65_536, 65_537, 200_000))]
            assert sealed.write(memoryview(part)) == len(part)
            at += len(part)
        sealed.flush()
        raw = (tmp_path / "sealed").read_bytes()
        assert len(raw) == len(plain)
        assert len(set(raw[:997])) > 200
        sealed.rewind()
        read = [sealed.read(pick.choice((1, 8, 65_536, 100_000))) for _ in range(10)]
        assert b"".join(read) + sealed.read() == plain
        assert sealed.read() == b""


def test_what_shapes_rows_writes_no_files() -> None:
    ((folder,),) = session().execute("SELECT current_setting('temp_directory')").fetchall()
    assert folder == ""
