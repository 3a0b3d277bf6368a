"""A function of the project that rows go through: pandas in, pandas out.

It is given whole rows alone, one per row to write, and may be given the same again. Its rows are
told by the frame's index: a row that comes back is the one of this index, which its key has to say,
too; one that does not come back is not kept.

What the warehouse gets are the columns that the function makes of an empty frame, in the types that
are declared, or that they have there. A frame that has others is refused, and so is a value that
would be another in its column's type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cdc_assets.changes.compact import group_numbers
from cdc_assets.changes.shape import SourceColumn, TableShape
from cdc_assets.config.shaping import RESERVED_PREFIX
from cdc_assets.config.types import type_name
from cdc_assets.identifiers import fold
from cdc_assets.pgoutput.messages import Ints
from cdc_assets.pgoutput.types import SourceType, named_type
from cdc_assets.shaping.equality import same_rows
from cdc_assets.shaping.frames import (
    FIRST,
    UnfitError,
    arrow_of,
    fitted,
    plain_type,
    shown,
    to_frame,
)
from cdc_assets.shaping.functions import FunctionError, Loaded, failure_of, load
from cdc_assets.shaping.kept_types import kept_type

if TYPE_CHECKING:
    import pandas as pd

_DECLARE = "declare the types of its columns: transform: {function: …, columns: {name: type}}"
_FIXED_HINT = (
    "columns that are taken of another table, and those that they are joined by, it has to leave as"
    " they are: rows are compared by them; put what it makes of them into others"
)
_INDEX_HINT = (
    "rows are told by the frame's index: leave it as it is, and where a merge or reset_index makes"
    " another one, put it back"
)


@dataclass(frozen=True, slots=True)
class Transformed:
    """What came back.

    Attributes:
        places: Per row, which one of the given rows it is; ascending.
        columns: One array per column of the kept shape.
    """

    places: Ints
    columns: list[pa.Array]


@dataclass(frozen=True)
class Transform:
    """One table's.

    Attributes:
        reference: `package.module:name`.
        root: The project's.
        declared: Types by DuckDB's names.
        lineage: Which columns new ones are made of, where it is said.
        fixed: Columns that it has to leave as they are, besides the key.
    """

    reference: str
    root: Path
    declared: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fixed: frozenset[str] = frozenset()
    _columns: dict[tuple[SourceColumn, ...], tuple[SourceColumn, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def _loaded(self) -> Loaded:
        return load(self.reference, self.root)

    @property
    def digest(self) -> str:
        """Give the digest of the function's source; empty where it is gone."""
        try:
            return self._loaded.digest
        except FunctionError:
            return ""

    def find(self) -> None:
        """Import the function.

        Raises:
            FunctionError: It is not there.
        """
        _ = self._loaded

    @property
    def declaration(self) -> dict[str, object]:
        """What must stay for rows to stay what they are."""
        said: dict[str, object] = {"function": self.reference, "digest": self.digest}
        if self.declared:
            said["columns"] = {name: type_name(kind) for name, kind in self.declared.items()}
        return said

    def kept(self, before: TableShape) -> TableShape:
        """Give the shape that the warehouse has of a table.

        Args:
            before: What the function is given.

        Raises:
            FunctionError: It can't be called, or what it gives can't be kept.
        """
        columns = self._columns.get(before.columns)
        if columns is None:
            columns = self._columns[before.columns] = _shaped(self, before)
        return replace(before, columns=columns)

    def call(self, rows: pa.Table) -> pd.DataFrame:
        """Call the function.

        Raises:
            FunctionError: It fails, or gives no frame.
        """
        try:
            import pandas as pd
        except ImportError:
            raise FunctionError("pandas is not installed", hint="pip install pandas") from None
        function, frame = self._loaded.call, to_frame(rows)
        try:
            found = function(frame)
        except (Exception, SystemExit) as error:
            where, trace = failure_of(error, self.root, function)
            raise FunctionError(f"raised {where}", trace=trace, raised=type(error)) from None
        if not isinstance(found, pd.DataFrame):
            raise FunctionError(
                f"gave {type(found).__name__}, expected a DataFrame", hint="return the frame"
            )
        return found

    def apply(self, rows: pa.Table, before: TableShape) -> Transformed:
        """Put rows through the function.

        Args:
            rows: Whole ones, the columns of `before`.
            before: Their shape.

        Raises:
            FunctionError: It fails, or what it gives is not what it gave of an empty frame.
        """
        kept = self.kept(before)
        if not rows.num_rows:
            return _nothing(kept)
        found = self.call(rows)
        _check_columns(found, kept)
        places = _places(found.index, rows.num_rows)
        return _taken(found, places, rows, kept, self.fixed)


