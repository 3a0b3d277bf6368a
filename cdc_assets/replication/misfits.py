"""Changes that a mirror, or a change table, can't take, each with its way out."""

from __future__ import annotations

from cdc_assets.changes.shape import TableShape
from cdc_assets.errors import ReplicaIdentityError, SchemaChangeError, TableError
from cdc_assets.identifiers import TableName
from cdc_assets.lsn import LSN
from cdc_assets.pgoutput.decode import RawChanges
from cdc_assets.replication.session import recopy_hint


def differing_mirror(table: TableName, rows: int, lsn: LSN) -> TableError:
    """Say that a mirror is not what a batch of changes supposes."""
    return TableError(
        f"the mirror of {str(table)!r} differs from the source: changes up to {lsn} update or "
        f"delete rows that it lacks, or insert rows that it has ({rows} rows)",
        table=str(table),
        lsn=str(lsn),
        hint="somebody else wrote the mirror, or rows of the source came or went without a change "
        "on the slot (README, limits): " + recopy_hint(table),
    )


def check_shape(raw: RawChanges, shape: TableShape, lsn: LSN, *, has_key: bool) -> None:
    """Refuse changes that the mirror's columns or key can't take.

    Raises:
        SchemaChangeError: The relation has other columns than the mirror.
        ReplicaIdentityError: Its old tuples do not carry the mirror's key.
    """
    if difference := shape.difference(raw.relation):
        raise SchemaChangeError(
            f"table {str(raw.table)!r} was altered on the source at {lsn}: {difference}",
            table=str(raw.table),
            lsn=str(lsn),
            hint=recopy_hint(raw.table),
            what=difference,
            cause="altered" if raw.relation.oid == shape.oid else "recreated",
        )
    carried = {column.name for column in raw.relation.columns if column.in_identity}
    if has_key and raw.relation.replica_identity != "f" and carried != set(shape.key):
        raise identity_error(
            raw.table, lsn, f"it is not the mirror's key ({', '.join(shape.key)}) any more"
        )


def identity_error(table: TableName, lsn: LSN, reason: str) -> ReplicaIdentityError:
    """Say that old rows are not sent any more as they were."""
    return ReplicaIdentityError(
        f"the replica identity of table {str(table)!r} was changed at {lsn}: {reason}",
        table=str(table),
        lsn=str(lsn),
        hint=recopy_hint(table),
    )
