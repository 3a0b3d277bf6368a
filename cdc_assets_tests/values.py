"""Values that must survive, by type, as texts that Postgres reads."""

from __future__ import annotations

from dataclasses import dataclass

from cdc_assets.warehouse.zeros import KEPT

Text = str | None

TYPES_SQL = """
CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree;
CREATE EXTENSION cube; CREATE EXTENSION seg; CREATE EXTENSION isn; CREATE EXTENSION intarray;
CREATE EXTENSION lo;
CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"', 'a,b', 'NULL', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE TYPE nested AS (p pair, list text[], t timestamptz);
CREATE DOMAIN short AS varchar(5);
CREATE DOMAIN price AS numeric(10,2) CHECK (VALUE IS NULL OR VALUE >= 0);
CREATE DOMAIN moods AS mood[];
CREATE DOMAIN ints AS int[];
CREATE DOMAIN maybe_pair AS pair;
CREATE TYPE float_range AS RANGE (subtype = float8);
CREATE DOMAIN shorter AS short CHECK (length(VALUE) < 4);
CREATE DOMAIN shorters AS shorter[];
CREATE TYPE deep AS (n nested, pairs pair[], prices price[], grid text[], label shorter);
CREATE TYPE mood_range AS RANGE (subtype = mood);
"""

MADE_TYPES = {
    *("mood", "short", "price", "pair", "maybe_pair", "nested", "float_range", "ints", "moods"),
    *("shorter", "shorters", "deep", "mood_range", "mood_multirange", "float_multirange"),
    *("hstore", "ltree", "citext", "lquery", "ltxtquery", "cube", "seg", "query_int", "lo"),
    *("ean13", "isbn", "isbn13", "issn", "ismn", "upc"),
}

