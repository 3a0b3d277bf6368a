"""A column that is read in its binary form gives what its text gives, bit for bit."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import LiteralString, cast

import adbc_driver_manager
import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cdc_assets.changes.shape import SourceColumn
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.identifiers import quote
from cdc_assets.pgoutput.native import decode_read
from cdc_assets.pgoutput.values import UnfitValueError
from cdc_assets.source.arrow import ArrowSession
from cdc_assets.source.columns import read_columns
from cdc_assets.source.native import select
from cdc_assets.source.texts import text_of
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.values import KINDS, OLDER_KINDS, TYPES_SQL, Kind

Wire = bytes | None

UNFIT = {
    "numeric(10,2)": "NaN",
    "timestamp": "294276-12-31 23:59:59.999999",
    "timestamptz": "294247-01-10 04:00:54.775807+00",
    "int[]": "[0:1]={1,2}",
}
DOMAINS = (
    *("bool", "bytea", "name", "int2", "text", "json", "float4", "float8", "varchar(9)", "date"),
    *("char(4)", "time", "timestamp", "timestamptz", "uuid", "jsonb", "mood", '"char"', "oid"),
)


class Source:
    """A database, a session as copies are read with, and the columns of its one table."""

    def __init__(self, database: ScratchDatabase, stack: ExitStack) -> None:
        self.connection = stack.enter_context(closing(database.connect()))
        self.session = stack.enter_context(ArrowSession(database.dsn))

    def execute(self, sql: str, parameters: Sequence[object] = ()) -> None:
        self.connection.execute(cast("LiteralString", sql), parameters or None)

    def create(self, kind: str) -> None:
        self.execute("DROP TABLE IF EXISTS read")
        self.execute(f"CREATE TABLE read (value {kind})")

    def insert(self, texts: Sequence[str | None], kind: str) -> None:
        for text in texts:
            self.execute(f"INSERT INTO read VALUES (%s::text::{kind})", [text])

    def load(self, values: Sequence[Wire]) -> None:
        """Append values in the binary form that the type's receive function takes."""
        fields = (
            struct.pack(">hi", 1, -1)
            if value is None
            else struct.pack(">hi", 1, len(value)) + value
            for value in values
        )
        with self.connection.cursor().copy("COPY read FROM STDIN (FORMAT binary)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"".join(fields) + b"\xff\xff")

    def column(self) -> SourceColumn:
        ((oid,),) = self.connection.execute("SELECT 'read'::regclass::oid::bigint").fetchall()
        return read_columns(self.connection, [oid])[oid][0].column

    def read(self, expression: str) -> pa.Array:
        sql = f"SELECT {expression} FROM public.read ORDER BY ctid"
        with closing(self.session.batches(sql)) as batches:
            arrays = [batch.column(0) for batch in batches if batch.num_rows]
        return pa.concat_arrays(arrays)


def expect_the_same(source: Source) -> None:
    column = source.column()
    arrow_type = column.type.arrow
    outcomes = [
        outcome(lambda: decode_read(source.read(expression), arrow_type))  # noqa: B023
        for expression in (select(column), text_of(column, quote(column.name)))
    ]
    assert outcomes[0] == outcomes[1]


def outcome(read: Callable[[], pa.Array]) -> object:
    """Give each value's bits, or what the error says."""
    try:
        values = read()
    except UnfitValueError as error:
        return error.wanted
    except adbc_driver_manager.Error as error:
        return error.sqlstate
    values.validate()
    return values.type, bits(values)


def bits(values: pa.Array) -> list[object]:
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_list(values.type):
        elements, offsets = bits(values.flatten()), [0, *np.cumsum(lengths(values))]
        return [
            elements[start:end] if valid else None
            for start, end, valid in zip(
                offsets, offsets[1:], values.is_valid().to_pylist(), strict=False
            )
        ]
    if pa.types.is_interval(values.type):  # months, days and nanoseconds, not their sum
        return [value and tuple(value) for value in values.to_pylist()]
    if pa.types.is_floating(values.type) or pa.types.is_temporal(values.type):
        values = values.view(pa.int64() if values.type.bit_width == 64 else pa.int32())
    return list(values.to_pylist())


def lengths(values: pa.Array) -> list[int]:
    return list(pc.fill_null(pc.list_value_length(values), 0).to_pylist())


@pytest.fixture(scope="module")
def source(postgres: EmbeddedPostgres) -> Iterator[Source]:
    with ExitStack() as stack:
        database = ScratchDatabase(postgres, "native_reads")
        stack.callback(database.drop)
        database.create()
        opened = Source(database, stack)
        opened.execute(
            TYPES_SQL
        )  # behind the session's start: its driver does not know these types
        yield opened


@pytest.fixture(scope="module")
def older(older_postgres: EmbeddedPostgres) -> Iterator[Source]:
    with ExitStack() as stack:
        database = ScratchDatabase(older_postgres, "native_reads")
        stack.callback(database.drop)
        database.create()
        yield Source(database, stack)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.type)
def test_values_of_every_type(source: Source, kind: Kind) -> None:
    source.create(kind.type)
    source.insert([None, *kind.texts, None], kind.type)
    expect_the_same(source)


@pytest.mark.parametrize("kind", OLDER_KINDS, ids=lambda kind: kind.type)
def test_values_of_every_type_of_an_older_server(older: Source, kind: Kind) -> None:
    older.create(kind.type)
    older.insert([None, *kind.texts], kind.type)
    expect_the_same(older)


