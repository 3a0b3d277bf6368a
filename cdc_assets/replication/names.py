"""What is kept of a table takes the name that the config has for it now.

The source's table is told by its oid. So a config that names a renamed table by its new name goes
on with what there is of it, instead of a new copy beside a mirror that nobody follows any more.
"""

from __future__ import annotations

from collections.abc import Mapping

from cdc_assets.config import PipelineConfig
from cdc_assets.config.tables import RECORDS
from cdc_assets.identifiers import TableName, record_table
from cdc_assets.lsn import WalIdentity
from cdc_assets.progress import RunMark, SchemaChanged
from cdc_assets.replication.evolving import note
from cdc_assets.replication.shaping import shapings
from cdc_assets.source.catalog import Catalog
from cdc_assets.steps import reached
from cdc_assets.warehouse.base import Warehouse
from cdc_assets.warehouse.values import Checkpoint


def new_names(
    config: PipelineConfig,
    catalog: Catalog,
    warehouse: Warehouse,
    identity: WalIdentity,
    known: Mapping[TableName, Checkpoint],
) -> dict[TableName, TableName]:
    """Find the tables of the warehouse that the config names otherwise now, and how.

    Not one whose new name has a table already.

    Args:
        config: The pipeline.
        catalog: The source's.
        warehouse: The pipeline's.
        identity: The source.
        known: All that the warehouse has.
    """
    left = {
        point.shape.oid: name
        for name, point in known.items()
        if name not in config.table_names and point.identity == identity
    }
    found = {
        left[oid]: name
        for name, source in catalog.tables.items()
        if name not in known and (oid := source.shape.oid) in left
    }
    exists = warehouse.mirrors.exists
    return {
        before: name
        for before, name in found.items()
        if not any(map(exists, (name, *(record_table(name, keep) for keep in RECORDS))))
    }


def take_names(
    config: PipelineConfig,
    catalog: Catalog,
    warehouse: Warehouse,
    identity: WalIdentity,
    known: Mapping[TableName, Checkpoint],
    run: RunMark,
) -> list[str]:
    """Give what is kept of tables the names that the config has for them now, all at once.

    Returns:
        What was done, a line each.
    """
    names = new_names(config, catalog, warehouse, identity, known)
    if not names:
        return []
    warehouse.prepare()
    points = {names.get(table, table): point for table, point in known.items()}
    shapes = {table: point.shape for table, point in points.items()}
    shaped = shapings(config, catalog.tables, shapes)
    with warehouse.transaction():
        for before, name in names.items():
            warehouse.move(before, name)
            if shaped[name].is_mirrored:
                warehouse.moments.show(name, shaped[name].kept(shapes[name]))
            what = f"was kept as {str(before)!r}"
            change = SchemaChanged(name, points[name].lsn, what, "as it is", {}, {})
            note(warehouse, change, run)
        reached("names_taken")
    return [f"what was kept as {str(was)!r} is {str(name)!r} now" for was, name in names.items()]
