"""Compaction against a plain model: a dict of rows, changed one statement at a time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_assets.changes.batch import ChangeBatch, concatenate
from cdc_assets.changes.compact import behind_last_truncate, compact, events_of
from cdc_assets.changes.rows import COMMIT_COLUMN, LSN_COLUMN, Lookup, build_rows
from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.pgoutput.messages import DELETE, INSERT, TRUNCATE, UPDATE
from cdc_assets.pgoutput.types import SourceType

Key = tuple[Any, ...]
Values = tuple[str | None, str | None]

NAN = float("nan")
KEY_SPACES: dict[str, tuple[list[int], list[Key]]] = {
    "integer": ([23], [(1,), (2,), (3,), (4,)]),
    "text": ([25], [("",), ("NULL",), ("a'b",), ("a",)]),
    "uuid": ([2950], [(bytes(16),), (bytes(15) + b"1",), (bytes(15) + b"2",)]),
    "json": ([3802], [('{"a": 1}',), ("1",), ("1.0",)]),
    "boolean": ([16], [(True,), (False,)]),
    "composite": ([23, 25], [(1, "a"), (1, "b"), (2, "a"), (2, "b")]),
    "double": ([701], [(-0.0,), (0.0,), (NAN,), (1.5,)]),
    "array": ([-23], [([],), ([1],), ([1, None],), ([None],)]),
}


@dataclass
class Model:
    """A table, and the changes that a slot would give for what was done to it."""

    rows: dict[Any, tuple[Key, Values, int]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def put(self, key: Key, values: Values, lsn: int) -> None:
        self.rows[_identity(key)] = (key, values, lsn)

    def insert(self, key: Key, values: Values, lsn: int) -> None:
        if _identity(key) in self.rows:
            return
        self.put(key, values, lsn)
        self.changes.append(Change(INSERT, lsn, new_key=key, values=values))

    def delete(self, key: Key, lsn: int) -> None:
        if (row := self.rows.pop(_identity(key), None)) is None:
            return
        self.changes.append(Change(DELETE, lsn, old_key=row[0]))

    def update(self, key: Key, step: Step, lsn: int) -> None:
        old = self.rows.get(_identity(key))
        if old is None:
            return
        moved = step.moves and repr(step.other) != repr(old[0])  # from -0 to 0 is a change, too
        if moved and _identity(step.other) in self.rows.keys() - {_identity(key)}:
            return
        new_key = step.other if moved else old[0]
        pairs = zip(step.keeps, old[1], step.values, strict=True)
        values = tuple(before if keep else after for keep, before, after in pairs)
        del self.rows[_identity(key)]
        self.put(new_key, values, lsn)
        # with identity full an update carries its old row even where the key stays
        old_key = old[0] if moved or step.is_full else None
        unchanged = step.keeps
        self.changes.append(
            Change(UPDATE, lsn, new_key=new_key, values=values, old_key=old_key, gone=unchanged)
        )

    def truncate(self, lsn: int) -> None:
        self.rows.clear()
        self.changes.append(Change(TRUNCATE, lsn))


@dataclass(frozen=True)
class Change:
    """One change as the stream gives it; `gone` says which values it did not carry."""

    op: int
    lsn: int
    new_key: Key | None = None
    values: Values = (None, None)
    old_key: Key | None = None
    gone: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class Step:
    """One statement; which of its parts count depends on `op`."""

    op: str
    key: Key
    other: Key
    values: Values
    keeps: tuple[bool, bool]
    moves: bool
    is_full: bool
    ends_transaction: bool
    ends_batch: bool


def _identity(key: Key) -> Any:
    """Give what Postgres compares: NaN is NaN, and -0 is 0."""
    return tuple("NaN" if part != part else repr(part + 0.0 if part == 0 else part) for part in key)


def _steps(keys: Sequence[Key]) -> st.SearchStrategy[list[Step]]:
    value = st.sampled_from([None, "", "x", "y", "z"])
    operations = ["insert"] * 4 + ["update"] * 8 + ["delete"] * 2 + ["truncate"]
    step = st.builds(
        Step,
        op=st.sampled_from(operations),
        key=st.sampled_from(keys),
        other=st.sampled_from(keys),
        values=st.tuples(value, value),
        keeps=st.tuples(st.booleans(), st.booleans()),
        moves=st.booleans(),
        is_full=st.booleans(),
        ends_transaction=st.booleans(),
        ends_batch=st.integers(0, 7).map(lambda number: number == 0),
    )
    return st.lists(step, min_size=1, max_size=40)


def _column(name: str, oid: int) -> SourceColumn:
    kind = SourceType(name, abs(oid), -1, is_array=oid < 0, is_enum=False)
    return SourceColumn(name, 1, kind, abs(oid), -1, nullable=True)


def _shape(oids: Sequence[int]) -> TableShape:
    key = [_column(f"k{at}", oid) for at, oid in enumerate(oids)]
    # the key stands apart from the table's first columns, and in another order
    columns = (_column("a", 25), *reversed(key), _column("b", 25))
    return TableShape(1, columns, tuple(column.name for column in key))


def _array(values: Sequence[Any], arrow_type: pa.DataType) -> pa.Array:
    if isinstance(arrow_type, pa.BaseExtensionType):
        storage = pa.array(values, arrow_type.storage_type)
        return pa.ExtensionArray.from_storage(arrow_type, storage)
    return pa.array(values, arrow_type)


def _batch(changes: Sequence[Change], shape: TableShape) -> ChangeBatch:
    key_types = [column.type.arrow for column in shape.key_columns]
    old = [(row, change.old_key) for row, change in enumerate(changes) if change.old_key]

    def new_key(place: int) -> pa.Array:
        parts = [change.new_key and change.new_key[place] for change in changes]
        missing = [change.new_key is None for change in changes]
        nulled = [None if gone else part for part, gone in zip(parts, missing, strict=True)]
        return _array(nulled, key_types[place])

    def value(place: int) -> pa.Array:
        return pa.array(
            [None if change.gone[place] else change.values[place] for change in changes],
            pa.string(),
        )

    gone = np.array([change.gone for change in changes], dtype=bool).reshape(-1, 2)
    columns = [value(0), *(new_key(at) for at in reversed(range(len(key_types)))), value(1)]
    nothing = np.zeros(len(changes), dtype=bool)
    return ChangeBatch(
        ops=np.array([change.op for change in changes], dtype=np.uint8),
        end_lsn=np.array([change.lsn for change in changes], dtype=np.int64),
        commit_micros=np.array([change.lsn for change in changes], dtype=np.int64),
        columns=columns,
        unchanged={
            at: gone[:, place]
            for place, at in enumerate((0, len(columns) - 1))
            if gone[:, place].any()
        },
        old_key=[
            _array([key[at] for _, key in old], key_types[at])
            for at in range(len(shape.key))
            if old
        ],
        old_rows=np.array([row for row, _ in old], dtype=np.int64),
        fenced_new=nothing,
        fenced_old=nothing,
        xids=np.zeros(len(changes), dtype=np.int64),
        new_key_text=[],
        nbytes=0,
    )


class Mirror:
    """What the warehouse does with a write, in plain Python."""

    def __init__(self, shape: TableShape) -> None:
        self._shape = shape
        self.rows: dict[Any, tuple[Key, Values, int]] = {}

    def apply(self, batch: ChangeBatch, *, again: bool = False) -> None:
        """Apply a batch as the product's warehouse does: look up, check, delete, insert."""
        rest, truncated = behind_last_truncate(batch)
        if truncated is not None:
            self.rows.clear()
        events = events_of(rest, self._shape)
        compacted = compact(rest, events)
        inserted, lookup = build_rows(rest, events, compacted, self._shape)
        looked_up = [] if lookup is None else self._look_up(lookup)
        touched = [_identity(key) for key in _keys(compacted.keys)]
        assert len(touched) == len(set(touched)), "a key is deleted twice"
        assert again or compacted.standing.tolist() == [key in self.rows for key in touched]
        for key in touched:
            self.rows.pop(key, None)
        for key, values, lsn in [*self._rows_of(inserted), *looked_up]:
            assert _identity(key) not in self.rows, "a key has two rows"
            self.rows[_identity(key)] = (key, values, lsn)

    def _look_up(self, lookup: Lookup) -> list[tuple[Key, Values, int]]:
        found = []
        wanted = [lookup.wanted.get(name) for name in ("a", "b")]
        rows, keys = self._rows_of(lookup.rows), _keys(lookup.keys)
        for at, ((key, values, lsn), old_key) in enumerate(zip(rows, keys, strict=True)):
            old = self.rows[_identity(old_key)][1]
            taken = tuple(
                before if mask is not None and mask[at].as_py() else value
                for mask, before, value in zip(wanted, old, values, strict=True)
            )
            found.append((key, taken, lsn))
        return found

    def _rows_of(self, table: pa.Table) -> list[tuple[Key, Values, int]]:
        keys = _keys([table[name].combine_chunks() for name in self._shape.key])
        assert table[COMMIT_COLUMN].null_count == 0
        a, b = (table[name].to_pylist() for name in ("a", "b"))
        lsns = table[LSN_COLUMN].to_pylist()
        return list(zip(keys, zip(a, b, strict=True), lsns, strict=True))


