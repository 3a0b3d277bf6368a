"""Keeps out of the mirrors what a read of single rows has already seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cdc_assets.changes.batch import (
    Mask,
    UnfitColumnError,
    complete_fields,
    key_texts,
    lacking,
)
from cdc_assets.changes.compact import group_numbers
from cdc_assets.changes.fence import Fence, KeyText, Snapshot
from cdc_assets.changes.shape import TableShape
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName
from cdc_assets.pgoutput.decode import RawChanges
from cdc_assets.pgoutput.messages import INSERT, Ints, Transactions
from cdc_assets.pgoutput.values import UnfitValueError, decode_text
from cdc_assets.replication.chunk_rows import shaped
from cdc_assets.replication.session import Session, recopy_hint, refusals_of
from cdc_assets.source.slot import wait_until_flushed
from cdc_assets.source.snapshot import SnapshotReader
from cdc_assets.source.standby import require_standbys
from cdc_assets.warehouse.values import Moment


def keep_out(
    session: Session,
    raw: RawChanges,
    transactions: Transactions,
    *,
    before_read: Callable[[TableName], None],
) -> tuple[Mask, Mask] | None:
    """Find the rows whose new key, and those whose old key, a fence keeps as it is.

    Three kinds of change write a row without a TOASTed value that is nowhere in the warehouse. Such
    a row is read from the source now, and a fence on its key keeps the stream from it until the
    stream has passed that read:

    - A change from a fenced key to one that is not has its delete kept out and its upsert applied.
    - A row that enters the publication's row filter comes as an insert.
    - A row whose change does not carry what tells whether the config wants it kept.

    Args:
        session: Inside a warehouse transaction.
        raw: A relation's changes.
        transactions: Those that the rows index.
        before_read: Called with the table before rows are read anew: what is pending of it must be
            written first.

    Returns:
        A mask over the rows for the new keys and one for the old; None when no fence stands.
    """
    table = raw.table
    shape = session.checkpoints[table].shape
    enters = lacking(raw.new) & (raw.ops == INSERT)
    reads = session.shaping(table).reads(shape)
    is_unsure = bool(reads) and lacking([raw.new[at] for at in reads]).any()
    if not session.fences.get(table) and not enters.any() and not is_unsure:
        return None
    fields = complete_fields(raw)
    lacks = lacking(fields)
    if is_unsure:  # unless the old row has it
        enters |= lacking([fields[at] for at in reads])
    new_keys, old_keys = key_texts(fields, shape, raw), key_texts(raw.old, shape, raw)
    xids = transactions.xid[raw.transactions]
    while True:
        new, old = _fenced(session, table, new_keys, xids), np.zeros(len(xids), dtype=bool)
        if len(raw.old_rows):
            old[raw.old_rows] = _fenced(session, table, old_keys, xids[raw.old_rows])
        cut = np.flatnonzero((old & lacks | enters) & ~new)
        if not len(cut):
            return new, old
        before_read(table)
        keys = {tuple(key[int(row)].as_py() for key in new_keys) for row in cut}
        read_anew(session, table, sorted(keys))


def _not_read_anew(session: Session, table: TableName) -> TableError:
    return TableError(
        f"table {str(table)!r} is one whose rows take columns of another, or give some, and a "
        "change of it came without a value that is nowhere in the warehouse",
        table=str(table),
        lsn=str(session.checkpoints[table].lsn),
        hint=f"ALTER TABLE {session.source_table(table).called.sql} REPLICA IDENTITY FULL; then "
        + recopy_hint(table),
    )


def _fenced(session: Session, table: TableName, keys: list[pa.Array], xids: Ints) -> Mask:
    """Compare as the mirror does: of two keys that Postgres calls equal it may hold both."""
    shape, fences = session.checkpoints[table].shape, session.fences.get(table, [])
    out = np.zeros(len(xids), dtype=bool)
    asked = np.flatnonzero(keys[0].is_valid().to_numpy(zero_copy_only=False))
    if not fences or not len(asked):
        return out
    texts = [key.take(pa.array(asked)) for key in keys]
    columns = zip(*(fence.key for fence in fences), strict=True)
    fenced = [pa.array(column, pa.string()) for column in columns]
    both = [pa.concat_arrays([mine, theirs]) for mine, theirs in zip(fenced, texts, strict=True)]
    numbers = group_numbers(_typed(shape, both))
    of_fence, of_key = numbers[: len(fences)], numbers[len(fences) :]
    for snapshot in {fence.snapshot for fence in fences}:
        mine = of_fence[[fence.snapshot == snapshot for fence in fences]]
        out[asked] |= np.isin(of_key, mine) & snapshot.shows(xids[asked])
    return out


def _typed(shape: TableShape, keys: list[pa.Array]) -> list[pa.Array]:
    typed = []
    for key, column in zip(keys, shape.key_columns, strict=True):
        try:
            typed.append(decode_text(pc.cast(key, pa.binary()), column.type.arrow))
        except UnfitValueError as error:
            raise UnfitColumnError(column.name, error.wanted) from error
    return typed


def record_read_anew(
    session: Session, table: TableName, passed: Moment, moved: Sequence[Sequence[pa.Array]]
) -> bool:
    """Take into a table's records the rows that were read anew, once the stream has passed them.

    Inside the window's transaction, behind its changes. Of such a row the stream has brought the
    changes, without a value that no change carried. Read ahead of the stream the row is in no order
    with these; past its fence it is as of the window's end.

    Args:
        session: The run's.
        table: Whose.
        passed: The window's end.
        moved: Keys, one array per key column in each part, that rows got in this window while
            fences stood: the value that no change carried may be theirs now.

    Returns:
        Whether there were any.
    """
    if not (keeps := session.records_of(table)):
        return False
    shape, fences = session.checkpoints[table].shape, session.fences.get(table, [])
    parts = list(moved)
    if keys := sorted({fence.key for fence in fences if fence.lsn <= passed.lsn}):
        texts = [pa.array(column, pa.string()) for column in zip(*keys, strict=True)]
        parts.append(session.shaping(table).keys(_typed(shape, texts), shape))
    named = [pa.concat_arrays(arrays) for arrays in zip(*parts, strict=True)]
    if not named or not len(named[0]):
        return False
    for keep in keeps:
        records = session.warehouse.records[keep]
        records.append_read(table, session.kept_shape(table), named, passed)
    return True


def read_anew(session: Session, table: TableName, keys: list[KeyText]) -> None:
    """Read rows by themselves into the mirror, inside a transaction, and fence them.

    What is found may be spelled otherwise than what was asked for, and is fenced as well.

    Raises:
        TableError: Rows take columns of another table, as of the stream: this one's, or others of
            this one.
    """
    if table in session.config.links.tables:
        raise _not_read_anew(session, table)
    shape, slot = session.checkpoints[table].shape, session.config.source.slot
    with (
        SnapshotReader(conninfo=session.conninfo, slot=slot) as reader,
        reader.read_keys(session.source_table(table), shape, keys) as chunk,
        refusals_of(table),
    ):
        kept, shaping = session.kept_shape(table), session.shaping(table)
        asked = [pa.array(texts, pa.string()) for texts in zip(*keys, strict=True)]
        gone = shaping.keys(_typed(shape, asked), shape)  # unless they are found
        session.mirrors.retire(table, kept, gone, chunk.lsn)
        for rows in shaped(session, chunk, table):
            session.mirrors.delete(table, kept, [rows[name].combine_chunks() for name in kept.key])
            session.mirrors.insert(table, rows)
        wait_until_flushed(session.control, chunk.lsn)
        require_standbys(session.control, slot, table, chunk.lsn)
        fenced_keys, snapshot = sorted({*keys, *chunk.keys}), Snapshot.parse(chunk.snapshot)
        session.state.add_fences(table, fenced_keys, snapshot, chunk.lsn)
        fences = [Fence(key, snapshot, chunk.lsn) for key in fenced_keys]
        session.fences.setdefault(table, []).extend(fences)
