"""How the tables of a pipeline are shaped, and what keeps one from being shaped so."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.config import PipelineConfig
from cdc_assets.config.enriching import EnrichConfig
from cdc_assets.config.shaping import ONE_TO_ONE, names_in
from cdc_assets.config.tables import TableConfig
from cdc_assets.errors import TableError, TransformError
from cdc_assets.identifiers import TableName, fold, nearest
from cdc_assets.pages import page
from cdc_assets.pgoutput.types import can_be_kept_as
from cdc_assets.shaping.columns import Shaping
from cdc_assets.shaping.enriching import Enrichment
from cdc_assets.shaping.functions import FunctionError
from cdc_assets.shaping.predicates import PredicateError, check_types, columns_of, missing
from cdc_assets.shaping.transforms import Transform
from cdc_assets.source.catalog import SourceTable
from cdc_assets.source.pushing import may_lack, recopied

_FULL = "f"


def shapings(
    config: PipelineConfig,
    sources: Mapping[TableName, SourceTable] | None = None,
    placed: Mapping[TableName, TableShape] | None = None,
) -> dict[TableName, Shaping]:
    """Give what a config makes of each of its tables.

    Args:
        config: The pipeline.
        sources: Its tables, where columns that are taken of others are to be known.
        placed: What the warehouse has of them, the source's shapes.

    Raises:
        ConfigError: The environment variable of the mask's key is not set.
    """
    secret = config.mask_secret()
    own = {
        table.name: Shaping(
            columns=table.columns,
            where=table.where or "",
            mask=table.mask,
            secret=secret,
            deletes=table.deletes,
            transform=transform_of(table, config.root),
            is_mirrored=table.keeps_mirror,
            enrich=tuple(enrichment(config, one) for one in table.enrich),
        )
        for table in config.tables
    }
    if sources is None or not config.links.partners:
        return own
    shapes = {table: source.shape for table, source in sources.items()}
    for table in shapes.keys() & (placed or {}).keys():
        shapes[table] = shapes[table].with_types_of((placed or {})[table])
    return {table: _with_taken(shaping, own, shapes) for table, shaping in own.items()}


def enrichment(config: PipelineConfig, enrich: EnrichConfig) -> Enrichment:
    """Give what rows take of a partner, with what the config makes of that there."""
    partner = config.table(enrich.name)
    sources = {new: old for old, new in partner.columns.rename.items()}
    named = {name: sources.get(name, name) for name in enrich.columns}
    return Enrichment(
        partner=enrich.name,
        on=enrich.on,
        columns=enrich.columns,
        made_of=named,
        is_current=enrich.keep == "current",
        masks={
            name: partner.mask[source] for name, source in named.items() if source in partner.mask
        },
    )


def _with_taken(
    shaping: Shaping,
    own: Mapping[TableName, Shaping],
    shapes: Mapping[TableName, TableShape],
) -> Shaping:
    """Add the columns that a table takes of others, as these have them in the warehouse."""
    taken: list[SourceColumn] = []
    for one in shaping.enrich:
        if one.partner in shapes:
            of = own[one.partner]
            taken += one.taken(of.kept(of.source(shapes[one.partner])))
    return replace(shaping, enriched=tuple(taken))


def transform_of(config: TableConfig, root: Path) -> Transform | None:
    """Give the function that a table's rows go through, if any."""
    if config.transform is None:
        return None
    said = config.transform
    taken = {name for one in config.enrich for name in (*one.on, *one.columns.values())}
    return Transform(
        said.function,
        root,
        declared=said.columns,
        lineage=said.lineage,
        fixed=frozenset(taken),
    )


def shaping_problems(config: PipelineConfig, source: SourceTable) -> Iterator[TableError]:
    """Find what keeps a table from being shaped as its config says.

    Args:
        config: The pipeline.
        source: One of its tables.
    """
    shared = ", ".join(map(repr, config.by_defaults(source.name)))
    for problem in _shaping_problems(config, source):
        if shared:
            problem.hint += f" (it has {shared} of 'defaults')"
        yield problem