def _keys(arrays: Sequence[pa.Array]) -> list[Key]:
    plain = [array.storage if isinstance(array, pa.ExtensionArray) else array for array in arrays]
    return list(zip(*(array.to_pylist() for array in plain), strict=True))


def _play(steps: Sequence[Step], model: Model) -> list[list[Change]]:
    """Do the statements; gives the changes of each batch."""
    batches, lsn, done = [], 100, 0
    for step in steps:
        match step.op:
            case "insert":
                model.insert(step.key, step.values, lsn)
            case "update":
                model.update(step.key, step, lsn)
            case "delete":
                model.delete(step.key, lsn)
            case _:
                model.truncate(lsn)
        lsn += 10 * step.ends_transaction
        if step.ends_batch:
            batches.append(model.changes[done:])
            done = len(model.changes)
    return [batch for batch in [*batches, model.changes[done:]] if batch]


def _comparable(rows: dict[Any, tuple[Key, Values, int]]) -> dict[Any, Any]:
    # the key itself by its own text: -0 must not become 0
    return {identity: (repr(key), values, lsn) for identity, (key, values, lsn) in rows.items()}


@pytest.mark.parametrize("space", KEY_SPACES)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_changes_cut_into_any_batches_end_as_the_table_does(
    space: str, data: st.DataObject
) -> None:
    oids, keys = KEY_SPACES[space]
    shape, model = _shape(oids), Model()
    batches = _play(data.draw(_steps(keys)), model)
    mirror = Mirror(shape)
    for changes in batches:
        mirror.apply(_batch(changes, shape))
    assert _comparable(mirror.rows) == _comparable(model.rows)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(steps=_steps(KEY_SPACES["integer"][1]), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_joined_batches_are_worth_the_one_they_were_cut_from(
    steps: list[Step], cuts: list[int]
) -> None:
    shape, model = _shape(KEY_SPACES["integer"][0]), Model()
    _play(steps, model)
    whole = _batch(model.changes, shape)
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    parts = [whole.slice(low, high) for low, high in itertools.pairwise(places)]
    mirror = Mirror(shape)
    mirror.apply(concatenate(parts) if parts else whole)
    assert _comparable(mirror.rows) == _comparable(model.rows)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(steps=_steps(KEY_SPACES["composite"][1]))
def test_a_batch_that_is_applied_twice_changes_nothing_more(steps: list[Step]) -> None:
    shape, model = _shape(KEY_SPACES["composite"][0]), Model()
    whole = [replace(step, keeps=(False, False)) for step in steps]
    _play(whole, model)
    batch, mirror = _batch(model.changes, shape), Mirror(shape)
    mirror.apply(batch)
    mirror.apply(batch, again=True)
    assert _comparable(mirror.rows) == _comparable(model.rows)
