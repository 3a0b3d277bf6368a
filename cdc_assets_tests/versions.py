"""The versions that rows had, as the audit's triggers tell them, to compare histories with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any

import duckdb

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName, quote
from cdc_assets_tests.audit import KEYS, Change, Row, audited
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import query

Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Version:
    """A row of a history."""

    row: Row
    from_lsn: int
    to_lsn: int | None
    valid_from: datetime
    valid_to: datetime | None
    source: str


def histories(
    config: PipelineConfig, table: str, key: tuple[str, ...] = ()
) -> dict[Key, list[Version]]:
    """Read a history, per key in the order of LSNs; fail where two versions hold at once."""
    key = key or KEYS[table]
    name = TableName.parse(table)
    found: dict[Key, list[Version]] = {}
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        result = warehouse.execute(
            f"SELECT * FROM {quote(name.schema)}.{quote(name.name + '__history')}"
            " ORDER BY _cdc_valid_from_lsn"
        )
        names = [column[0] for column in result.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    for row in rows:
        own = {name: value for name, value in row.items() if not name.startswith("_cdc_")}
        version = Version(
            own,
            row["_cdc_valid_from_lsn"],
            row["_cdc_valid_to_lsn"],
            row["_cdc_valid_from"],
            row["_cdc_valid_to"],
            row["_cdc_source"],
        )
        found.setdefault(tuple(own[name] for name in key), []).append(version)
    for versions in found.values():
        for before, after in pairwise(versions):
            assert before.to_lsn is not None
            assert before.valid_to is not None
            assert before.from_lsn < before.to_lsn <= after.from_lsn
            assert before.valid_from <= before.valid_to <= after.valid_from
            assert before.row != after.row or before.to_lsn < after.from_lsn
    return found


def assert_versions_as_audited(
    database: ScratchDatabase,
    config: PipelineConfig,
    keys: Mapping[str, tuple[str, ...]] = KEYS,
    shaped: Callable[[str, Row], Row | None] = lambda _, row: row,
) -> int:
    """Fail unless the histories hold all versions since they begin; how many there are.

    Every transaction of the audit has to be past the beginning, and the change tables are kept:
    they tell the transactions' LSNs and times.

    Args:
        database: With the audit.
        config: Its pipeline.
        keys: The tables, and their keys as the warehouse has them.
        shaped: Gives what the warehouse is to have of a table's row; None where it has none.
    """
    happened, count = audited(database), 0
    for table, key in keys.items():
        kept = histories(config, table, key)
        count += sum(map(len, kept.values()))
        moments = _moments(config, table)
        changes = [
            _shaped(change, partial(shaped, table)) for change in happened if change.table == table
        ]
        expected = _expected(_beginning(kept), changes, key, moments)
        found = {
            key: [(version.row, version.from_lsn, version.to_lsn) for version in versions]
            for key, versions in kept.items()
        }
        assert found == expected
        times = dict(moments.values())
        for version in (one for versions in kept.values() for one in versions):
            if version.source == "stream":
                assert version.valid_from == times[version.from_lsn]
            if version.to_lsn is not None:
                assert version.valid_to == max(times[version.to_lsn], version.valid_from)
    return count


def _shaped(change: Change, shaped: Callable[[Row], Row | None]) -> Change:
    old, new = (None if row is None else shaped(row) for row in (change.old, change.new))
    return replace(change, old=old, new=new)


def _beginning(kept: dict[Key, list[Version]]) -> dict[Key, list[tuple[Row, int, int | None]]]:
    return {
        key: [(first.row, first.from_lsn, None)]
        for key, (first, *_) in kept.items()
        if first.source == "snapshot"
    }


def _moments(config: PipelineConfig, table: str) -> dict[int, tuple[int, datetime]]:
    name = TableName.parse(table)
    changes = f"{quote(name.schema)}.{quote(name.name + '__changes')}"
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        rows = warehouse.execute(
            f"SELECT DISTINCT _cdc_xid, _cdc_lsn, _cdc_commit_ts FROM {changes}"
            " WHERE _cdc_xid IS NOT NULL"
        ).fetchall()
    return {xid: (lsn, time) for xid, lsn, time in rows}


def _expected(
    begin: dict[Key, list[tuple[Row, int, int | None]]],
    changes: list[Change],
    key_names: tuple[str, ...],
    moments: dict[int, tuple[int, datetime]],
) -> dict[Key, list[tuple[Row, int, int | None]]]:
    """Follow the rows from transaction to transaction."""
    versions = {key: list(of) for key, of in begin.items()}
    state = {key: of[-1][0] for key, of in begin.items()}
    for xid in dict.fromkeys(change.xid for change in changes):
        assert xid is not None
        before = dict(state)
        for change in changes:
            if change.xid == xid:
                _apply(state, change, key_names)
        if state == before:
            continue
        lsn = moments[xid][0]
        for key in before.keys() | state.keys():
            old, new = before.get(key), state.get(key)
            if old == new:
                continue
            if old is not None:
                row, since, _ = versions[key][-1]
                versions[key][-1] = (row, since, lsn)
            if new is not None:
                versions.setdefault(key, []).append((new, lsn, None))
    return versions


def _apply(state: dict[Key, Row], change: Change, key: tuple[str, ...]) -> None:
    if change.op == "truncate":
        state.clear()
        return
    if change.old is not None:
        state.pop(tuple(change.old[name] for name in key))
    if change.new is not None:
        state[tuple(change.new[name] for name in key)] = change.new


def assert_current_as_mirrors(config: PipelineConfig) -> None:
    """Fail unless the open versions are the mirrors' rows."""
    for table in KEYS:
        name = TableName.parse(table)
        history = f"{quote(name.schema)}.{quote(name.name + '__history')}"
        own = "EXCLUDE (_cdc_valid_from, _cdc_valid_to, _cdc_valid_from_lsn, _cdc_valid_to_lsn,"
        current = f"SELECT * {own} _cdc_source) FROM {history} WHERE _cdc_valid_to_lsn IS NULL"
        mirror = f"SELECT * EXCLUDE (_cdc_lsn, _cdc_commit_ts) FROM {name.sql}"
        if config.table(name).deletes == "soft":
            mirror = mirror.replace(")", ", _cdc_deleted)") + " WHERE NOT _cdc_deleted"
        assert query(config, f"{current} EXCEPT ALL {mirror}") == []
        assert query(config, f"{mirror} EXCEPT ALL {current}") == []