def _shaping_problems(config: PipelineConfig, source: SourceTable) -> Iterator[TableError]:
    table = config.table(source.name)
    of_columns = list(_column_problems(table, source))
    yield from of_columns
    yield from _row_problems(table, source, full_hint(config, source))
    if table.transform is None or table.enrich:
        return  # with what it takes of others the function is asked once that is known
    transform = transform_of(table, config.root)
    yield from transform_problems(
        Shaping(columns=table.columns, mask=table.mask, transform=transform),
        source,
        is_called=not of_columns,
    )


def _column_problems(config: TableConfig, source: SourceTable) -> Iterator[TableError]:
    shape = source.shape
    key = shape.key if config.keeps_mirror else ()
    unlisted = {column.name for column in source.columns} & set(config.columns.exclude)
    named = set(names_in(config.columns, config.mask)) - unlisted  # a list may leave out the same
    for name in sorted(named - set(shape.names)):
        yield _unknown(config, source, name)
    for name in key:
        if name in config.columns.exclude:
            yield refusal(
                source, f"its key column {name!r} is excluded", "take it out of columns.exclude"
            )
        if config.mask.get(name, "sha256") not in ONE_TO_ONE:
            yield refusal(
                source,
                f"its key column {name!r} is masked by {config.mask[name]!r}, which makes one of "
                "several keys",
                "mask it by sha256 or hmac",
            )
    yield from _type_problems(config, source, key)
    yield from _same_names(config, source)


def _type_problems(
    config: TableConfig, source: SourceTable, key: Collection[str]
) -> Iterator[TableError]:
    columns = {column.name: column for column in source.shape.columns}
    for name, chosen in config.columns.types.items():
        if name not in columns:
            continue
        if not can_be_kept_as(columns[name].type, chosen):
            yield refusal(
                source,
                f"its column {name!r} is {columns[name].type.name}, which can't be kept as "
                f"{chosen!r}",
                f"columns.types: {{{name}: text}} takes any value; {page('types')} says what else "
                "a type can be kept as",
            )
        elif name in key and chosen != "text":
            yield refusal(
                source,
                f"its key's column {name!r} can't be kept as {chosen!r}",
                "a key's column has its own type, or text: take it out of columns.types",
            )


def _row_problems(config: TableConfig, source: SourceTable, full: str) -> Iterator[TableError]:
    key = source.shape.key if config.keeps_mirror else ()
    if config.where and (why := _no_condition(config, source)):
        yield refusal(
            source,
            f"its 'where' can't be used: {why}",
            "where: a condition in DuckDB's SQL over the row's own columns, as they are renamed",
        )
    chooses = config.where or (config.transform and not config.enrich)
    if (
        chooses
        and config.records
        and (refused := _whole_old_rows(config, source, full)) is not None
    ):
        yield refused
    if config.transform and config.deletes == "soft" and _comes_short(config, source):
        yield refusal(
            source,
            "it has a transform and keeps deleted rows, and what a row was last may not be known: "
            "changes may come without values that are stored apart",
            full,
        )
    masks_key = not config.mask.keys().isdisjoint(key)
    if masks_key and source.identity != _FULL and may_lack(config, source):
        yield refusal(
            source,
            "its key is masked, and changes may come without values that are stored apart, which "
            "are read anew by their keys",
            full,
        )


def _comes_short(config: TableConfig, source: SourceTable) -> bool:
    has_all = source.identity == _FULL and not source.is_partitioned
    return not has_all and may_lack(config, source)


def _whole_old_rows(config: TableConfig, source: SourceTable, full: str) -> TableError | None:
    """Refuse to leave out rows beside changes that may not tell what their rows were before."""
    what = "condition" if config.where else "transform"
    if source.is_partitioned:
        return refusal(
            source,
            f"it has a {what}, more than its mirror is kept, and it is partitioned: how much of an "
            "old row comes is each partition's own",
            "take that out, or keep its mirror alone",
        )
    if source.identity == _FULL:
        return None
    return refusal(
        source,
        f"it has a {what}, and more than its mirror is kept: only a whole old row tells whether it "
        "was kept before",
        full,
    )