CODE_POINTS = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x11000), 0x1F600, 0x10FFFF]))
_DIGITS = "12345678901234567890123456789012345678901234567890"
_TEXTS = (
    *("", " ", "NULL", "null", "\\N", "\\", '"', "'", "''", "a'b\"c", "{}", "{a,b}", "$1", "%s"),
    *("\t\r\n", "\x01\x7f", "\u00e9", "e\u0301", "\u65e5\u672c\u8a9e", "\U0001f600", "\ufeffbom"),
    *("\u2028", "\ufffd", "x" * 3000),
)
_TIMES = ("00:00:00", "23:59:59.999999", "24:00:00", "12:34:56.7", "00:00:00.000001")
_DATES = (
    *("2024-02-29", "infinity", "-infinity", "4713-01-01 BC", "4714-11-24 BC", "0001-12-31 BC"),
    *("0001-01-01", "0005-02-29 BC", "1582-10-10", "9999-12-31", "10000-01-01", "5874897-12-31"),
    *("1969-12-31", "1970-01-01", "1900-02-28", "2000-01-01", "20000-02-29"),
)
_TIMESTAMPS = (
    *("2024-02-29 12:34:56.789", "infinity", "-infinity", "4713-01-01 00:00:00.5 BC"),
    *("4714-11-24 00:00:00 BC", "0001-12-31 23:59:59.999999 BC", "0001-01-01 00:00:00"),
    *("9999-12-31 23:59:59.999999", "10000-01-01 00:00:00", "294246-12-31 23:59:59.999999"),
    *("1969-12-31 23:59:59.999999", "1970-01-01 00:00:00", "1999-12-31 23:59:59.000001"),
)
_INTERVALS = (
    *("0", "1 mon", "30 days", "720:00:00", "1 mon -30 days", "29 days 24:00:00", "-1 mon"),
    *("-1 year 2 mons -3 days 04:05:06.789", "1 year 2 mons 3 days -04:05:06.7", "1 day -00:00:01"),
    *("178956970 years 7 mons 2147483647 days 2562047:47:16.854775", "00:00:00.000001"),
    *("-178956970 years -8 mons -2147483648 days -2562047:47:16.854775", "-00:00:00.000001"),
)
_FLOATS = (
    "0",
    *(("-0",) if KEPT else ()),
    "NaN",
    "Infinity",
    "-Infinity",
    "0.1",
    "1",
    "-1.5",
    "1e15",
    "1e-5",
    "123456789",
)
_JSONS = (
    *("{}", "[]", "null", '""', "0", '{"a": 1, "a": 2}', '{"a":  [1, 2.50, 1e400]}', "[null]"),
    *(
        '"\\u00e9\\n\\""',
        '{"": {"\\ud83d\\ude00": "\U0001f600"}}',
        "123456789012345678901234567890.10",
    ),
    *("-0", "-0.0", "1E+2", "[" * 200 + "]" * 200),
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A type with values.

    Attributes:
        type: As a column declares it.
        warehouse: The mirror column's type.
        texts: Values; NULL is tried with every type.
    """

    type: str
    warehouse: str
    texts: tuple[str, ...]

    @property
    def is_made(self) -> bool:
        """Whether the database must first make the type."""
        return self.type.removesuffix("[]") in MADE_TYPES


KINDS = (
    Kind("smallint", "SMALLINT", ("0", "-32768", "32767")),
    Kind("integer", "INTEGER", ("0", "-2147483648", "2147483647")),
    Kind("bigint", "BIGINT", ("0", "-9223372036854775808", "9223372036854775807")),
    Kind("real", "FLOAT", (*_FLOATS, "3.4028235e+38", "-3.4e38", "1e-45", "1.1754944e-38")),
    Kind(
        "double precision",
        "DOUBLE",
        (*_FLOATS, "1.7976931348623157e308", "5e-324", "0.30000000000000004", "9007199254740993"),
    ),
    Kind("numeric(10,2)", "DECIMAL(10,2)", ("0", "-99999999.99", "99999999.99", "0.01", "-0.01")),
    Kind("numeric(4,4)", "DECIMAL(4,4)", ("0.0001", "-0.9999")),
    Kind("numeric(38,0)", "DECIMAL(38,0)", ("9" * 38, "-" + "9" * 38, "0")),
    Kind("numeric(38,38)", "DECIMAL(38,38)", ("0." + "9" * 38, "-0." + "0" * 37 + "1")),
    Kind("numeric(39,2)", "VARCHAR", ("9" * 37 + ".99", "NaN")),
    Kind("numeric(3,-2)", "VARCHAR", ("12300", "-99900", "NaN")),
    Kind("numeric(2,4)", "VARCHAR", ("0.0012", "-0.0099")),
    Kind(
        "numeric",
        "VARCHAR",
        (
            "0",
            "0.00",
            "1.10",
            "NaN",
            "Infinity",
            "-Infinity",
            _DIGITS * 2,
            f"-{_DIGITS}.{_DIGITS}",
            "1e-20",
            "1e100",
        ),
    ),
    Kind("boolean", "BOOLEAN", ("t", "f")),
    Kind("text", "VARCHAR", (*_TEXTS, CODE_POINTS)),
    Kind("varchar(3000)", "VARCHAR", _TEXTS),
    Kind("char(5)", "VARCHAR", ("", "a", "a    ", "abcde", " a", "\u00e9")),
    Kind('"char"', "VARCHAR", ("a", "", " ")),
    Kind("name", "VARCHAR", ("", "x" * 63, 'a"b')),
    Kind("citext", "VARCHAR", ("Ab", "aB")),
    Kind("date", "DATE", _DATES),
    Kind("time", "TIME", _TIMES),
    Kind("time(3)", "TIME", _TIMES),
    Kind("timetz", "VARCHAR", ("00:00:00+00", "24:00:00-15:59", "12:34:56.789+05:30")),
    Kind("timestamp", "TIMESTAMP", _TIMESTAMPS),
    Kind("timestamp(0)", "TIMESTAMP", _TIMESTAMPS[:-4]),
    Kind(
        "timestamptz",
        "TIMESTAMP WITH TIME ZONE",
        (*_TIMESTAMPS, "2024-03-31 03:30:00+02", "2024-01-01 00:00:00-12:34:56"),
    ),
    Kind(
        "interval",
        "INTERVAL",
        _INTERVALS,
    ),
    Kind(
        "uuid",
        "UUID",
        (
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "01234567-89ab-cdef-0123-456789abcdef",
        ),
    ),
    Kind("json", "JSON", (*_JSONS, '{"z" : 1,\n "b":2, "z":3}', '"\\ud800"', '"\\u0000"')),
    Kind("jsonb", "JSON", _JSONS),
    Kind(
        "bytea",
        "BLOB",
        ("", "\\x00", "\\x" + bytes(range(256)).hex(), "\\x5c", "\\x" + "ab" * 3000),
    ),
    Kind("mood", "VARCHAR", ("sad", 'it\'s "ok"', "a,b", "NULL")),
    Kind("short", "VARCHAR", ("", "abcde", "NULL")),
    Kind("price", "DECIMAL(10,2)", ("0", "99999999.99")),
    Kind(
        "pair",
        "VARCHAR",
        ("(1,a)", '(1,"")', '(1,"NULL")', '(1,"a ""b"", \\\\ (c)")'),
    ),
    Kind("maybe_pair", "VARCHAR", ("(1,a)",)),
    Kind(
        "nested",
        "VARCHAR",
        ('("(1,a)","{a,NULL,""b c""}","2024-01-01 00:00:00+00")', '("(,)",{},infinity)'),
    ),
    Kind("int4range", "VARCHAR", ("empty", "[1,5)", "(,)", "[3,)", "(,0]")),
    Kind(
        "tstzrange",
        "VARCHAR",
        ('["2024-01-01 00:00:00+02",infinity]', "empty", '[-infinity,"0044-03-15 12:00:00+00 BC")'),
    ),
    Kind("numrange", "VARCHAR", ("[1.10,2.20]", "[-Infinity,NaN]")),
    Kind("float_range", "VARCHAR", ("[-0,0.30000000000000004)",)),
    Kind("int4multirange", "VARCHAR", ("{}", "{[1,2),[5,9)}")),
    Kind("bit(5)", "VARCHAR", ("00000", "10101")),
    Kind("varbit", "VARCHAR", ("", "1", "0" * 70)),
    Kind(
        "inet", "VARCHAR", ("10.0.0.1", "10.0.0.1/8", "::1/128", "2001:db8::/32", "::ffff:1.2.3.4")
    ),
    Kind("cidr", "VARCHAR", ("10.0.0.0/8", "10.0.0.1/32", "2001:db8::/32", "::1/128")),
    Kind("macaddr", "VARCHAR", ("08:00:2b:01:02:03",)),
    Kind("macaddr8", "VARCHAR", ("08:00:2b:01:02:03:04:05",)),
    Kind("money", "VARCHAR", ("0", "-12.34", "92233720368547758.07", "-92233720368547758.08")),
    Kind("tsvector", "VARCHAR", ("'a':1A 'b c':2", "")),
    Kind("tsquery", "VARCHAR", ("'a' & !'b'",)),
    Kind("point", "VARCHAR", ("(-0,1e-320)", "(NaN,Infinity)")),
    Kind("box", "VARCHAR", ("(1,1),(0,0)",)),
    Kind("polygon", "VARCHAR", ("((0,0),(1,1),(0.1,0.2))",)),
    Kind("pg_lsn", "VARCHAR", ("16/B374D848",)),
    Kind("oid", "VARCHAR", ("0", "4294967295")),
    Kind("xid8", "VARCHAR", ("18446744073709551615",)),
    Kind("oidvector", "VARCHAR", ("1 2 3", "")),
    Kind("jsonpath", "VARCHAR", ('$."a"[*]',)),
    Kind("hstore", "VARCHAR", ('"a"=>"1", "b"=>NULL', '"q\\"\\\\"=>"NULL"', "")),
    Kind("ltree", "VARCHAR", ("a.b.c",)),
    Kind("integer[]", "INTEGER[]", ("{}", "{1}", "{NULL}", "{1,NULL,-3}")),
    Kind("bigint[]", "BIGINT[]", ("{9223372036854775807,-9223372036854775808}", "{}")),
    Kind("ints", "INTEGER[]", ("{1,2}", "{}")),
    Kind("boolean[]", "BOOLEAN[]", ("{t,f,NULL}",)),
    Kind(
        "double precision[]",
        "DOUBLE[]",
        ("{%s,NaN,Infinity,1e-300,NULL}" % ("-0" if KEPT else "0"),),
    ),
    Kind("real[]", "FLOAT[]", ("{0.1,3.4e38}",)),
    Kind("numeric(10,2)[]", "DECIMAL(10,2)[]", ("{1.10,NULL,-0.01}",)),
    Kind("numeric[]", "VARCHAR[]", ("{1.100,NaN,Infinity,NULL}",)),
    Kind("price[]", "DECIMAL(10,2)[]", ("{1.1,2}",)),
    Kind(
        "text[]",
        "VARCHAR[]",
        (
            "{}",
            '{""}',
            '{NULL,"NULL","null"}',
            '{"a,b","c\\"d","e\\\\f","{g}"," h ","i\nj"}',
            "{a,b}",
            '{"\u00e9","[0:1]={x}"}',
        ),
    ),
    Kind("varchar(4)[]", "VARCHAR[]", ('{abcd,""}',)),
    Kind("char(3)[]", "VARCHAR[]", ('{a,"bc ",NULL}',)),
    Kind("citext[]", "VARCHAR", ("{A,b}", '{"x y",NULL}')),
    Kind("mood[]", "VARCHAR[]", ('{sad,"it\'s \\"ok\\"","a,b","NULL",NULL}',)),
    Kind("moods", "VARCHAR[]", ('{sad,"a,b"}',)),
    Kind("date[]", "DATE[]", ('{2024-01-01,infinity,"0044-03-15 BC",NULL}',)),
    Kind("time[]", "TIME[]", ("{24:00:00,00:00:00.000001}",)),
    Kind(
        "timestamp[]",
        "TIMESTAMP[]",
        ('{"2024-01-01 00:00:00.5",-infinity,NULL,"0044-03-15 00:00:00 BC"}',),
    ),
    Kind("timestamptz[]", "TIMESTAMP WITH TIME ZONE[]", ('{"2024-01-01 00:00:00+00",infinity}',)),
    Kind("interval[]", "INTERVAL[]", ('{"1 mon","30 days",NULL,"-1 days +00:00:01"}', "{}")),
    Kind("uuid[]", "UUID[]", ("{00000000-0000-0000-0000-000000000001,NULL}",)),
    Kind("json[]", "JSON[]", ('{"{\\"a\\": 1, \\"a\\": 2}",NULL,null}',)),
    Kind("jsonb[]", "JSON[]", ('{"{\\"a\\": [1, 2]}","null",NULL}',)),
    Kind("bytea[]", "BLOB[]", ('{"\\\\x","\\\\x00ff",NULL}',)),
    Kind("pair[]", "VARCHAR", ('{"(1,a)","(,)",NULL}',)),
    Kind("int4range[]", "VARCHAR", ('{"[1,5)",empty}',)),
    Kind("inet[]", "VARCHAR", ("{10.0.0.1,NULL}", "{{10.0.0.1},{10.0.0.2}}")),
    Kind("box[]", "VARCHAR", ("{(1,1),(0,0);(2,2),(1,1)}",)),
    Kind("int8range", "VARCHAR", ("empty", "[1,9223372036854775807)")),
    Kind("daterange", "VARCHAR", ("[2024-01-01,2024-02-01)", '["0044-03-15 BC",infinity]')),
    Kind("tsrange", "VARCHAR", ('["2024-01-01 00:00:00.5","294276-12-31 23:59:59")', "(,)")),
    Kind("nummultirange", "VARCHAR", ("{[1.10,2.20],(3,)}", "{}")),
    Kind("datemultirange", "VARCHAR", ("{[2024-01-01,2024-02-01)}",)),
    Kind("tsmultirange", "VARCHAR", ('{["2024-01-01 00:00:00",infinity]}',)),
    Kind("tstzmultirange", "VARCHAR", ('{["2024-01-01 00:00:00+02",]}', "{}")),
    Kind("int8multirange", "VARCHAR", ("{[1,2),[4,5)}",)),
    Kind("int4multirange[]", "VARCHAR", ('{"{[1,2),[5,9)}","{}",NULL}',)),
    Kind("mood_range", "VARCHAR", ('[sad,"a,b")', "[NULL,happy]")),
    Kind("mood_multirange", "VARCHAR", ('{[sad,"a,b")}',)),
    Kind("line", "VARCHAR", ("{1,-1,0}", "{0,1,-0.1}")),
    Kind("lseg", "VARCHAR", ("[(0,0),(1,0.1)]",)),
    Kind("path", "VARCHAR", ("((0,0),(1,1))", "[(0,0),(1,1)]")),
    Kind("circle", "VARCHAR", ("<(0,0),0.1>",)),
    Kind("point[]", "VARCHAR", ('{"(1,2)",NULL}', '{{"(1,2)"},{"(3,4)"}}')),
    Kind("xid", "VARCHAR", ("0", "4294967295")),
    Kind("cid", "VARCHAR", ("4294967295",)),
    Kind("tid", "VARCHAR", ("(4294967295,65535)",)),
    Kind("txid_snapshot", "VARCHAR", ("10:20:10,14,15", "1:1:")),
    Kind("pg_snapshot", "VARCHAR", ("10:20:10,14,15",)),
    Kind("int2vector", "VARCHAR", ("1 -2 3",)),
    Kind("regclass", "VARCHAR", ("pg_class",)),
    Kind("regtype", "VARCHAR", ("integer", "timestamp with time zone", "text[]")),
    Kind("regproc", "VARCHAR", ("pg_sleep",)),
    Kind("regprocedure", "VARCHAR", ("pg_sleep(double precision)",)),
    Kind("regoper", "VARCHAR", ("0",)),
    Kind("regoperator", "VARCHAR", ("+(integer,integer)",)),
    Kind("regnamespace", "VARCHAR", ("pg_catalog",)),
    Kind("regconfig", "VARCHAR", ("english",)),
    Kind("regdictionary", "VARCHAR", ("simple",)),
    Kind("regcollation", "VARCHAR", ('"C"',)),
    Kind("refcursor", "VARCHAR", ("", 'a "b"')),
    Kind("pg_lsn[]", "VARCHAR", ("{16/B374D848,0/0}",)),
    Kind("oid[]", "VARCHAR", ("{1,4294967295,NULL}",)),
    Kind("timetz[]", "VARCHAR", ("{24:00:00-15:59,NULL}",)),
    Kind("money[]", "VARCHAR", ('{"$1,234.50",-$0.01}',)),
    Kind("bit(3)[]", "VARCHAR", ("{101,NULL}",)),
    Kind("name[]", "VARCHAR[]", ('{"a b",NULL}',)),
    Kind("tsvector[]", "VARCHAR", ("{\"'a':1A 'b c':2\",NULL}",)),
    Kind("shorter", "VARCHAR", ("", "abc")),
    Kind("shorters", "VARCHAR[]", ('{abc,NULL,""}', "{}")),
    Kind(
        "deep",
        "VARCHAR",
        (
            '("(""(1,a)"",""{a,NULL,""""b c""""}"",""2024-01-01 00:00:00+00"")",'
            '"{""(1,a)"",""(,)"",NULL}","{1.10,NULL}","[0:1][2:2]={{a},{""NULL""}}",abc)',
            "(,,,,)",
        ),
    ),
    Kind("hstore[]", "VARCHAR", ('{"\\"a\\"=>NULL",NULL,""}',)),
    Kind("ltree[]", "VARCHAR", ("{a.b,NULL}",)),
    Kind("lquery", "VARCHAR", ("a.*{1,3}.b|c@*",)),
    Kind("ltxtquery", "VARCHAR", ("a & !b*@",)),
    Kind("cube", "VARCHAR", ("(0.1)", "(1, 2),(3, 4.5)", "()")),
    Kind("cube[]", "VARCHAR", ('{"(1, 2),(3, 4.5)",NULL}',)),
    Kind("seg", "VARCHAR", ("1.50 .. 2.5", "~6.5", "1 ..", "<10")),
    Kind("query_int", "VARCHAR", ("1 & ( 2 | !3 )",)),
    Kind("lo", "VARCHAR", ("4294967295",)),
    Kind("ean13", "VARCHAR", ("9780393040029",)),
    Kind("isbn", "VARCHAR", ("0-393-04002-X",)),
    Kind("isbn13", "VARCHAR", ("978-0-393-04002-9",)),
    Kind("issn", "VARCHAR", ("1436-4522",)),
    Kind("ismn", "VARCHAR", ("979-0-060-11561-5",)),
    Kind("upc", "VARCHAR", ("036000291452",)),
)
# The embedded server is built without libxml
OLDER_KINDS = (
    *(kind for kind in KINDS if not kind.is_made),
    Kind("xml", "VARCHAR", ('<a b="1">x&amp;y</a>', "<a/><b/>", "text", "")),
)
