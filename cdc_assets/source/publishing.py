"""The SQL with which a publication is made and altered, by setup or by an owner who reads a hint.

Tables are published as ONLY themselves: without it their child tables would be published as well,
unasked, and lose their UPDATE and DELETE where they have no identity. For a partitioned table it
makes no difference.
"""

from __future__ import annotations

from collections.abc import Collection

from cdc_assets.identifiers import TableName, quote
from cdc_assets.source.catalog import Catalog, SourceTable


def create_sql(name: str, entries: Collection[str], options: str = "") -> str:
    """Make a publication of entries as `entry` writes them."""
    listed = ", ".join(["publish_via_partition_root = true", *([options] if options else [])])
    return f"CREATE PUBLICATION {quote(name)} FOR TABLE {', '.join(entries)} WITH ({listed})"


def add_sql(name: str, entries: Collection[str]) -> str:
    """Add entries to a publication."""
    return f"ALTER PUBLICATION {quote(name)} ADD TABLE {', '.join(entries)}"


def drop_sql(name: str, table: TableName) -> str:
    """Take a table's entry out of a publication."""
    return f"ALTER PUBLICATION {quote(name)} DROP TABLE ONLY {table.sql}"


def set_sql(name: str, options: str) -> str:
    """Set options of a publication."""
    return f"ALTER PUBLICATION {quote(name)} SET ({options})"


def entry(table: TableName, columns: Collection[str] = (), row_filter: str = "") -> str:
    """Write what is published of a table; without columns all of them."""
    listed = f" ({', '.join(map(quote, columns))})" if columns else ""
    where = f" WHERE ({row_filter})" if row_filter else ""
    return f"ONLY {table.sql}{listed}{where}"


def publish_sql(
    catalog: Catalog, table: SourceTable, shown: str, names: Collection[TableName]
) -> str:
    """Publish a table as the entry `shown`, however it is published now.

    Args:
        catalog: The source's.
        table: One of the config's tables.
        shown: What `entry` wrote.
        names: The config's tables: all of them where there is no publication yet.
    """
    publication = catalog.publication.name
    if not catalog.publication.exists:
        return create_sql(
            publication, [shown if name == table.name else entry(name) for name in names]
        )
    added = add_sql(publication, [shown])
    if not table.published:
        return added
    return f"{drop_sql(publication, table.called)}; {added}"
