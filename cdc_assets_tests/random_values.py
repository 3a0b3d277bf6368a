"""Random values of every type."""

from __future__ import annotations

import json

from hypothesis import strategies as st

from cdc_assets_tests.values import Kind, Text

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)
INTEGER = st.integers(-(2**63), 2**63 - 1)
_INT = st.integers(-(2**31), 2**31 - 1)
# as much as fits nanoseconds in 64 bits
_INTERVAL = st.tuples(_INT, _INT, st.integers(-(2**63 // 1000), 2**63 // 1000)).map(
    lambda parts: "{} mons {} days {} microseconds".format(*parts)
)
_JSON = st.recursive(
    st.none() | st.booleans() | INTEGER | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
).map(json.dumps)
# Values that a type can hold beyond its listed ones, as text
MORE: dict[str, st.SearchStrategy[str]] = {
    "bigint": INTEGER.map(str),
    "integer": st.integers(-(2**31), 2**31 - 1).map(str),
    "text": TEXT,
    "bytea": st.binary(max_size=40).map(lambda value: "\\x" + value.hex()),
    "double precision": st.floats().map(repr),
    "real": st.floats(width=32).map(repr),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False).map(str),
    "numeric(10,2)": st.decimals(-99_999_999, 99_999_999, places=2).map(str),
    "numeric(38,0)": st.integers(-(10**38) + 1, 10**38 - 1).map(str),
    "timestamp": st.integers(-210_866_803_200, 9_223_372_036_854).map(
        lambda seconds: f"epoch {seconds}"
    ),
    "date": st.integers(-2_440_587, 2_145_000_000).map(lambda days: f"day {days}"),
    "uuid": st.uuids().map(str),
    "time": st.times().map(str),
    "text[]": st.lists(st.one_of(st.none(), TEXT), max_size=4).map(lambda parts: _array(parts)),
    "bigint[]": st.lists(INTEGER, max_size=4).map(
        lambda numbers: "{" + ",".join(map(str, numbers)) + "}"
    ),
    "interval": _INTERVAL,
    "interval[]": st.lists(st.none() | _INTERVAL, max_size=3).map(lambda parts: _array(parts)),
    "json": _JSON,
    "jsonb": _JSON,
    "pair": st.tuples(_INT, st.none() | TEXT).map(lambda pair: _record(pair)),
    "pair[]": st.lists(st.none() | st.tuples(_INT, st.none() | TEXT).map(lambda p: _record(p))).map(
        lambda parts: _array(parts)
    ),
    "hstore": st.dictionaries(TEXT, st.none() | TEXT, max_size=3).map(lambda pairs: _hstore(pairs)),
    "int4range": st.tuples(_INT, _INT)
    .map(lambda ends: "[{},{}]".format(*sorted(ends)))
    .filter(lambda text: not text.endswith(f"{2**31 - 1}]")),
    "bit(5)": st.integers(0, 31).map(lambda number: f"{number:05b}"),
}


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _record(pair: tuple[int, str | None]) -> str:
    number, text = pair
    return f"({number},{'' if text is None else _quoted(text)})"


def _hstore(pairs: dict[str, str | None]) -> str:
    return ",".join(
        f"{_quoted(key)}=>{'NULL' if value is None else _quoted(value)}"
        for key, value in pairs.items()
    )


def _array(parts: list[str | None]) -> str:
    escaped = ["NULL" if part is None else _quoted(part) for part in parts]
    return "{" + ",".join(escaped) + "}"


def values(kind: Kind, *, nullable: bool = True) -> st.SearchStrategy[Text]:
    """Draw a text of the type, listed or not; what SQL makes a value of it gives `typed_value`."""
    listed = st.sampled_from([text for text in kind.texts if len(text) < 4000])
    more = [MORE[kind.type]] if kind.type in MORE else []
    return st.one_of(*([st.none()] if nullable else []), listed, *more)


def typed_value(kind_type: str, text: Text) -> tuple[str, Text]:
    """Give an expression for a drawn value, and its parameter."""
    if text is not None and text.startswith("epoch "):
        return f"(timestamp '1970-01-01' + %s::text::interval)::{kind_type}", text[6:] + " seconds"
    if text is not None and text.startswith("day "):
        return "date '1970-01-01' + %s::text::int", text[4:]
    return f"%s::text::{kind_type}", text
