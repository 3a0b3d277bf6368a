"""Which tables a publication publishes, without a lock on any of them.

`pg_publication_tables` says the same, but it opens every table of the publication: one that is
locked by somebody's ALTER TABLE would hold up all the others. So would `pg_partition_tree`.
"""

from __future__ import annotations

_ENTRY = """(
    EXISTS (SELECT 1 FROM pg_publication_rel e WHERE e.prpubid = pub.oid AND e.prrelid = {of}.oid)
    OR EXISTS (SELECT 1 FROM pg_publication_namespace e
               WHERE e.pnpubid = pub.oid AND e.pnnspid = {of}.relnamespace)
)"""
_OF_ROOT = f"""EXISTS (
    SELECT 1 FROM pg_partition_ancestors(c.oid) above JOIN pg_class root ON root.oid = above.relid
    WHERE root.oid <> c.oid AND {_ENTRY.format(of="root")}
)"""
# Over the aliases pub, of pg_publication, and c, of pg_class; null where there is no publication.
# As pg_get_publication_tables (pg_publication.c) has it, from version 15 on.
IS_PUBLISHED = f"""(
    c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384
    AND c.relnamespace <> 'pg_catalog'::regnamespace AND CASE
        WHEN pub.puballtables AND pub.pubviaroot THEN NOT c.relispartition
        WHEN pub.puballtables THEN c.relkind = 'r'
        WHEN pub.pubviaroot THEN {_ENTRY.format(of="c")} AND NOT {_OF_ROOT}
        ELSE c.relkind = 'r' AND ({_ENTRY.format(of="c")} OR {_OF_ROOT})
    END AND pub.oid IS NOT NULL
)"""


def below(relation: str) -> str:
    """Give a query for `relid`: a relation, and the partitions or tables that inherit from it."""
    return f"""(
    WITH RECURSIVE tree(relid) AS (
        SELECT {relation} UNION SELECT inhrelid FROM pg_inherits JOIN tree ON inhparent = relid
    ) SELECT relid FROM tree
)"""
