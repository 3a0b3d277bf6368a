"""The SQL that an operator runs on the source by hand, with a pipeline's own names in it.

The files are written for the demo's pipeline, so that they run as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

import cdc_assets
from cdc_assets.config import PipelineConfig
from cdc_assets.errors import ConfigError
from cdc_assets.identifiers import quote, quote_literal
from cdc_assets.source.catalog import read_catalog
from cdc_assets.source.connection import connect, translated
from cdc_assets.source.publishing import entry
from cdc_assets.source.pushing import entries
from cdc_assets.source.setup import conninfo_of

FILES = ("role", "publication", "monitoring")
_TABLES = ("public.customers", "public.products", "public.orders", "public.order_items")


def operator_sql(name: str, config: PipelineConfig | None) -> str:
    """Give one of the files.

    Args:
        name: One of `FILES`.
        config: Whose names are filled in; None leaves the demo's.
    """
    path = Path(cdc_assets.__file__).parent / "sql" / f"{name}.sql"
    text = path.read_text(encoding="utf-8")
    own = own_names(name, config) if config else {}
    if not own:
        return text
    return re.sub("|".join(map(re.escape, own)), lambda found: own[found[0]], text)


def own_names(name: str, config: PipelineConfig) -> Mapping[str, str]:
    """Give what a file says for the demo, and what it has to say for a pipeline."""
    names = [table.sql for table in config.table_names]
    match name:
        case "role":
            role, database = _role_and_database(config)
            schemas = dict.fromkeys(quote(table.schema) for table in config.table_names)
            return {
                ", ".join(_TABLES): ", ".join(names),
                "shop_cdc": quote(role),
                "DATABASE shop ": f"DATABASE {quote(database)} ",
                "SCHEMA public ": f"SCHEMA {', '.join(schemas)} ",
            }
        case "publication":
            return {
                _published(_TABLES): ", ".join(_entries(config)),
                "PUBLICATION shop_cdc": f"PUBLICATION {quote(config.source.publication)}",
                "'shop_cdc'": quote_literal(config.source.slot),
            }
    return {}


def _entries(config: PipelineConfig) -> list[str]:
    """Write the tables' entries; where columns and rows are pushed down the source is asked."""
    if not config.source.push_down:
        return [entry(name) for name in config.table_names]
    with connect(conninfo_of(config)) as connection, translated(config.source.slot):
        catalog = read_catalog(connection, config.source.publication, config.table_names)
    return entries(catalog, config, config.table_names)


def _published(names: Iterable[str]) -> str:
    """List tables as a publication has them: without their child tables."""
    return ", ".join(f"ONLY {name}" for name in names)


def _role_and_database(config: PipelineConfig) -> tuple[str, str]:
    try:
        given = conninfo_to_dict(config.source.conninfo())
    except (ConfigError, ProgrammingError):  # it is made before there is a DSN
        given = {}
    return str(given.get("user", config.source.slot)), str(given.get("dbname", config.name))
