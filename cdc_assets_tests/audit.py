"""What happened to the ledger's tables, written by triggers on the source, to compare with.

Nothing of it goes through the slot's decoding: the audit table is not published.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import duckdb

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName, quote
from cdc_assets_tests.database import ScratchDatabase

KEYS = {
    "public.accounts": ("id",),
    "public.Notes": ("Key",),
    "public.lines": ("account", "line"),
}
# Whose old rows come whole
FULL = "public.Notes"
_AUDIT_SQL = """
CREATE TABLE audit (n bigserial, xid bigint, source text, op text, old jsonb, new jsonb);
CREATE FUNCTION write_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit (xid, source, op, old, new) VALUES (
        pg_current_xact_id()::text::bigint % 4294967296, TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME,
        lower(TG_OP), to_jsonb(OLD), to_jsonb(NEW)
    );
    RETURN NULL;
END $$;
"""
_TRIGGERS_SQL = """
CREATE TRIGGER audit_rows AFTER INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION write_audit();
CREATE TRIGGER audit_truncates AFTER TRUNCATE ON {table}
    FOR EACH STATEMENT EXECUTE FUNCTION write_audit();
"""
_ORDER = "_cdc_lsn, _cdc_seq"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What happened to one row, or to a table, as either end tells it."""

    table: str
    op: str
    xid: int | None
    old: Row | None
    new: Row | None


def create_audit(database: ScratchDatabase, tables: Iterable[str] = KEYS) -> None:
    """Have the triggers write from now on."""
    triggers = (_TRIGGERS_SQL.format(table=TableName.parse(table).sql) for table in tables)
    database.execute(_AUDIT_SQL + "".join(triggers))


def audited(database: ScratchDatabase) -> list[Change]:
    """Read what the triggers wrote, in order; of one session after the other."""
    rows = database.execute("SELECT source, op, xid, old::text, new::text FROM audit ORDER BY n")
    return [Change(source, op, xid, _row(old), _row(new)) for source, op, xid, old, new in rows]


def _row(text: str | None) -> Row | None:
    if text is None:
        return None
    row = json.loads(text, parse_float=Decimal)
    if "At" in row:
        row["At"] = datetime.fromisoformat(row["At"])
    return dict(row)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A row of a change table."""

    change: Change
    source: str
    lsn: int
    seq: int
    unchanged: frozenset[str]


def recorded(config: PipelineConfig) -> list[Recorded]:
    """Read all change tables as one, in their order."""
    found: list[Recorded] = []
    with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
        for table in KEYS:
            name = TableName.parse(table)
            changes = f"{quote(name.schema)}.{quote(name.name + '__changes')}"
            result = warehouse.execute(f"SELECT * FROM {changes} ORDER BY {_ORDER}")
            names = [column[0] for column in result.description or ()]
            found += [
                _recorded(table, dict(zip(names, row, strict=True))) for row in result.fetchall()
            ]
    return sorted(found, key=lambda one: (one.lsn, one.seq))


def _recorded(table: str, row: Row) -> Recorded:
    own = {name: row[name] for name in row if not name.startswith("_cdc_")}
    op = row["_cdc_op"]
    change = Change(
        table=table,
        op=op,
        xid=row["_cdc_xid"],
        old=row["_cdc_before"],
        new=None if op in ("delete", "truncate") else own,
    )
    if change.new is None:
        assert set(own.values()) == {None}
    lsn, seq, unchanged = row["_cdc_lsn"], row["_cdc_seq"], frozenset(row["_cdc_unchanged"])
    return Recorded(change, row["_cdc_source"], lsn, seq, unchanged)


def as_sent(change: Change, unchanged: frozenset[str]) -> Change:
    """Give what the stream says of a change: without values that it did not carry."""
    new, old = change.new, change.old
    for name in unchanged:
        assert old is not None
        assert new is not None
        assert old[name] == new[name], "a value that was changed was not carried"
    if new is not None:
        new = {name: None if name in unchanged else value for name, value in new.items()}
    if change.table != FULL and old is not None:
        key = KEYS[change.table]
        same = change.new is not None and all(change.new[name] == old[name] for name in key)
        old = None if same else {name: old[name] if name in key else None for name in old}
    return Change(change.table, change.op, change.xid, old, new)


def assert_as_audited(database: ScratchDatabase, config: PipelineConfig) -> list[Recorded]:
    """Fail unless the change tables hold what happened since they begin: all, once, in order."""
    happened, rows = audited(database), recorded(config)
    assert len({(row.lsn, row.seq) for row in rows}) == len(rows)
    streamed = [row for row in rows if row.source == "stream"]
    for table in KEYS:
        told = [row for row in streamed if row.change.table == table]
        there = [change for change in happened if change.table == table]
        there = there[len(there) - len(told) :]
        pairs = zip(told, there, strict=True)
        assert [row.change for row in told] == [
            as_sent(change, row.unchanged) for row, change in pairs
        ]
    assert_replayed(config, rows)
    return streamed


def assert_replayed(config: PipelineConfig, rows: list[Recorded]) -> None:
    """Apply the rows of the change tables one by one: that gives the mirrors."""
    for table, key in KEYS.items():
        state: dict[tuple[Any, ...], Row] = {}
        for row in rows:
            if row.change.table == table:
                _replay(state, row, key)
        with duckdb.connect(str(config.warehouse_path), read_only=True) as warehouse:
            result = warehouse.execute(
                f"SELECT * EXCLUDE (_cdc_lsn, _cdc_commit_ts) FROM {TableName.parse(table).sql}"
            )
            names = [column[0] for column in result.description or ()]
            mirror = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
        assert not _differences(state, {tuple(row[name] for name in key): row for row in mirror})


def _replay(state: dict[tuple[Any, ...], Row], row: Recorded, key: tuple[str, ...]) -> None:
    change = row.change
    if change.op == "truncate":
        state.clear()
        return
    gone = change.old or change.new
    assert gone is not None
    before = state.pop(tuple(gone[name] for name in key), None)
    if change.new is not None:
        kept = {name: before[name] for name in row.unchanged} if before else {}
        state[tuple(change.new[name] for name in key)] = {**change.new, **kept}


def _differences(state: dict[tuple[Any, ...], Row], mirror: dict[tuple[Any, ...], Row]) -> Row:
    keys = state.keys() | mirror.keys()
    return {
        str(key): (state.get(key), mirror.get(key))
        for key in keys
        if state.get(key) != mirror.get(key)
    }
