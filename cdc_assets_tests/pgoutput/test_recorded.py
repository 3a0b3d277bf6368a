"""Streams of real servers of each version, whole and damaged, against a slow reading of them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.errors import ProtocolError
from cdc_assets.pgoutput.decode import RawChanges, StreamDecoder
from cdc_assets.pgoutput.messages import Messages, read_begins, read_commits
from cdc_assets.pgoutput.tuples import Field
from cdc_assets.pgoutput.values import cut_text
from cdc_assets_tests.pgoutput.recording import VERSIONS, record, recorded
from cdc_assets_tests.pgoutput.reference import Columns, Reference, Row

BEFORE, BEHIND = b"t\0\0\0\1N\0\1", b"N\0\1t\0\0\0\1xI"  # bytes that look like more of a message
LONGEST_SLICE = 25


def messages_of(raw: Sequence[bytes]) -> Messages:
    """Lay messages over the middle of a buffer."""
    whole = pa.array([BEFORE, *raw, BEHIND], pa.binary())
    return Messages.from_arrow(whole.slice(1, len(raw)))


def read_slowly(raw: list[bytes]) -> Reference:
    reference = Reference()
    reference.read(raw)
    return reference


def read_fast(raw: list[bytes]) -> dict[int, list[Row]]:
    rows: dict[int, list[Row]] = {}
    messages = messages_of(raw)
    decoder = StreamDecoder(numbered=True)
    for changes in decoder.decode(messages, lambda relation: relation.table):
        rows.setdefault(changes.relation.oid, []).extend(_rows(changes))
    return rows


def _rows(changes: RawChanges) -> list[Row]:
    columns: Columns = tuple(
        (int(column.in_identity), column.name.encode(), column.type_oid, column.typmod % 2**32)
        for column in changes.relation.columns
    )
    assert changes.ordinals is not None
    new, old = _values(changes.new, changes), _values(changes.old, changes)
    old_at = {row: at for at, row in enumerate(changes.old_rows.tolist())}
    found = []
    for row, (op, transaction, ordinal) in enumerate(
        zip(changes.ops, changes.transactions.tolist(), changes.ordinals.tolist(), strict=True)
    ):
        at = old_at.get(row)
        mark = "" if at is None else "O" if changes.old_is_full[at] else "K"
        found.append(
            Row(
                message=-1,
                kind=chr(op),
                columns=columns,
                old_mark=mark,
                old=[] if at is None or not columns else old[at],
                new=new[row] if columns and chr(op) in "IU" else [],
                transaction=transaction,
                ordinal=ordinal,
            )
        )
    return found


def _values(fields: list[Field], changes: RawChanges) -> list[list[bytes | str]]:
    columns = []
    for field in fields:
        texts = cut_text(field, changes.messages.buffer).to_pylist()
        columns.append(
            [
                chr(kind) if text is None else text
                for kind, text in zip(field.kinds, texts, strict=True)
            ]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def agree(raw: list[bytes]) -> None:
    """Both read the same, or the product refuses a message that can't be read."""
    slow = read_slowly(raw)
    try:
        fast = read_fast(raw)
    except ProtocolError as error:
        _points_at_bad_message(error, raw, slow.bad)
    else:
        assert not slow.bad
        assert fast == {
            oid: [Row(**{**_fields(row), "message": -1}) for row in rows]
            for oid, rows in slow.rows.items()
        }


def _fields(row: Row) -> dict[str, object]:
    return {name: getattr(row, name) for name in Row.__dataclass_fields__}