def _nothing(kept: TableShape) -> Transformed:
    return Transformed(np.zeros(0, dtype=np.int64), [pa.nulls(0, kind) for kind in kept.types])


def _check_names(names: list[Any]) -> None:
    if odd := [name for name in names if not isinstance(name, str) or not name]:
        raise FunctionError(f"gave a column {odd[0]!r}", hint="a column's name is a text")
    if reserved := [name for name in names if fold(name).startswith(RESERVED_PREFIX)]:
        raise FunctionError(
            f"gave a column {reserved[0]!r}",
            hint=f"names that start with {RESERVED_PREFIX} are reserved",
        )
    seen: dict[str, str] = {}
    for name in names:
        if fold(name) in seen:
            raise FunctionError(
                f"gave columns {seen[fold(name)]!r} and {name!r}, which are one name",
                hint="a warehouse ignores case: give one of them another name",
            )
        seen[fold(name)] = name


def _check_columns(found: pd.DataFrame, kept: TableShape) -> None:
    """Check that a frame has the columns of an empty one; what others are called may be a value."""
    names = list(found.columns)
    gone = [name for name in kept.names if name not in names]
    if gone or len(names) > len(kept.names):
        what = f"no column {gone[0]!r}" if gone else "more columns"
        raise FunctionError(
            f"gave {what}, unlike of an empty frame",
            hint="let it give the same columns always, and take an empty frame",
        )


def _places(index: pd.Index[Any], count: int) -> Ints:
    """Tell which of the given rows came back, in the frame's order."""
    if index.dtype.kind not in "iu":
        raise FunctionError("gave another index", hint=_INDEX_HINT)
    places: Ints = index.to_numpy().astype(np.int64) - FIRST
    if len(places) and (places.min() < 0 or places.max() >= count):
        raise FunctionError("gave rows that are none of the frame's", hint=_INDEX_HINT)
    if not _ascends(places) and len(np.unique(places)) < len(places):
        raise FunctionError("gave a row twice", hint=_INDEX_HINT)
    return places


def _ascends(places: Ints) -> bool:
    return bool((np.diff(places) > 0).all())


def _taken(
    found: pd.DataFrame, places: Ints, rows: pa.Table, kept: TableShape, fixed: frozenset[str]
) -> Transformed:
    order = np.argsort(places)
    is_ordered = _ascends(places)
    ordered = places if is_ordered else places[order]
    at = None if len(places) == rows.num_rows else pa.array(ordered)
    columns = []
    for column in kept.columns:
        before = None
        if column.name in rows.column_names:
            before = rows[column.name].combine_chunks()
            before = before if at is None else before.take(at)
        try:
            values = arrow_of(found[column.name])
            values = values if is_ordered else values.take(pa.array(order))
            fit = fitted(values, column.type.arrow, before)
        except UnfitError as error:
            raise FunctionError(
                f"gave {column.name!r} as {error}, expected {column.type.name}",
                hint="convert it in the function; " + _DECLARE,
            ) from None
        if column.name in kept.key and not _are_one(fit, before):
            raise FunctionError(
                f"gave other values of the key's column {column.name!r}", hint=_INDEX_HINT
            )
        if column.name in fixed and not same_rows([fit], [before]).all():
            raise FunctionError(f"gave other values of {column.name!r}", hint=_FIXED_HINT)
        columns.append(fit)
    return Transformed(ordered, columns)


