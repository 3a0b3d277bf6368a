"""A table that joins a running pipeline is copied whole, whoever writes it meanwhile."""

from __future__ import annotations

import pytest

from cdc_assets.config import PipelineConfig, load_config
from cdc_assets.identifiers import TableName
from cdc_assets.operations.removal import forget_tables
from cdc_assets.progress import TableCompared
from cdc_assets.replication.reconcile import reconcile
from cdc_assets.source.setup import setup
from cdc_assets_tests.command_line import rewrite
from cdc_assets_tests.conftest import MakePipeline
from cdc_assets_tests.database import ScratchDatabase
from cdc_assets_tests.syncs import converge, errors_of, has_mirror, mirror_rows, sync_once


@pytest.fixture
def joined(database: ScratchDatabase, pipeline: MakePipeline) -> PipelineConfig:
    """A pipeline that runs with `a`, in a config to which `b` was added."""
    database.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    config = pipeline("public.a")
    converge(database, config)
    return load_config(rewrite(config, tables=[{"source": "public.a"}, {"source": "public.b"}]))


def test_a_table_joins_with_its_rows_and_its_later_changes(
    database: ScratchDatabase, joined: PipelineConfig
) -> None:
    database.execute("INSERT INTO b VALUES (1), (2)")
    assert len(setup(joined)) == 1
    database.execute("DELETE FROM b WHERE id = 1; INSERT INTO a VALUES (1)")

    converge(database, joined)


def test_changes_from_before_the_publication_are_not_lost_with_their_late_commit(
    database: ScratchDatabase, joined: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot leaves them out, so a copy before that commit would never get them."""
    monkeypatch.setattr("cdc_assets.source.slot._JOIN_TIMEOUT_SECONDS", 0.2)
    with database.connect() as long:
        long.autocommit = False
        long.execute("INSERT INTO b VALUES (1)")
        setup(joined)
        database.execute("INSERT INTO a VALUES (1)")
        for _ in range(2):
            errors = errors_of(sync_once(joined))
            assert list(errors) == ["public.b"]
            assert f"pid {long.info.backend_pid}" in errors["public.b"].message
            assert mirror_rows(joined, "public.a", "id") == [(1,)]
        long.commit()

    converge(database, joined)


def test_changes_of_a_transaction_that_began_beside_the_publication_are_not_lost(
    database: ScratchDatabase, joined: PipelineConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its xid is the newest of all, and yet it wrote before the table was published."""
    monkeypatch.setattr("cdc_assets.source.slot._JOIN_TIMEOUT_SECONDS", 0.2)
    with database.connect() as adding, database.connect() as long:
        adding.autocommit = long.autocommit = False
        publication = joined.source.publication
        adding.execute(f"ALTER PUBLICATION {publication} ADD TABLE b")  # type: ignore[call-overload]
        long.execute("INSERT INTO b VALUES (1)")
        adding.commit()
        assert list(errors_of(sync_once(joined))) == ["public.b"]
        long.commit()

    converge(database, joined)


def test_a_table_joins_leaves_and_is_put_back_while_the_others_go_on(
    database: ScratchDatabase, joined: PipelineConfig
) -> None:
    """The steps are those of docs/on-call.md."""
    b, without = TableName("public", "b"), joined.model_copy(update={"tables": joined.tables[:1]})
    setup(joined)
    database.execute("INSERT INTO b SELECT generate_series(1, 30)")
    converge(database, joined)

    forget_tables(joined, [b])
    database.execute("INSERT INTO a VALUES (1); DELETE FROM b WHERE id < 10")
    converge(database, without)
    database.execute(f"ALTER PUBLICATION {joined.source.publication} DROP TABLE b")
    database.execute("INSERT INTO a VALUES (2); UPDATE b SET id = id + 100 WHERE id > 20")
    converge(database, without)
    assert not has_mirror(joined, "public.b")

    setup(joined)
    database.execute("INSERT INTO a VALUES (3); INSERT INTO b VALUES (1)")
    converge(database, joined)
    database.execute("DELETE FROM b WHERE id = 1; INSERT INTO b VALUES (2)")
    converge(database, joined)
    events = list(reconcile(joined, tables=[b]))
    assert [event.equal for event in events if isinstance(event, TableCompared)] == [True]
