"""A preview as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cdc_assets.replication.previewing import CURRENT, Preview, PreviewedRow
from cdc_assets.wording import counted

_WIDTH = 40
_NULL = "NULL"
_GONE = "-"


def preview_lines(found: Preview) -> list[str]:
    """Lay out every row as a table: its columns, as they are and as they would be."""
    lines = [line for row in found.rows for line in (*_row_lines(found, row), "")]
    return [*lines, *_counts(found), *(f"note: {note}" for note in found.notes)]


def preview_as_json(found: Preview) -> dict[str, Any]:
    """Give all of it; values are texts as the warehouse shows them."""
    return {
        "table": str(found.table),
        "rows": [
            {"of": row.of, "raw": row.raw, "shaped": row.shaped, "read_anew": row.is_unsure}
            for row in found.rows
        ],
        "taken": found.taken,
        "changes": found.changes,
        "current_rows": found.current,
        "left_out": found.left_out,
        "notes": found.notes,
    }


def _row_lines(found: Preview, row: PreviewedRow) -> Iterator[str]:
    cells = [(row.of if row.of != CURRENT else "row as it is now", "raw", "shaped")]
    shaped = row.shaped or {}
    for name, value in row.raw.items():
        kept = found.names.get(name)
        shown = name if kept in (None, name) else f"{name} → {kept}"
        cells.append((shown, _cell(value), _cell(shaped[kept]) if kept in shaped else _GONE))
    made = shaped.keys() - found.names.values()
    cells += [(name, _GONE, _cell(value)) for name, value in shaped.items() if name in made]
    if row.shaped is not None:
        cells += [(name, _GONE, f"(of {partner})") for name, partner in found.taken.items()]
    widths = [max(len(line[at]) for line in cells) for at in range(2)]
    for at, (name, raw, here) in enumerate(cells):
        yield f"{name:<{widths[0]}}  {raw:<{widths[1]}}  {here}"
        if not at:
            yield "-" * (sum(widths) + 2 + max(len(line[2]) for line in cells) + 2)
    if row.is_unsure:
        yield "the change does not carry all values: a sync reads this row from the source"
    elif row.shaped is None:
        yield "this row is left out"


def _cell(value: str | None) -> str:
    """Show a value in a line, without what a terminal would act on."""
    if value is None:
        return _NULL
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in value)
    return shown if len(shown) <= _WIDTH else shown[: _WIDTH - 1] + "…"


def _counts(found: Preview) -> Iterator[str]:
    changes = ", ".join(f"{count:,} {name}" for name, count in found.changes.items() if count)
    if changes:
        yield f"looked at changes on the slot: {changes}"
    if found.current:
        yield f"looked at {counted(found.current, 'row')} as the source has them now"
    if not found.rows:
        yield "there is no row to show: the table is empty"
    yield f"left out: {counted(found.left_out, 'row')}"
