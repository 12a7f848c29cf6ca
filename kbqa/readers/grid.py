"""Rows of cells, from a sheet, a web page or a text document, to blocks: titles above, the header, the rows.

Merged cells arrive here expanded (`Spans`): their value stands in every cell they cover, so that each row says by
itself what it is about. What lies above the header becomes text, a header of several rows becomes one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from kbqa.readers.content import heading_block, table_block, text_block
from kbqa.types import Block

__all__ = ["MAX_REPEATED", "Copy", "Row", "Spans", "expand", "header_depth", "table_blocks"]

Row = Sequence[str]

_LOOK_FOR_HEADER = 12  # rows
_MAX_HEADER = 4
_MAX_SPAN = 2_000  # a cell said to cover more is taken as it is
MAX_REPEATED = 20  # characters; more in a cell over several columns is an entry of a form, no heading
_FIGURE = re.compile(
    r"[-+(]?\s*[¥￥$€£]?\s*\d[\d,.\s]*(?:[%‰)]|万|亿|元|万元|亿元)?"
    r"|\d{4}-\d{2}-\d{2}(?:[ T].*)?|\d{1,2}:\d{2}(?::\d{2})?"
)


class Copy(str):
    """The text of a cell that reaches over from a column further left."""

    __slots__ = ()


class Spans(NamedTuple):
    """A cell and how far it reaches."""

    row: int
    column: int
    rows: int
    columns: int
    text: str


def expand(cells: Iterable[Spans]) -> list[list[str]]:
    """The full grid. A cell across a whole row, a title or a note, stays one cell; so does a long text."""
    cells = list(cells)
    height = max((cell.row + 1 for cell in cells), default=0)  # a row needs a cell of its own to exist
    width = max((cell.column + cell.columns for cell in cells if cell.columns <= _MAX_SPAN), default=0)
    grid = [[""] * width for _ in range(height)]
    for cell in cells:
        copy = Copy("" if cell.columns >= width or len(cell.text) > MAX_REPEATED else cell.text)
        for row in range(cell.row, min(height, cell.row + min(cell.rows, _MAX_SPAN))):
            for column in range(cell.column, min(width, cell.column + min(cell.columns, _MAX_SPAN))):
                grid[row][column] = cell.text if column == cell.column else copy
    return grid


def is_figure(text: str) -> bool:
    return bool(_FIGURE.fullmatch(text.strip()))


def _filled(row: Row) -> list[str]:
    return [cell for cell in row if cell.strip()]


def _find_header(rows: Sequence[Row]) -> int | None:
    """The index of the header's first row: the first that fills most columns and holds no figures.

    None when figures come first, or nothing looks like a header.
    """
    width = max((len(_filled(row)) for row in rows[:200]), default=0)
    if width < 2:
        return None
    for index, row in enumerate(rows[:_LOOK_FOR_HEADER]):
        filled = _filled(row)
        if len(set(filled)) < 2 or len(filled) < min(width, max(2, 0.6 * width)):
            if any(map(is_figure, filled)) and len(filled) > 1:
                return None
            continue
        return None if any(map(is_figure, filled)) and not _years(filled) else index
    return None


def _years(cells: Sequence[str]) -> bool:
    """Years and dates make headers too, 项目 | 2021 | 2022; one full date beside a word is rather a value."""
    figures = [cell.strip() for cell in cells if is_figure(cell)]
    if is_figure(cells[0]) or any(re.fullmatch(r"(?:19|20)\d\d(?:-\d\d(?:-\d\d)?)?", cell) is None for cell in figures):
        return False
    return len(figures) > 1 or len(figures[0]) == 4 if figures else True


def header_depth(rows: Sequence[Row]) -> int:
    """How many of `rows` (merged cells expanded) form the header that begins with the first: 1 or more.

    A header goes on below where it was merged: side by side (a common heading over several columns) or downwards
    (a column that needs no second heading).
    """
    depth = 1
    while depth < min(_MAX_HEADER, len(rows) - 1):
        upper, lower = rows[depth - 1], rows[depth]
        side = any(a and a == b for a, b in pairwise(upper))
        down = any(a and a == b for a, b in zip(upper, lower, strict=False))
        differs = any(a != b for a, b in zip(upper, lower, strict=False))
        figures = any(map(is_figure, _filled(lower))) and not _years(_filled(lower))
        grouped = len(upper) > 1 and upper[0] == upper[1]
        stub = grouped or lower[0] in ("", upper[0])  # the first column needs no second heading, unless it is a group
        if not (side or down) or not differs or figures or not stub:
            break
        depth += 1
    return depth


def joined_header(rows: Sequence[Row]) -> list[str]:
    """One row of headings out of several: 一类城市 above 总监及以上 is 一类城市/总监及以上."""
    width = max(map(len, rows))
    columns = ([row[column].strip() for row in rows if column < len(row)] for column in range(width))
    return ["/".join(dict.fromkeys(filter(None, column))) for column in columns]


def table_blocks(
    rows: Sequence[Row], header_rows: int | None = None, page: int | None = None, title_level: int = 0
) -> list[Block]:
    """The blocks of one table. `header_rows` is None where the format does not tell: then the header is looked for.

    Lines above the header become text; the first of them a heading of `title_level`, if that is given.
    """
    rows = [row for row in rows if _filled(row)]
    if not rows:
        return []
    start = 0
    while start < len(rows) - 1 and header_rows and len(set(_filled(rows[start]))) == 1 and len(rows[start]) > 1:
        start, header_rows = start + 1, header_rows - 1  # a title inside the header
    if header_rows is None:
        found = _find_header(rows)
        start = _titles(rows) if found is None else found
        header_rows = 0 if found is None else header_depth(rows[start:])
    blocks = []
    for index, row in enumerate(rows[:start]):
        line = " ".join(dict.fromkeys(_filled(row)))
        titled = (
            title_level and index == 0 and len(set(_filled(row))) == 1 and len(line) <= 60 and line[-1] not in ":："
        )
        blocks.append(heading_block(line, title_level, page) if titled else text_block(line, page))
    body, header_rows = _without_copies(rows[start:], header_rows)
    if header_rows > 1:
        body[:header_rows] = [joined_header(body[:header_rows])]
        header_rows = 1
    if max(map(len, map(_filled, body)), default=0) < 2:
        text = "\n".join(cell for row in body for cell in dict.fromkeys(_filled(row)))
        return [*blocks, text_block(text, page)] if text else blocks
    return [*blocks, table_block(body, header_rows, page)]


def _without_copies(rows: Sequence[Row], header_rows: int) -> tuple[list[Row], int]:
    """The rows with each text once where cells are wide only because the form is drawn so; how many head them.

    A cell that reaches over several headings says something about each of them: there its copies stay. Where most
    rows are cut up, each in its own way, the table is a form, labels and entries by turns, without a header.
    """
    cut = [tuple(type(cell) is Copy for cell in row) for row in rows]
    under = cut[header_rows - 1] if header_rows else ()
    if not any(map(any, cut)) or (header_rows and not any(under)):
        return list(rows), header_rows
    if header_rows < 2 and len(set(cut)) > 2 and sum(map(any, cut)) > len(rows) / 2:
        return [[cell for cell in row if type(cell) is not Copy] for row in rows], 0
    body = [["" if type(cell) is Copy else cell for cell in row] for row in rows[header_rows:]]
    return [*rows[:header_rows], *body], header_rows


def _titles(rows: Sequence[Row]) -> int:
    """How many lines of one value lead a table that has no header."""
    count = 0
    while count < len(rows) - 1 and len(set(_filled(rows[count]))) == 1 and len(rows[count]) > 1:
        count += 1
    return count if count < min(4, len(rows) - 1) else 0
