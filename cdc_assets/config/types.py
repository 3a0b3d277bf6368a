"""Types as a config names them: DuckDB's names, some of which are Postgres' as well."""

from __future__ import annotations

import re

# DuckDB's names, and the Postgres type that a column of each is kept as
TYPE_NAMES = {
    "boolean": "boolean",
    "bool": "boolean",
    "smallint": "smallint",
    "int2": "smallint",
    "integer": "integer",
    "int": "integer",
    "int4": "integer",
    "bigint": "bigint",
    "int8": "bigint",
    "real": "real",
    "float": "real",
    "float4": "real",
    "double": "double precision",
    "double precision": "double precision",
    "float8": "double precision",
    "varchar": "text",
    "text": "text",
    "string": "text",
    "blob": "bytea",
    "bytea": "bytea",
    "date": "date",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "timestamp with time zone": "timestamp with time zone",
    "interval": "interval",
    "uuid": "uuid",
    "json": "json",
}
_DECIMAL = re.compile(r"(?:decimal|numeric)\s*\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)")
_MAX_PRECISION = 38
# As lists they would have to be told from texts value by value
_NO_LISTS = frozenset({"uuid", "json", "interval"})


def type_name(text: str) -> str:
    """Give Postgres' name of a type that is declared by DuckDB's.

    Raises:
        ValueError: It is none that a column can have.
    """
    plain = " ".join(text.casefold().split())
    element = plain.removesuffix("[]").strip()
    is_list = element != plain
    if match := _DECIMAL.fullmatch(element):
        precision, scale = map(int, match.groups())
        if not 1 <= precision <= _MAX_PRECISION or scale > precision:
            raise ValueError(f"{text!r}: a decimal has 1 to {_MAX_PRECISION} digits")
        found = f"numeric({precision},{scale})"
    elif element not in TYPE_NAMES or (is_list and element in _NO_LISTS):
        raise ValueError(
            f"{text!r} is no type of a column: expected one of DuckDB's, such as double, varchar,"
            " decimal(18,6), timestamptz, varchar[]"
        )
    else:
        found = TYPE_NAMES[element]
    return found + "[]" * is_list


def column_type_name(text: str) -> str:
    """Give Postgres' name of a type that the config chooses, with as many dimensions as it has.

    Raises:
        ValueError: It is none that a column can have.
    """
    element = text.strip()
    dimensions = 0
    while element.endswith("[]"):
        element, dimensions = element.removesuffix("[]").strip(), dimensions + 1
    return type_name(element) + "[]" * dimensions
