"""What the columns of a kept table are made of, as a page shows it: a table and a picture.

Open-source Dagster keeps column lineage and draws none, and draws no Mermaid either. It does show
an image that lies in Markdown itself, so the picture is one; Mermaid's text is for other pages.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

import dagster as dg

from cdc_assets.identifiers import TableName
from cdc_assets.progress import Column, Origin

_MOST_DRAWN = 40
_ROW, _HEAD, _PAD, _BEND = 34, 30, 12, 110  # pixels
_GLYPH = 7.3  # its width at the font's size
_STYLE = (
    "text{font:12px ui-monospace,Menlo,Consolas,monospace;fill:#1f2328}"
    ".head{font-weight:700}.how{font-size:11px;fill:#57606a}.more{fill:#57606a}"
    ".box{fill:#f6f8fa;stroke:#d0d7de}.line{fill:none;stroke:#4f43dd;stroke-width:1.5}"
)


def column_lineage(
    columns: Sequence[Column], sources: Mapping[TableName, dg.AssetKey]
) -> dg.TableColumnLineage:
    """Give the lineage as Dagster keeps it: of the assets of the source's tables."""
    return dg.TableColumnLineage(
        deps_by_column={
            column.name: [
                dg.TableColumnDep(asset_key=sources[of.table], column_name=of.source_column)
                for of in column.origins
            ]
            for column in columns
        }
    )


def lineage_page(name: str, columns: Sequence[Column]) -> str:
    """Write the lineage of a kept table in Markdown: a picture, a table, and Mermaid's text.

    What the config says nothing of stands in the table alone.
    """
    origins = [origin for column in columns for origin in column.origins]
    table = [
        "| column | from | how |",
        "|---|---|---|",
        *(f"| {_code(of.column)} | {_code(_full_name(of))} | {_cell(of.how)} |" for of in origins),
    ]
    drawn = [of for of in origins if of.is_shaped][:_MOST_DRAWN]
    if not drawn:
        return "\n".join(table)
    image = base64.b64encode(_picture(name, drawn, len(columns)).encode()).decode()
    return "\n".join(
        [
            f"![Of what the columns of {_cell(name)} are made](data:image/svg+xml;base64,{image})",
            "",
            *table,
            "",
            "```mermaid",
            *_mermaid(name, drawn),
            "```",
        ]
    )


def _full_name(of: Origin) -> str:
    return f"{of.table}.{of.source_column}"


def _cell(text: str) -> str:
    for special in "\\|*_`[]<>":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    return f"{fence}{text.replace('|', chr(92) + '|')}{fence}"


def _by_table(origins: Iterable[Origin]) -> dict[TableName, list[str]]:
    found: dict[TableName, dict[str, None]] = {}
    for of in origins:
        found.setdefault(of.table, {})[of.source_column] = None
    return {table: list(columns) for table, columns in found.items()}


def _mermaid(name: str, origins: Sequence[Origin]) -> Iterator[str]:
    yield "flowchart LR"
    places: dict[tuple[TableName, str], str] = {}
    for at, (table, columns) in enumerate(_by_table(origins).items()):
        yield f'  subgraph s{at}["{_quoted(str(table))}"]'
        for column in columns:
            places[table, column] = f"s{at}c{len(places)}"
            yield f'    {places[table, column]}["{_quoted(column)}"]'
        yield "  end"
    kept = {
        column: f"k{at}" for at, column in enumerate(dict.fromkeys(of.column for of in origins))
    }
    yield f'  subgraph k["{_quoted(name)}"]'
    for column, place in kept.items():
        yield f'    {place}["{_quoted(column)}"]'
    yield "  end"
    for of in origins:
        place = places[of.table, of.source_column]
        yield f'  {place} -->|"{_quoted(of.how)}"| {kept[of.column]}'


def _quoted(text: str) -> str:
    return escape(text).replace("&", "#")


def _picture(name: str, origins: Sequence[Origin], count: int) -> str:
    """Draw the source's tables on the left, the kept one on the right, and lines between them."""
    hows = {of.column: of.how for of in origins}
    more = count - len(hows)
    left = _by_table(origins)
    heads = {table: f"{table} (source)" for table in left}
    left_names = [*heads.values(), *(column for columns in left.values() for column in columns)]
    rest = f"and {more} more" if more else ""
    left_width = _width(left_names)
    right_width = _width([name, *hows, rest])
    level = _PAD + left_width + _BEND  # from where on lines are level, and have words on them
    start = level + _width(hows.values())
    parts, places, y = list[str](), dict[tuple[TableName, str], float](), float(_PAD)
    for table, columns in left.items():
        parts += _box(_PAD, y, left_width, heads[table], columns)
        for at, column in enumerate(columns):
            places[table, column] = _middle(y, at)
        y += _height(len(columns)) + _PAD
    rows = [*hows, *([rest] if rest else [])]
    parts += _box(start, _PAD, right_width, name, rows)
    for at, (column, how) in enumerate(hows.items()):
        end = _middle(_PAD, at)
        parts.append(_text(start - 8, end - 5, how, "how", anchor="end"))
        for of in origins:
            if of.column == column:
                begin = places[of.table, of.source_column]
                parts.append(_line(_PAD + left_width, begin, end, to=start))
    width, height = start + right_width + _PAD, max(y, _height(len(rows)) + 2 * _PAD)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(parts)}</svg>"
    )


def _width(texts: Iterable[str]) -> float:
    return max(map(len, texts), default=0) * _GLYPH + 2 * _PAD


def _height(rows: int) -> float:
    return _HEAD + rows * _ROW


def _middle(y: float, row: int) -> float:
    return y + _HEAD + row * _ROW + _ROW / 2


def _box(x: float, y: float, width: float, head: str, rows: Sequence[str]) -> Iterator[str]:
    height = _height(len(rows))
    yield f'<rect class="box" x="{x}" y="{y}" width="{width:.0f}" height="{height}" rx="4"/>'
    yield _text(x + _PAD, y + _HEAD / 2 + 4, head, "head")
    for at, row in enumerate(rows):
        yield _text(x + _PAD, _middle(y, at) + 4, row, "row")


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return (
        f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _line(x: float, y: float, to_y: float, *, to: float) -> str:
    half, level = x + _BEND / 2, x + _BEND
    return (
        f'<path class="line" d="M{x:.0f} {y:.0f}C{half:.0f} {y:.0f} {half:.0f} {to_y:.0f}'
        f' {level:.0f} {to_y:.0f}H{to:.0f}"/>'
    )
