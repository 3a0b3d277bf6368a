"""What hints say on managed servers, where nobody is a superuser; a plain server plays them."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdc_assets.source.managed import RDS_ROLE, log_hint
from cdc_assets.source.preflight import server_problems
from cdc_assets_tests.database import ScratchDatabase


@pytest.fixture
def role(database: ScratchDatabase) -> Iterator[str]:
    """A role without the REPLICATION attribute, on a server that has RDS' role."""
    name = f"limited_{database.name}"
    database.execute(f"CREATE ROLE {RDS_ROLE}; CREATE ROLE {name} LOGIN PASSWORD 'x'")
    yield name
    database.execute(f"DROP ROLE {name}; DROP ROLE {RDS_ROLE}")


def test_membership_in_the_role_of_rds_is_as_good_as_the_attribute(
    database: ScratchDatabase, role: str
) -> None:
    with psycopg.connect(make_conninfo(database.dsn, user=role, password="x")) as session:
        (lacking,) = server_problems(session)
        assert f'GRANT {RDS_ROLE} TO "{role}"' in lacking.hint
        database.execute(f"GRANT {RDS_ROLE} TO {role}")
        assert server_problems(session) == []


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("rds.logical_replication", "rds.logical_replication = 1"),
        ("cloudsql.logical_decoding", "cloudsql.logical_decoding = on"),
        ("other.setting", "wal_level = logical"),
    ],
)
def test_the_log_is_made_logical_by_the_setting_that_the_server_has(
    database: ScratchDatabase, setting: str, says: str
) -> None:
    with database.connect() as session:
        session.execute(f"SET {setting} = 'off'")
        assert says in log_hint(session)