def full_hint(config: PipelineConfig, source: SourceTable) -> str:
    """Say how to have whole old rows; beside a column list UPDATE and DELETE would fail."""
    alter = f"ALTER TABLE {source.called.sql} REPLICA IDENTITY FULL;"
    has_list = source.published_as.columns is not None
    if not config.source.push_down:
        without = "first publish it without a column list (ALTER PUBLICATION), then "
        return (without if has_list else "") + alter
    setup = "run 'cdc-assets setup'"
    if has_list:
        alter = f"{setup}, which publishes it without a column list, then {alter}"
    if config.table(source.name).where:
        alter += f" then {setup} again, which may push down the condition now; if the table was "
        alter += f"copied before, {recopied(config, source.name)}"
    return alter


def transform_problems(
    shaping: Shaping, source: SourceTable, *, is_called: bool = True
) -> Iterator[TableError]:
    """Find what keeps a table's rows from going through its function.

    Args:
        shaping: The table's.
        source: The table.
        is_called: Whether the function is asked what it makes; else whether it is there.
    """
    transform = shaping.transform
    if transform is None:
        return
    try:
        transform.find()
        if not is_called:
            return
        given = shaping.given(shaping.source(source.shape))
        kept = transform.kept(given)
    except FunctionError as error:
        yield TransformError(
            f"table {str(source.name)!r} can't be transformed: {error}",
            table=str(source.name),
            hint=error.hint or "correct the function",
        )
        return
    for name, origins in transform.lineage.items():
        if name not in kept.names or name in kept.key:
            yield refusal(
                source,
                f"transform.lineage names a column {name!r} that the function does not make",
                f"it makes: {', '.join(one for one in kept.names if one not in kept.key)}",
            )
        for origin in sorted(set(origins) - set(given.names)):
            yield refusal(
                source,
                f"transform.lineage of {name!r} names a column {origin!r} that it is not given",
                f"it is given: {', '.join(given.names)}",
            )


def _no_condition(config: TableConfig, source: SourceTable) -> str:
    """Say why a table's `where` is no condition over its rows; empty where it is one."""
    shaping = Shaping(columns=config.columns)
    shape = shaping.kept(shaping.source(source.shape))
    known = {fold(name): name for name in shape.names}
    try:
        unknown = sorted(name for name in columns_of(config.where or "") if fold(name) not in known)
        if unknown:
            return "; ".join(_no_column(config, source, name, shape.names) for name in unknown)
        fields = zip(shape.names, shape.types, strict=True)
        check_types(config.where or "", pa.schema([pa.field(*of) for of in fields]))
    except PredicateError as error:
        return str(error)
    return ""


def _no_column(config: TableConfig, source: SourceTable, name: str, known: Sequence[str]) -> str:
    if name in config.columns.rename:
        return f"column {name!r} is called {config.columns.rename[name]!r} there"
    if name in source.shape.names:
        return f"column {name!r} is left out"
    meant = nearest(name, known)
    return missing(name) + (f", did you mean {meant!r}?" if meant else "")


def _same_names(config: TableConfig, source: SourceTable) -> Iterator[TableError]:
    kept = [column for column in source.shape.names if config.columns.keeps(column)]
    named = {fold(name): name for name in kept if name not in config.columns.rename}
    for old, new in config.columns.rename.items():
        if (other := named.get(fold(new))) is not None:
            yield refusal(
                source,
                f"its column {old!r} is renamed to {new!r}, and there is a column {other!r}",
                f"choose another name, or rename or exclude {other!r}",
            )


def _unknown(config: TableConfig, source: SourceTable, name: str) -> TableError:
    meant = nearest(name, source.shape.names)
    renamed = next((old for old, new in config.columns.rename.items() if new == name), None)
    if renamed is not None:
        hint = f"columns and mask name it as the source does: {renamed!r}"
    elif name in source.left_out:
        hint = "it is a generated column, which the publication leaves out"
    else:
        hint = f"did you mean {meant!r}?" if meant else f"known: {', '.join(source.shape.names)}"
    return refusal(source, f"the config names a column {name!r} that it does not have", hint)


def refusal(source: SourceTable, why: str, hint: str) -> TableError:
    """Say why a table can't be shaped as its config says."""
    return TableError(
        f"table {str(source.name)!r} can't be shaped: {why}", table=str(source.name), hint=hint
    )
