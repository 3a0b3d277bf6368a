"""Which tables a source has that can be replicated, for a config that is not written yet."""

from __future__ import annotations

from dataclasses import dataclass

from cdc_assets.errors import CdcError
from cdc_assets.identifiers import TableName
from cdc_assets.source.catalog import read_catalog
from cdc_assets.source.connection import Connection, complete_conninfo, connect, translated
from cdc_assets.source.tables import table_problems

# Tables that people made: no system's, no extension's, and a partitioned table as one.
_TABLES = """
SELECT n.nspname, c.relname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
  AND n.nspname !~ '^(pg_|information_schema$)'
  AND NOT EXISTS (SELECT 1 FROM pg_depend d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY n.nspname, c.relname
"""


@dataclass(frozen=True, slots=True)
class Discovered:
    """A table of the source.

    Attributes:
        problem: What keeps it from having a mirror, if anything does.
        takes_changes: Whether its changes alone can be kept.
    """

    problem: CdcError | None
    takes_changes: bool


def discover_tables(conninfo: str) -> dict[TableName, Discovered]:
    """List a source's tables, each with what keeps it from being replicated, if anything does.

    Raises:
        CdcError: The source can't be asked.
    """
    complete = complete_conninfo(conninfo, application="cdc-assets scaffold")
    with connect(complete) as control, translated(""):
        names = _names(control)
        catalog = read_catalog(control, "", names)
        problems = table_problems(catalog, names, published=False)
        without = table_problems(catalog, names, published=False, unmirrored=names)
    return {name: Discovered(problems.get(name), name not in without) for name in names}


def _names(control: Connection) -> list[TableName]:
    return [TableName(*row) for row in control.execute(_TABLES).fetchall()]