def _are_one(these: pa.Array, those: pa.Array) -> bool:
    """Whether two arrays are the same keys: for Postgres -0 is 0, and NaN is NaN."""
    if these.equals(those):
        return True
    if these.null_count:
        return False
    numbers = group_numbers([pa.concat_arrays([these, those])])
    return bool((numbers[: len(these)] == numbers[len(these) :]).all())


def _shaped(transform: Transform, before: TableShape) -> tuple[SourceColumn, ...]:
    """Find the columns that a function makes, by an empty frame."""
    schema = pa.schema([pa.field(*of) for of in zip(before.names, before.types, strict=True)])
    try:
        found = transform.call(schema.empty_table())
    except FunctionError as error:
        if error.raised is None:
            raise
        if not transform.declared:
            hint = f"let it take an empty frame, or {_DECLARE}"
            if issubclass(error.raised, (KeyError, AttributeError)):
                hint = f"it is given the columns {', '.join(before.names)}: {hint}"
            raise FunctionError(
                f"{error}, of an empty frame", hint=hint, trace=error.trace
            ) from None
        # it takes none: what is not declared stays
        names = dict.fromkeys([*before.names, *transform.declared])
        return tuple(_column(transform, before, name, None) for name in names)
    _check_names(list(found.columns))
    for name in transform.declared:
        if name not in found.columns:
            raise FunctionError(f"gives no column {name!r}, which is declared", hint="take it out")
    if gone := [name for name in before.key if name not in found.columns]:
        raise FunctionError(f"loses the key's column {gone[0]!r}", hint="let it keep the key")
    types = {name: _type_of(found, name) for name in found.columns}
    columns = tuple(_column(transform, before, name, kind) for name, kind in types.items())
    for one in before.columns:
        if one.name in transform.fixed and one not in columns:
            raise FunctionError(f"does not leave {one.name!r} as it is", hint=_FIXED_HINT)
    return columns


def _type_of(found: pd.DataFrame, name: str) -> pa.DataType:
    try:
        return arrow_of(found[name]).type
    except UnfitError:
        return pa.null()


def _column(
    transform: Transform, before: TableShape, name: str, found: pa.DataType | None
) -> SourceColumn:
    """Give a column as the warehouse has it.

    Args:
        transform: Whose.
        before: What it is given.
        name: The column's.
        found: Its type in the frame that came back, if one did.
    """
    given = {column.name: column for column in before.columns}.get(name)
    declared = transform.declared.get(name)
    if given is not None and declared is None and (found is None or _is_still(given, found)):
        return given
    made = _told(name, found) if declared is None else _declared(name, found, declared)
    if name not in before.key or given is None:
        return SourceColumn(name, 0, made, made.oid, made.typmod, nullable=True)
    if made.arrow != given.type.arrow:
        raise FunctionError(
            f"changes the type of the key's column {name!r}", hint="let it keep the key as it is"
        )
    return given


def _is_still(column: SourceColumn, found: pa.DataType) -> bool:
    plain = plain_type(column.type.arrow)
    return found == plain or (kept_type(plain) is not None and kept_type(found) == kept_type(plain))


def _told(name: str, found: pa.DataType | None) -> SourceType:
    told = None if found is None else kept_type(found)
    if told is None:
        raise FunctionError(
            f"gives {name!r} of an empty frame without a type that can be kept", hint=_DECLARE
        )
    return told


def _declared(name: str, found: pa.DataType | None, declared: str) -> SourceType:
    kind = named_type(type_name(declared))
    try:
        fitted(pa.nulls(0, found or pa.null()), kind.arrow, None)
    except UnfitError:
        raise FunctionError(
            f"gives {name!r} as {shown(found or pa.null())}, which is declared as {declared!r}",
            hint="convert it in the function, or declare what it gives",
        ) from None
    return kind