def _points_at_bad_message(error: ProtocolError, raw: list[bytes], bad: set[int]) -> None:
    ends = len(BEFORE) + np.cumsum([len(message) for message in raw])
    blamed = [at for at in bad if ends[at] - len(raw[at]) <= error.offset <= ends[at]]
    assert any(error.kind == chr(raw[at][0]) if raw[at] else not error.kind for at in blamed), (
        error.message
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_a_recorded_stream_is_read_as_it_was_written(version: int) -> None:
    raw = [message for message in recorded(version) if message[:1] != b"A"]
    agree(raw)
    messages = messages_of(raw).framed(inside=False)
    commit_lsn, end_lsn = read_commits(messages)
    assert read_begins(messages).commit_lsn.tolist() == commit_lsn.tolist()
    assert (end_lsn > commit_lsn).all()
    assert {message[:1] for message in raw} == {bytes([kind]) for kind in b"BCRIUDTOYM"}


def test_servers_of_all_versions_say_the_same() -> None:
    def said(version: int) -> list[list[tuple[str, str, list[bytes | str], list[bytes | str]]]]:
        return [
            [(row.kind, row.old_mark, row.old, row.new) for row in rows]
            for rows in read_slowly(list(recorded(version))).rows.values()
        ]

    assert [said(version) for version in VERSIONS[1:]] == [said(VERSIONS[0])] * 3


def test_a_stream_that_is_recorded_again_says_the_same(postgres: EmbeddedPostgres) -> None:
    kinds = [bytes(message[:1]) for message in record(postgres) if message[:1] != b"A"]
    assert kinds == [message[:1] for message in recorded(18) if message[:1] != b"A"]


@st.composite
def slices(draw: st.DrawFn) -> list[bytes]:
    """Part of a recorded stream, with every relation that it knows."""
    raw = recorded(draw(st.sampled_from(VERSIONS)))
    start = draw(st.integers(0, len(raw) - 1))
    relations = {message[1:5]: message for message in raw[:start] if message[:1] == b"R"}
    return [*relations.values(), *raw[start : start + LONGEST_SLICE]]


@st.composite
def damaged(draw: st.DrawFn) -> list[bytes]:
    raw = draw(slices())
    for _ in range(draw(st.integers(1, 3))):
        at, other = (draw(st.integers(0, len(raw) - 1)) for _ in range(2))
        message = bytearray(raw[at])
        place = draw(st.integers(0, max(0, len(message) - 1)))
        match draw(st.sampled_from(["flip", "cut", "grow", "width", "drop", "move", "join"])):
            case "flip" if message:
                message[place] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del message[place:]
            case "grow":
                message[place:place] = draw(st.binary(min_size=1, max_size=9))
            case "width":
                width = draw(st.sampled_from([0, 1, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1]))
                message[place : place + 4] = struct.pack(">I", width)
            case "drop" if len(raw) > 1:
                del raw[at]
                continue
            case "move":
                raw.insert(other, raw[at])
            case _:
                message += raw[other]
        raw[at] = bytes(message)
    return raw


@settings(max_examples=500, deadline=None, derandomize=True)
@given(raw=damaged())
def test_a_damaged_stream_is_read_exactly_or_refused_where_it_is_damaged(raw: list[bytes]) -> None:
    agree(raw)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(raw=slices(), data=st.data())
def test_messages_in_any_order_are_read_exactly_or_refused(
    raw: list[bytes], data: st.DataObject
) -> None:
    agree(data.draw(st.permutations(raw)))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_message_cut_anywhere_is_refused(version: int) -> None:
    """Whatever follows it: a row that lacks its end is not read on in the next."""
    seen: dict[bytes, bytes] = {}
    relations: dict[bytes, bytes] = {}
    for message in recorded(version):
        if message[:1] == b"R":
            relations[message[1:5]] = message
        elif message[:1] in b"IUDT":
            seen.setdefault(message[:6], message)
    for message in seen.values():
        for cut in {*range(min(len(message), 60)), len(message) - 1}:
            raw = [*relations.values(), message[:cut], message[cut:], message]
            with pytest.raises(ProtocolError) as refused:
                read_fast(raw)
            _points_at_bad_message(refused.value, raw, read_slowly(raw).bad)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(raw=damaged())
def test_damaged_frames_are_refused_where_they_are(raw: list[bytes]) -> None:
    try:
        messages = messages_of(raw).framed(inside=False)
        read_begins(messages)
        read_commits(messages)
    except ProtocolError as error:
        everything = set(range(len(raw)))
        _points_at_bad_message(error, raw, everything)
