"""Which tables go together as one takes columns of another, and what keeps them from it.

A row has what its partner was when it was written. That is known where both are as of one LSN, and
go on in the same windows. So what is linked is drained together, a table stops when its partner
does, and one that its partner has left behind is copied anew.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import pyarrow as pa

from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.config import PipelineConfig
from cdc_assets.config.enriching import EnrichConfig
from cdc_assets.errors import TableError
from cdc_assets.identifiers import TableName, fold, nearest
from cdc_assets.replication.session import Session, recopy_hint
from cdc_assets.replication.shaping import (
    full_hint,
    refusal,
    shapings,
    transform_problems,
)
from cdc_assets.source.catalog import SourceTable
from cdc_assets.source.pushing import may_lack

_FULL = "f"
_CHAR, _TEXTS = 1042, frozenset({19, 25, 1043})


def enrich_problems(
    config: PipelineConfig, table: TableName, sources: Mapping[TableName, SourceTable]
) -> Iterator[TableError]:
    """Find what keeps a table from taking columns of others as its config says."""
    source, taken = sources[table], config.table(table).enrich
    if not taken:
        return
    known, found = shapings(config, sources), list[TableError]()
    here = replace(known[table], enriched=())
    for one in taken:
        partner = sources.get(one.name)
        if partner is None:
            continue  # which stops by itself, and this one with it
        of = known[one.name]
        there = of.kept(of.source(partner.shape))
        found += _no_such_columns(source, here.given(here.source(source.shape)), one, there)
        for side in (source, partner):
            if why := _may_be_read_anew(config, side):
                found.append(refusal(source, why, full_hint(config, side)))
    yield from found
    is_known = not found and all(one.name in sources for one in taken)
    yield from transform_problems(known[table], source, is_called=is_known)


def _no_such_columns(
    source: SourceTable, here: TableShape, one: EnrichConfig, there: TableShape
) -> Iterator[TableError]:
    partner = one.partner
    for name in one.on:
        if name not in here.names:
            yield _unknown(source, f"enrich.on names a column {name!r}", name, here)
    for name in one.columns:
        if name not in there.names:
            yield _unknown(source, f"{partner!r} has no column {name!r}", name, there)
    if sorted(one.on.values()) != sorted(there.key):
        key = ", ".join(there.key)
        yield refusal(
            source,
            f"enrich.on joins ({', '.join(one.on.values())}) of {partner!r}, whose key is ({key})",
            f"join the whole key, as the warehouse has it: ({key})",
        )
    known = {fold(name) for name in here.names}
    for name in one.columns.values():
        if fold(name) in known:
            yield refusal(
                source,
                f"it takes a column {name!r} of {partner!r}, and has one itself",
                "give it another name in enrich.columns",
            )
    yield from _unfit_types(source, here, one, there)


def _unfit_types(
    source: SourceTable, here: TableShape, one: EnrichConfig, there: TableShape
) -> Iterator[TableError]:
    mine = {column.name: column for column in here.columns}
    theirs = {column.name: column for column in there.columns}
    for left, right in one.on.items():
        if left in mine and right in theirs and not _can_be_joined(mine[left], theirs[right]):
            yield refusal(
                source,
                f"enrich.on joins {left!r} ({mine[left].type.name}) with {right!r} of "
                f"{one.partner!r} ({theirs[right].type.name}), which may not be equal here where "
                "they are there",
                "both have to be integers, or of one type that is text, a date or time, uuid, "
                "boolean, bytea or a numeric with a precision, masked alike",
            )
    for name in one.columns:
        if name in theirs and _is_list_of_named(theirs[name].type.arrow):
            yield refusal(
                source,
                f"{name!r} of {one.partner!r} is an array of a type that can't be taken",
                "leave it out of enrich.columns",
            )


def _is_list_of_named(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and isinstance(kind.value_type, pa.BaseExtensionType)


def _can_be_joined(mine: SourceColumn, other: SourceColumn) -> bool:
    """Whether two columns are equal in the warehouse just where they are on the source."""
    kind = mine.type.arrow
    if pa.types.is_integer(kind) and pa.types.is_integer(other.type.arrow):
        return True
    if kind != other.type.arrow or pa.types.is_list(kind) or pa.types.is_floating(kind):
        return False
    if not pa.types.is_string(kind):
        return not isinstance(kind, pa.JsonType)
    types = (mine.type, other.type)
    if any(column.collation not in ("", '"C"', '"POSIX"') for column in (mine, other)):
        return False
    if types[0].is_array or types[1].is_array:
        return False
    if types[0].oid in _TEXTS and types[1].oid in _TEXTS:
        return True
    same = types[0].oid == types[1].oid
    return same and (types[0].is_enum or (types[0].oid == _CHAR and _same_length(types)))


def _same_length(types: Collection[object]) -> bool:
    return len({getattr(kind, "typmod", None) for kind in types}) == 1


def _may_be_read_anew(config: PipelineConfig, source: SourceTable) -> str:
    """Say why rows of a table may have to be read ahead of the stream; empty where none has."""
    table = config.table(source.name)
    filters = table.where or source.shape.publication.row_filter
    if not (filters or table.transform) or source.identity == _FULL or not may_lack(table, source):
        return ""
    return (
        f"{str(source.name)!r} is filtered or transformed, and changes of it may come without "
        "values that are stored apart: such rows are read by themselves, ahead of the stream, when "
        "nobody knows what their partners were"
    )


def _unknown(source: SourceTable, what: str, name: str, shape: TableShape) -> TableError:
    meant = nearest(name, shape.names)
    hint = f"did you mean {meant!r}?" if meant else f"known: {', '.join(shape.names)}"
    return refusal(source, f"{what} that it does not have" if "names" in what else what, hint)


def partner_errors(session: Session, tables: Collection[TableName]) -> dict[TableName, TableError]:
    """Find which of some tables can't go on as a partner can't, or is not where they are."""
    links = session.config.links
    found: dict[TableName, TableError] = {}
    for table in links.partners_first(tables):
        if table in session.failed:
            continue
        stopped = {*session.failed, *found}
        for partner in sorted(links.partners.get(table, ())):
            why, hint = _hindrance(session, table, partner, is_stopped=partner in stopped)
            if why:
                found[table] = _held_up(table, partner, why, hint)
                break
    return found


def _held_up(table: TableName, partner: TableName, why: str, hint: str) -> TableError:
    return TableError(
        f"table {str(table)!r} takes columns of {str(partner)!r}, which {why}",
        table=str(table),
        hint=hint,
    )


def _hindrance(
    session: Session, table: TableName, partner: TableName, *, is_stopped: bool
) -> tuple[str, str]:
    """Say what keeps a table from going on beside its partner, and what helps."""
    ours, theirs = session.checkpoints.get(table), session.checkpoints.get(partner)
    if is_stopped:
        return "can't go on", (
            f"its own error says what helps; once it goes on from where it is, {table} does, and "
            f"if it had to be copied anew: cdc-assets backfill {shlex.quote(str(table))}"
        )
    if theirs is None and session.config.table(partner).backfill.first == "wait":
        return "waits for its backfill", recopy_hint(partner)
    if ours is None or ours.phase != "streaming":
        return "", ""  # it is put in its place when its partner is where it is
    if theirs is None or theirs.phase != "streaming":
        return "is copied anew", "when that is done, " + recopy_hint(table)
    if theirs.lsn != ours.lsn:
        return (
            f"is at {theirs.lsn}, while it is at {ours.lsn}: what was there in between is not "
            "known any more",
            recopy_hint(table),
        )
    return "", ""


def require_partners(session: Session, table: TableName) -> None:
    """Check that a table's copy can be put in its place when it is read.

    Raises:
        TableError: A partner has to be made well first.
    """
    for partner in sorted(session.config.links.partners.get(table, ())):
        theirs = session.checkpoints.get(partner)
        if theirs is None or theirs.phase != "streaming":
            raise _held_up(table, partner, "is not copied yet", "first " + recopy_hint(partner))
        if theirs.error or partner in session.failed:
            hint = "run 'cdc-assets sync'; if it can't go on then, first " + recopy_hint(partner)
            raise _held_up(table, partner, "can't go on", hint)


def are_partners_there(session: Session, table: TableName) -> bool:
    """Whether all partners of a table are as of its LSN, row by row."""
    lsn = session.checkpoints[table].lsn
    for partner in session.config.links.partners.get(table, ()):
        theirs = session.checkpoints.get(partner)
        if theirs is None or theirs.phase != "streaming" or theirs.lsn != lsn:
            return False
        if partner in session.failed or session.fences.get(partner):
            return False
    return True


def beside(session: Session, table: TableName) -> frozenset[TableName]:
    """Give a table with all that has to be drained with it."""
    linked = session.config.links.together([table]) - {table}
    return frozenset({table}) | {
        other
        for other in linked
        if other not in session.failed
        and (checkpoint := session.checkpoints.get(other)) is not None
        and checkpoint.phase == "streaming"
    }


def groups(
    session: Session, tables: frozenset[TableName], slow: frozenset[TableName]
) -> tuple[frozenset[TableName], list[frozenset[TableName]]]:
    """Part tables into those that are drained together, and those that are after them.

    Args:
        session: The run's.
        tables: All.
        slow: Those of them that an earlier run has left behind: each by itself, as its old
            checkpoint would make the others read everything again. What is linked goes together.
    """
    links = session.config.links
    at = {table: session.checkpoints[table].lsn for table in tables}
    quick = tables - slow
    joining = {
        table
        for table in slow & links.tables
        if any(at[other] == at[table] for other in links.together([table]) & quick)
    }
    left = slow - joining
    parts: list[frozenset[TableName]] = []
    while left:
        first = min(left)
        part = links.together([first]) & left
        parts.append(part)
        left -= part
    return quick | joining, parts
