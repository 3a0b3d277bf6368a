"""Tables that are called otherwise on the source now than in the config: their oid tells them.

A table goes on under the name that the config has, which is that of what is kept of it. It is not
looked for where another table has that name now, nor where it has the name of another one of the
config's tables: names that were swapped would otherwise mix the rows of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cdc_assets.config import PipelineConfig
from cdc_assets.identifiers import TableName
from cdc_assets.source.catalog import Catalog, read_catalog
from cdc_assets.source.connection import Connection
from cdc_assets.source.names import names_of


def with_renamed(
    connection: Connection, catalog: Catalog, config: PipelineConfig, oids: Mapping[TableName, int]
) -> Catalog:
    """Add the tables that have got another name, under that of the config.

    Args:
        connection: A session on the source.
        catalog: What was read by the config's names.
        config: The pipeline; tables that are to stop at an alteration are left out.
        oids: Of tables that are known.
    """
    lost = {
        oid: name
        for name, oid in oids.items()
        if name in config.table_names
        and name not in catalog.tables
        and config.table(name).schema_changes.evolves
    }
    if not lost:
        return catalog
    called = names_of(connection, lost)
    names = set(called.values()) - set(config.table_names)
    read = read_catalog(connection, config.source.publication, names).tables if names else {}
    renamed = {
        lost[oid]: replace(read[name], name=lost[oid])
        for oid, name in called.items()
        if name in read and read[name].shape.oid == oid
    }
    return replace(catalog, tables={**catalog.tables, **renamed})
