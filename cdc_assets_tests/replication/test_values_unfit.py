"""What a warehouse type can't hold stops its table, says so exactly, and stops no other."""

from __future__ import annotations

import pytest

from cdc_assets.errors import ValueConversionError
from cdc_assets.lsn import LSN
from cdc_assets.progress import TableFailed
from cdc_assets.replication.sync import sync
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, errors_of, mirror_rows, sync_once

# column type, a value that fits, one that does not, and what the error says of the type
UNFIT = [
    ("numeric(10,2)", "1.50", "NaN", "numeric(10,2)"),
    ("timestamp", "2024-01-01", "294276-12-31 23:59:59.999999", "timestamp"),
    ("timestamptz", "2024-01-01", "294247-01-10 04:00:54.775807+00", "timestamp"),
    ("interval", "1 mon", "infinity", "interval"),
    ("interval", "1 mon", "-2562047:47:16.854776", "2562047 hours"),
    ("interval[]", "{1 mon}", "{1 day,2562048:00:00}", "2562047 hours"),
    ("int[]", "{1}", "{{1,2},{3,4}}", "dimension"),
    ("int[]", "{1}", "[0:1]={1,2}", "list"),
    ("text[]", "{a}", "[2:2]={canary}", "list"),
    ("text[]", "{a}", '{{"canary"}}', "dimension"),
    ("numeric(10,2)[]", "{1}", "{1,NaN}", "numeric(10,2)"),
    ("timestamp[]", "{2024-01-01}", '{"294276-01-01 00:00:00"}', "timestamp"),
]
cases = pytest.mark.parametrize(("kind", "good", "bad", "wanted"), UNFIT)


def position(database: ScratchDatabase) -> LSN:
    return LSN.parse(database.execute("SELECT pg_current_wal_insert_lsn()::text")[0][0])


def create(database: ScratchDatabase, kind: str, good: str) -> None:
    database.execute(f"CREATE TABLE odd (id int PRIMARY KEY, note text, value {kind})")
    database.execute("CREATE TABLE other (id int PRIMARY KEY)")
    database.execute("INSERT INTO odd VALUES (1, '', %s)", [good])


def expect_unfit(error: BaseException | None, wanted: str, lsns: tuple[LSN, LSN]) -> None:
    assert isinstance(error, ValueConversionError)
    assert error.table == "public.odd"
    for part in ("'value'", "'public.odd'", wanted, error.lsn):
        assert part in error.message
    assert lsns[0] < LSN.parse(error.lsn) <= lsns[1]
    assert "cdc-assets backfill public.odd" in error.hint
    chain: BaseException | None = error
    while chain is not None:
        assert "canary" not in str(chain)
        chain = chain.__cause__ or chain.__context__


@cases
def test_in_the_stream_it_stops_its_table_alone(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    kind: str,
    good: str,
    bad: str,
    wanted: str,
) -> None:
    create(database, kind, good)
    config = pipeline("public.odd", "public.other")
    converge(database, config)
    for number in range(2, 5):
        database.execute("INSERT INTO odd VALUES (%s, '', %s)", [number, good])
    before = position(database)
    database.execute("INSERT INTO odd VALUES (9, '', %s)", [bad])
    after = position(database)
    database.execute("INSERT INTO odd VALUES (10, '', %s)", [good])
    database.execute("INSERT INTO other VALUES (1)")
    events = list(sync(config))
    failed = [event for event in events if isinstance(event, TableFailed)]
    assert [str(event.table) for event in failed] == ["public.odd"]
    expect_unfit(failed[0].error, wanted, (before, after))
    assert mirror_rows(config, "public.other", "id") == [(1,)]
    assert mirror_rows(config, "public.odd", "id") == [(1,)]
    # it stays so, and the others go on
    database.execute("INSERT INTO other VALUES (2)")
    expect_unfit(errors_of(sync_once(config))["public.odd"], wanted, (before, after))
    assert mirror_rows(config, "public.other", "id") == [(1,), (2,)]


@cases
def test_in_the_first_copy_it_stops_its_table_alone(
    database: ScratchDatabase,
    pipeline: MakePipeline,
    kind: str,
    good: str,
    bad: str,
    wanted: str,
) -> None:
    create(database, kind, good)
    before = position(database)
    database.execute("INSERT INTO odd VALUES (9, '', %s)", [bad])
    database.execute("INSERT INTO other VALUES (1)")
    config = pipeline("public.odd", "public.other")
    errors = errors_of(sync_once(config))
    assert list(errors) == ["public.odd"]
    expect_unfit(errors["public.odd"], wanted, (before, position(database)))
    assert mirror_rows(config, "public.other", "id") == [(1,)]
    # corrected on the source, it is copied without further ado
    database.execute("UPDATE odd SET value = %s WHERE id = 9", [good])
    converge(database, config)


def test_a_value_that_is_gone_in_the_end_stops_the_table_nevertheless(
    database: ScratchDatabase, pipeline: MakePipeline
) -> None:
    create(database, "numeric(10,2)", "1")
    config = pipeline("public.odd", "public.other")
    converge(database, config)
    before = position(database)
    database.execute("UPDATE odd SET value = 'NaN'")
    after = position(database)
    database.execute("UPDATE odd SET value = 2")
    errors = errors_of(sync_once(config))
    if errors:  # by its rule the stream may stop here, but never with another error
        expect_unfit(errors["public.odd"], "numeric(10,2)", (before, after))
    else:
        converge(database, config)
