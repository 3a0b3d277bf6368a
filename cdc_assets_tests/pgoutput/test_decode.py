"""The decoder by itself: bytes of a real slot, and bytes that no server would send."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_assets.errors import ProtocolError
from cdc_assets.identifiers import TableName
from cdc_assets.pgoutput.decode import RawChanges, StreamDecoder
from cdc_assets.pgoutput.messages import Messages, read_begins, read_commits
from cdc_assets.pgoutput.relations import Relation, parse_relation, parse_truncate
from cdc_assets.pgoutput.tuples import Field
from cdc_assets.pgoutput.types import TIME, TIMESTAMP, TIMESTAMPTZ
from cdc_assets.pgoutput.values import UnfitValueError, cut_text, decode_text
from cdc_assets_tests.database import ScratchDatabase

Shown = list[tuple[str, list[str | None], list[str | None]]]


def begin(commit_lsn: int = 100, xid: int = 7) -> bytes:
    return b"B" + struct.pack(">QqI", commit_lsn, 0, xid)


def commit(commit_lsn: int = 100, end_lsn: int = 110) -> bytes:
    return b"C\0" + struct.pack(">QQq", commit_lsn, end_lsn, 0)


def relation(oid: int = 1, *names: str, identity: str = "d", name: str = "t") -> bytes:
    columns = b"".join(
        b"\1" + column.encode() + b"\0" + struct.pack(">Ii", 25, -1) for column in names
    )
    head = b"R" + struct.pack(">I", oid) + b"public\0" + name.encode() + b"\0" + identity.encode()
    return head + struct.pack(">H", len(names)) + columns


def values(*texts: bytes | type[Ellipsis] | None) -> bytes:
    """A tuple; None is null and `...` an unchanged value."""
    body = b""
    for text in texts:
        if isinstance(text, bytes):
            body += b"t" + struct.pack(">I", len(text)) + text
        else:
            body += b"n" if text is None else b"u"
    return struct.pack(">H", len(texts)) + body


def change(kind: str, *tuples: bytes, oid: int = 1) -> bytes:
    return kind.encode() + struct.pack(">I", oid) + b"".join(tuples)


def truncate(*oids: int) -> bytes:
    return b"T" + struct.pack(f">IB{len(oids)}I", len(oids), 0, *oids)


GOOD = [
    begin(),
    relation(1, "id", "note"),
    change("I", b"N" + values(b"1", b"a")),
    change("U", b"N" + values(b"1", ...)),
    change("U", b"K" + values(b"1", None), b"N" + values(b"2", ...)),
    relation(2, "id", name="u", identity="f"),
    change("I", b"N" + values(b""), oid=2),
    change("U", b"O" + values(b"1"), b"N" + values(None), oid=2),
    change("D", b"O" + values(b"1"), oid=2),
    change("D", b"K" + values(b"2", None)),
    truncate(1, 2),
    b"O" + struct.pack(">Q", 1) + b"elsewhere\0",
    b"Y" + struct.pack(">I", 9) + b"public\0mood\0",
    b"M\1" + struct.pack(">Q", 1) + b"prefix\0" + struct.pack(">I", 2) + b"hi",
    commit(),
]


def messages_of(raw: Sequence[bytes]) -> Messages:
    return Messages.from_arrow(pa.array(raw, pa.binary()))


def decode(raw: Sequence[bytes], decoder: StreamDecoder | None = None) -> list[RawChanges]:
    decoder = decoder or StreamDecoder()
    return list(decoder.decode(messages_of(raw), lambda relation: relation.table))


def shown(changes: RawChanges) -> Shown:
    """Give kind, new and old tuple per row, as texts; unchanged is `...`, no tuple is []."""
    new = _texts(changes.new, changes)
    old = dict(zip(changes.old_rows.tolist(), _texts(changes.old, changes), strict=False))
    return [
        (chr(op), new[row] if op in b"IU" else [], old.get(row, []))
        for row, op in enumerate(changes.ops)
    ]


def _texts(fields: list[Field], changes: RawChanges) -> list[list[str | None]]:
    columns = []
    for field in fields:
        texts = cut_text(field, changes.messages.buffer).to_pylist()
        columns.append(
            [
                "..." if kind == ord("u") else None if text is None else text.decode()
                for kind, text in zip(field.kinds, texts, strict=True)
            ]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def test_every_kind_of_message_of_a_real_slot_is_read(database: ScratchDatabase) -> None:
    database.execute("CREATE TABLE plain (id int PRIMARY KEY, note text)")
    database.execute("CREATE TABLE whole (id int NOT NULL, note text)")
    database.execute("ALTER TABLE whole REPLICA IDENTITY FULL")
    database.execute("ALTER TABLE plain ALTER note SET STORAGE EXTERNAL")
    database.execute("CREATE PUBLICATION p FOR TABLE plain, whole")
    database.execute(f"SELECT pg_create_logical_replication_slot('{database.name}', 'pgoutput')")
    database.execute("INSERT INTO plain VALUES (1, repeat('x', 3000)), (2, ''), (3, NULL)")
    database.execute("UPDATE plain SET id = id + 10 WHERE id < 3")
    database.execute("DELETE FROM plain WHERE id = 3")
    database.execute(
        "INSERT INTO whole VALUES (1, 'é'); UPDATE whole SET note = NULL; DELETE FROM whole"
    )
    database.execute("SELECT pg_logical_emit_message(true, 'prefix', 'content')")
    database.execute("TRUNCATE plain, whole")
    rows = database.execute(
        f"SELECT data, xid::text::bigint FROM pg_logical_slot_get_binary_changes('{database.name}',"
        " NULL, NULL, 'proto_version', '1', 'publication_names', 'p', 'messages', 'true')"
    )
    raw = [data for data, _ in rows]
    assert {chr(message[0]) for message in raw} == set("BCRIUDTM")
    plain, whole = sorted(decode(raw), key=lambda found: found.relation.table)
    long = "x" * 3000
    assert shown(plain) == [
        ("I", ["1", long], []),
        ("I", ["2", ""], []),
        ("I", ["3", None], []),
        ("U", ["11", "..."], ["1", None]),
        ("U", ["12", ""], ["2", None]),
        ("D", [], ["3", None]),
        ("T", [], []),
    ]
    assert shown(whole) == [
        ("I", ["1", "é"], []),
        ("U", ["1", None], ["1", "é"]),
        ("D", [], ["1", None]),
        ("T", [], []),
    ]
    assert plain.relation.table == TableName("public", "plain")
    assert [column.in_identity for column in plain.relation.columns] == [True, False]
    assert (whole.relation.replica_identity, plain.relation.replica_identity) == ("f", "d")
    assert not plain.old_is_full.any()
    assert whole.old_is_full.all()
    xids = read_begins(messages_of(raw)).xid
    assert xids.tolist() == list(dict.fromkeys(xid for _, xid in rows))
    assert (np.diff(plain.transactions) >= 0).all()


def test_begin_and_commit_carry_the_servers_positions(database: ScratchDatabase) -> None:
    database.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
    database.execute(f"SELECT pg_create_logical_replication_slot('{database.name}', 'pgoutput')")
    database.execute("INSERT INTO t VALUES (1)")
    rows = database.execute(
        "SELECT data, lsn - '0/0'::pg_lsn FROM pg_logical_slot_peek_binary_changes"
        f"('{database.name}', NULL, NULL, 'proto_version', '1', 'publication_names', 'p')"
    )
    messages = messages_of([data for data, _ in rows])
    begins, (commit_lsn, end_lsn) = read_begins(messages), read_commits(messages)
    assert begins.commit_lsn.tolist() == commit_lsn.tolist()
    assert end_lsn.tolist() == [int(rows[-1][1])]
    ((now,),) = database.execute("SELECT (extract(epoch FROM now()) * 1000000)::bigint")
    assert 0 <= now - int(begins.commit_micros[0]) < 600_000_000


def test_good_messages_decode() -> None:
    first, second = decode(GOOD)
    assert [op for op, *_ in shown(first)] == list("IUUDT")
    assert [op for op, *_ in shown(second)] == list("IUDT")


def test_a_relation_with_another_shape_in_the_middle_splits_the_piece() -> None:
    decoder = StreamDecoder()
    raw = [
        begin(),
        relation(1, "id"),
        change("I", b"N" + values(b"1")),
        relation(2, "id", name="other"),
        change("I", b"N" + values(b"9"), oid=2),
        relation(1, "id"),  # the same again: no new group
        change("I", b"N" + values(b"2")),
        commit(),
        begin(),
        relation(1, "id", "note"),
        change("I", b"N" + values(b"3", b"x")),
        change("I", b"N" + values(b"8"), oid=2),
        relation(1, "note"),
        change("I", b"N" + values(b"y")),
        commit(),
    ]
    groups = [group for group in decode(raw, decoder) if group.relation.oid == 1]
    assert [shown(group) for group in groups] == [
        [("I", ["1"], []), ("I", ["2"], [])],
        [("I", ["3", "x"], [])],
        [("I", ["y"], [])],
    ]
    assert [group.transactions.tolist() for group in groups] == [[0, 0], [1], [1]]
    # the next piece goes on with the last shape
    (later,) = decode([change("I", b"N" + values(b"z"))], decoder)
    assert [column.name for column in later.relation.columns] == ["note"]


def test_a_piece_that_starts_inside_a_transaction_counts_it_as_the_first() -> None:
    decoder = StreamDecoder()
    insert = change("I", b"N" + values(b"1"))
    decode([begin(), relation(1, "id"), insert], decoder)
    (group,) = decode([insert, commit(), begin(), insert, insert, commit()], decoder)
    assert group.transactions.tolist() == [0, 1, 1]


def test_relations_that_nobody_wants_are_passed_over() -> None:
    def table_of(found: Relation) -> TableName | None:
        return found.table if found.table.name == "u" else None

    (group,) = StreamDecoder().decode(messages_of(GOOD), table_of)
    assert group.relation.oid == 2


def test_no_messages_are_no_changes() -> None:
    assert decode([]) == []
    assert decode([begin(), commit()]) == []


@pytest.mark.parametrize(
    "bad",
    [
        [b""],
        [b"Z"],
        [change("I", b"N" + values(b"1"))],
        [relation(1, "id"), b"I"],
        [relation(1, "id"), b"I\0\0\0"],
        [relation(1, "id"), b"I\0\0\0\1"],
        [relation(1, "id"), change("I", b"K" + values(b"1"))],
        [relation(1, "id"), change("D", b"N" + values(b"1"))],
        [relation(1, "id"), change("U", b"K" + values(b"1"))],
        [relation(1, "id"), change("I", b"N" + values(b"1", b"2"))],
        [relation(1, "id"), change("I", b"N" + values())],
        [relation(1, "id"), change("I", b"N" + values(b"1")) + b"x"],
        [relation(1, "id"), change("I", b"N" + values(b"1"))[:-1]],
        [relation(1, "id"), change("I", b"N\0\1b\0\0\0\0011")],
        [relation(1, "id"), change("I", b"N\0\1t\xff\xff\xff\xff1")],
        [relation(1, "id")[:-1]],
        [relation(1, "id") + b"\0"],
        [relation(1, "id", identity="x")],
        [truncate(1)],
        [relation(1, "id"), truncate(1, 2)],
        [relation(1, "id"), truncate(1)[:-2]],
        [relation(1, "id"), b"T" + struct.pack(">IB", 2**32 - 1, 0)],
    ],
)
def test_malformed_messages_are_refused(bad: list[bytes]) -> None:
    with pytest.raises(ProtocolError):
        decode(bad)


def test_a_short_message_does_not_borrow_from_the_next() -> None:
    whole = change("I", b"N" + values(b"12345"))
    for cut in range(1, len(whole)):
        for next_message in (b"", b"O", whole, whole[cut:]):
            raw = [relation(1, "id"), whole[:cut], *([next_message] if next_message else [])]
            with pytest.raises(ProtocolError):
                decode(raw)


def test_begin_and_commit_of_another_length_are_refused() -> None:
    with pytest.raises(ProtocolError):
        read_begins(messages_of([begin() + b"\0"]))
    with pytest.raises(ProtocolError):
        read_commits(messages_of([commit()[:-1]]))


def _decodes_within_its_messages(raw: Sequence[bytes]) -> None:
    with suppress(ProtocolError):
        messages = messages_of(raw)
        for group in StreamDecoder().decode(messages, lambda relation: relation.table):
            rows = len(group.ops)
            assert all(len(field.kinds) == rows for field in group.new)
            for field in [*group.new, *group.old]:
                _lies_within(field, messages)
                assert len(cut_text(field, messages.buffer)) == len(field.kinds)
    for read in (read_begins, read_commits):
        with suppress(ProtocolError):
            read(messages_of(raw))


def _lies_within(field: Field, messages: Messages) -> None:
    starts, lengths = field.starts[field.present], field.lengths[field.present]
    if not len(starts):
        return
    # the message that holds each start holds the whole text
    holder = np.searchsorted(messages.starts, starts, side="right") - 1
    assert (starts + lengths <= messages.ends[holder]).all()


KINDS = st.sampled_from([b"B", b"C", b"R", b"I", b"U", b"D", b"T", b"O", b"Y", b"M", b"A"])
ANY_MESSAGE = st.one_of(
    st.binary(max_size=40),
    st.builds(bytes.__add__, KINDS, st.binary(max_size=40)),
    st.builds(
        lambda kind, oid, rest: kind + struct.pack(">I", oid) + rest,
        KINDS,
        st.sampled_from([1, 2]),
        st.binary(max_size=30),
    ),
    st.sampled_from(GOOD),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(raw=st.lists(ANY_MESSAGE, max_size=12))
def test_any_bytes_decode_or_are_refused(raw: list[bytes]) -> None:
    _decodes_within_its_messages(raw)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(data=st.data(), faults=st.integers(1, 3))
def test_any_damage_to_good_messages_decodes_or_is_refused(
    data: st.DataObject, faults: int
) -> None:
    raw = list(GOOD)
    for _ in range(faults):
        at = data.draw(st.integers(0, len(raw) - 1))
        message = bytearray(raw[at])
        place = data.draw(st.integers(0, max(0, len(message) - 1)))
        match data.draw(st.sampled_from(["flip", "cut", "grow", "drop", "repeat"])):
            case "flip" if message:
                message[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del message[place:]
            case "grow":
                message[place:place] = data.draw(st.binary(min_size=1, max_size=4))
            case "drop":
                message = bytearray(b"O")
            case _:
                raw.insert(at, raw[at])
        raw[at] = bytes(message)
    _decodes_within_its_messages(raw)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(message=st.binary(max_size=60))
def test_any_relation_and_truncate_bytes_parse_or_are_refused(message: bytes) -> None:
    for kind, parse in ((b"R", parse_relation), (b"T", parse_truncate)):
        with suppress(ProtocolError):
            parse(kind + message)


TYPES = [
    pa.bool_(), pa.int32(), pa.float64(), pa.decimal128(10, 2), pa.string(), pa.binary(),
    pa.uuid(), pa.json_(pa.string()), pa.date32(), TIME, TIMESTAMP, TIMESTAMPTZ,
]  # fmt: skip
TEXTS = [
    b"", b"1", b"t", b"NaN", b"-infinity", b"99999999999999999999.5", b"\\x00ff", b"24:00:00",
    b"12:00:00.5", b"2024-02-29", b"0044-03-15 BC", b"2024-02-29 12:00:00.123456+00", b"{1,NULL}",
    b'{"a\\"b",NULL}', b"{{1,2},{3,4}}", b"[0:1]={1,2}", b"6ba7b810-9dad-11d1-80b4-00c04fd430c8",
]  # fmt: skip
ANY_TEXT = st.one_of(
    st.none(),
    st.binary(max_size=12),
    st.sampled_from(TEXTS),
    st.builds(
        lambda text, at, more, cut: text[:at] + more + text[at + cut :],
        st.sampled_from(TEXTS),
        st.integers(0, 36),
        st.one_of(st.binary(max_size=3), st.sampled_from(TEXTS)),
        st.integers(0, 3),
    ),
)


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(texts=st.lists(ANY_TEXT, max_size=4), kind=st.sampled_from(TYPES), is_array=st.booleans())
def test_any_text_is_a_value_of_its_type_or_refused(
    texts: list[bytes | None], kind: pa.DataType, is_array: bool
) -> None:
    wanted = pa.list_(kind) if is_array else kind
    with suppress(UnfitValueError):
        values = decode_text(pa.array(texts, pa.binary()), wanted)
        assert (values.type, len(values)) == (wanted, len(texts))
        assert [value is None for value in texts] == values.is_null().to_pylist()
        if kind != TIME:  # 24:00:00 is one in Postgres
            values.validate(full=True)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (pa.binary(), b"f"),
        (pa.binary(), b""),
        (pa.uuid(), b"6ba7b810"),
        (TIME, b"1"),
        (TIME, b"2024-02-29 12:00:00"),
        (pa.date32(), b"2024-13-01 BC"),
        (pa.date32(), b"999999999-01-01"),
        (TIMESTAMP, b"2024-13-01 00:00:00"),
        (pa.list_(pa.string()), b'{"a}'),
    ],
)
def test_text_that_no_server_writes_is_refused(kind: pa.DataType, text: bytes) -> None:
    with pytest.raises(UnfitValueError):
        decode_text(pa.array([text, None], pa.binary()), kind)