@pytest.mark.parametrize("base", DOMAINS)
def test_values_of_domains(source: Source, base: str) -> None:
    texts = {kind.type: kind.texts for kind in KINDS}
    names = {
        **{"bool": "boolean", "int2": "smallint", "float4": "real", "float8": "double precision"},
        **{"varchar(9)": "mood", "char(4)": "char(5)"},
    }
    source.execute("DROP TABLE IF EXISTS read")
    source.execute("DROP DOMAIN IF EXISTS outer_domain")
    source.execute("DROP DOMAIN IF EXISTS inner_domain")
    source.execute(f"CREATE DOMAIN inner_domain AS {base}")
    source.execute("CREATE DOMAIN outer_domain AS inner_domain")
    source.create("outer_domain")
    source.insert([None, *(text[:4000] for text in texts[names.get(base, base)])], base)
    expect_the_same(source)


@pytest.mark.parametrize(("kind", "text"), UNFIT.items())
def test_a_value_that_does_not_fit_is_the_same_error(source: Source, kind: str, text: str) -> None:
    source.create(kind)
    source.insert([None, text, None], kind)
    arrow_type = source.column().type.arrow
    said = outcome(lambda: decode_read(source.read(select(source.column())), arrow_type))
    assert isinstance(said, str)
    expect_the_same(source)


def packed(form: str, low: int, high: int) -> st.SearchStrategy[bytes]:
    return st.integers(low, high).map(lambda number: struct.pack(form, number))


# Whatever the type's receive function takes, extremes among it
_DAYS = packed(">i", -2_451_545, 2_145_031_948) | st.sampled_from(
    [struct.pack(">i", number) for number in (-(2**31), 2**31 - 1)]
)
_FIRST_MICROS, _END_MICROS = -211_813_488_000_000_000, 9_223_371_331_200_000_000
_LAST_KEPT = 2**63 - 1 - 946_684_800_000_000
_MICROS = st.one_of(
    packed(">q", _FIRST_MICROS, _LAST_KEPT - 1),
    st.sampled_from([struct.pack(">q", number) for number in (-(2**63), 2**63 - 1)]),
)
_UNFIT_MICROS = packed(">q", _LAST_KEPT, _END_MICROS - 1)
WIRES: dict[str, st.SearchStrategy[bytes]] = {
    "bool": st.sampled_from([b"\0", b"\1"]),
    "int2": st.binary(min_size=2, max_size=2),
    "int4": st.binary(min_size=4, max_size=4),
    "int8": st.binary(min_size=8, max_size=8),
    "float4": st.binary(min_size=4, max_size=4) | st.just(b"\xff\x80\0\1") | st.just(b"\x80\0\0\0"),
    "float8": st.binary(min_size=8, max_size=8)
    | st.sampled_from([b"\xff\xf8" + bytes(6), b"\x7f\xf0" + bytes(5) + b"\1", b"\x80" + bytes(7)]),
    "date": _DAYS,
    "time": packed(">q", 0, 86_400_000_000),
    "timestamp": _MICROS,
    "timestamptz": _MICROS,
    "uuid": st.binary(min_size=16, max_size=16),
    "bytea": st.binary(max_size=40),
    "text": st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))).map(
        str.encode
    ),
    "char(3)": st.text("a \u00e9\U0001f600", max_size=3).map(str.encode),
    '"char"': st.binary(min_size=1, max_size=1),
    "oid": st.binary(min_size=4, max_size=4),
}
COMMON = {
    "deadline": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


def rows(of: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[Wire]]:
    return st.lists(st.none() | of, min_size=1, max_size=60)


@pytest.mark.parametrize("kind", WIRES)
def test_random_values(source: Source, kind: str) -> None:
    source.create(kind)

    @settings(max_examples=25, **COMMON)
    @given(values=rows(WIRES[kind]))
    def check(values: list[Wire]) -> None:
        source.execute("TRUNCATE read")
        source.load(values)
        expect_the_same(source)

    check()


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
def test_random_moments_past_the_range(source: Source, kind: str) -> None:
    source.create(kind)

    @settings(max_examples=25, **COMMON)
    @example(values=[struct.pack(">q", _LAST_KEPT)], unfit=struct.pack(">q", _LAST_KEPT))
    @given(values=rows(_MICROS), unfit=_UNFIT_MICROS)
    def check(values: list[Wire], unfit: bytes) -> None:
        source.execute("TRUNCATE read")
        source.load([*values, unfit])
        expect_the_same(source)
        with pytest.raises(UnfitValueError):
            decode_read(source.read(select(source.column())), source.column().type.arrow)

    check()


LATIN1 = "".join(map(chr, [*range(1, 128), *range(160, 256)]))
ENCODED = {
    "LATIN1": LATIN1.encode("latin1"),
    "EUC_JP": "\u65e5\u672c\u8a9e".encode("euc_jp"),
    "SQL_ASCII": "\u00e9\U0001f600".encode(),
    "of no encoding": b"\xe9\xff",
}


@pytest.mark.parametrize("encoding", ENCODED)
def test_databases_of_other_encodings(postgres: EmbeddedPostgres, encoding: str) -> None:
    text = ENCODED[encoding]
    encoding = "SQL_ASCII" if encoding == "of no encoding" else encoding
    with ExitStack() as stack:
        database = ScratchDatabase(postgres, "native_encoded")
        stack.callback(database.drop)
        with closing(psycopg.connect(postgres.dsn(), autocommit=True)) as admin:
            sql = f"CREATE DATABASE native_encoded ENCODING '{encoding}' TEMPLATE template0"
            admin.execute(cast("LiteralString", f"{sql} LOCALE 'C'"))
        source = Source(database, stack)
        for kind in ("text", "varchar", "char(300)", "json", "name"):
            source.execute("SET client_encoding = 'UTF8'")
            source.create(kind)
            source.execute(f"SET client_encoding = '{encoding}'")
            source.load([b'"%s"' % text[-60:] if kind in ("json", "name") else text, None])
            source.execute("SET client_encoding = 'UTF8'")
            expect_the_same(source)
