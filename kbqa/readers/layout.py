"""Segments to columns, paragraphs and tables: the reading order of a page. Pure geometry.

Used for the text of PDFs and for what text recognition finds in pictures.

    Glyph -> Segment   a run of glyphs without a wide gap           (glyphs)
          -> Row       the segments that stand side by side
          -> columns   rows cut at gutters, in reading order
          -> Paragraph joined lines of one column                   (paragraphs)
             Table     rows whose segments stand in columns
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median

from kbqa.readers.glyphs import Row, Segment, Table, join, space_between
from kbqa.readers.paragraphs import Paragraph, paragraphs

__all__ = ["arrange", "merged_intervals", "rows_of"]

_LABEL = re.compile(r"[•●○■□◆◇▪▲△★☆※√✓–—*·\-①-⑳]|[（(\[]?[A-Za-z\d.]{1,4}[）)\].、．]?$")
_NUMBER = re.compile(r"[-+(（]?[¥$€]?\d[\d,.]*[%）)]?$")


def arrange(found: Sequence[Segment]) -> list[Paragraph | Table]:
    """Everything of a page or of a region in reading order."""
    return [item for column in columns(rows_of(found)) for item in _column(column)]


def rows_of(found: Iterable[Segment]) -> list[Row]:
    """Segments grouped by their height on the page; neighbours that only small gaps part are joined."""
    rows: list[Row] = []
    for segment in sorted(found, key=lambda segment: segment.middle):
        for row in reversed(rows[-3:]):
            height = min(segment.bottom - segment.top, row[0].bottom - row[0].top)
            if abs(segment.middle - row[0].middle) < 0.4 * height:
                row.append(segment)
                break
        else:
            rows.append([segment])
    return [_joined(sorted(row, key=lambda segment: segment.x0)) for row in rows]


def _joined(row: Row) -> Row:
    """Neighbours nearer than a column gutter made one segment."""
    out = row[:1]
    for segment in row[1:]:
        last = out[-1]
        gap, em = segment.x0 - last.x1, max(last.size, segment.size)
        if gap > 0.7 * em or segment.table or last.table:
            out.append(segment)
            continue
        space = " " if space_between(last.text[-1], segment.text[0], gap / (em or 1.0)) else ""
        out[-1] = replace(
            last if len(last.text) >= len(segment.text) else segment,
            text=last.text + space + segment.text,
            x0=last.x0,
            top=min(last.top, segment.top),
            x1=max(last.x1, segment.x1),
            bottom=max(last.bottom, segment.bottom),
            bold=last.bold and segment.bold,
            order=min(last.order, segment.order),
        )
    return out


def columns(rows: list[Row]) -> list[list[Row]]:
    """The rows of each column in reading order: what stands above columns, left, right, what stands below."""
    if len(rows) < 3:
        return [rows] if rows else []
    gutters = [(last - first, first, last, middle) for first, last, middle in _gutters(rows)]
    if not gutters:
        return [rows]
    _, first, last, middle = max(gutters)
    left = [part for row in rows[first : last + 1] if (part := [segment for segment in row if segment.x1 <= middle])]
    right = [part for row in rows[first : last + 1] if (part := [segment for segment in row if segment.x0 >= middle])]
    return [*columns(rows[:first]), *columns(left), *columns(right), *columns(rows[last + 1 :])]


def _gutters(rows: list[Row]) -> Iterator[tuple[int, int, float]]:
    """(first row, last row, x) of each white strip that parts columns of text."""
    found: list[tuple[int, int, float, float]] = []
    for index in range(len(rows)):
        for start, end in _gaps(rows, index):
            if any(first <= index <= last and start <= (x0 + x1) / 2 <= end for first, last, x0, x1 in found):
                continue  # the same one, seen from another row
            found.append(_gutter(rows, index, start, end))
    for first, last, start, end in found:
        if _are_columns(rows[first : last + 1], (start + end) / 2):
            yield first, last, (start + end) / 2


def _gaps(rows: list[Row], index: int) -> Iterator[tuple[float, float]]:
    """White between the segments of a row; between it and the next one, too, for columns whose lines alternate."""
    row = rows[index]
    for left, right in pairwise(row):
        yield left.x1, right.x0
    if index + 1 < len(rows) and len(row) == len(rows[index + 1]) == 1:
        left, right = sorted((row[0], rows[index + 1][0]), key=lambda segment: segment.x0)
        if left.x1 < right.x0 and min(left.bottom, right.bottom) > max(left.top, right.top):
            yield left.x1, right.x0


def _gutter(rows: list[Row], index: int, start: float, end: float) -> tuple[int, int, float, float]:
    """How far up and down the white between `start` and `end` in row `index` reaches: first row, last row, x, x."""
    em = median(segment.size for segment in rows[index])

    def narrowed(row: Row, start: float, end: float) -> tuple[float, float] | None:
        middle = (start + end) / 2
        for segment in row:
            if segment.x1 <= middle:
                start = max(start, segment.x1)
            elif segment.x0 >= middle:
                end = min(end, segment.x0)
            else:
                return None
        return (start, end) if end - start > 0.6 * em else None

    first = last = index
    while first > 0 and (white := narrowed(rows[first - 1], start, end)):
        first, (start, end) = first - 1, white
    while last + 1 < len(rows) and (white := narrowed(rows[last + 1], start, end)):
        last, (start, end) = last + 1, white
    return first, last, start, end


def _are_columns(rows: list[Row], middle: float) -> bool:
    """Columns of text rather than of a table: two blocks of lines, each written at one go or filled like prose."""
    left = [[segment for segment in row if segment.x1 <= middle] for row in rows]
    right = [[segment for segment in row if segment.x0 >= middle] for row in rows]
    sides = [[row for row in side if row] for side in (left, right)]
    if min(len(side) for side in sides) < 3:
        return False
    top = max(side[0][0].middle for side in sides)
    bottom = min(side[-1][0].middle for side in sides)
    both = min(sum(top <= row[0].middle <= bottom for row in side) for side in sides)
    em = median(segment.size for row in rows for segment in row)
    widths = [max(row[-1].x1 for row in side) - min(row[0].x0 for row in side) for side in sides]
    fills = [
        sum(segment.x1 - segment.x0 for row in side for segment in row) / (width * len(side))
        for side, width in zip(sides, widths, strict=True)
    ]
    stream = sorted((segment.order, segment.x0 >= middle) for row in rows for segment in row)
    switches = sum(one[1] != two[1] for one, two in pairwise(stream))
    if both >= 3 and switches <= max(1, both // 4) and min(widths) > 8 * em:
        return min(fills) > 0.25
    return min(fills) > 0.6 and min(widths) > 12 * em


# --- rows to paragraphs and tables -----------------------------------------------------------------------------------


def _column(rows: list[Row]) -> Iterator[Paragraph | Table]:
    """What one column holds: tables that stand without lines, and the paragraphs between them."""
    at = 0
    text: list[Segment] = []
    left, right = min(row[0].x0 for row in rows), max(row[-1].x1 for row in rows)
    while at < len(rows):
        if any(segment.table for segment in rows[at]):
            text += [segment for segment in rows[at] if not segment.table]
            yield from paragraphs(text, left, right)
            text = []
            yield from (segment.table for segment in rows[at] if segment.table)
            at += 1
            continue
        taken, table = _aligned(rows, at) if len(rows[at]) > 1 else (0, None)
        if table:
            yield from paragraphs(text, left, right)
            text = []
            yield table
            at += taken
        else:
            text += [_one_line(rows[at])] if len({segment.bold for segment in rows[at]}) == 1 else rows[at]
            at += 1
    yield from paragraphs(text, left, right)


def _one_line(row: Row) -> Segment:
    if len(row) == 1:
        return row[0]
    longest = max(row, key=lambda segment: len(segment.text))
    return replace(
        longest,
        text=" ".join(segment.text for segment in row),
        x0=row[0].x0,
        top=min(segment.top for segment in row),
        x1=max(segment.x1 for segment in row),
        bottom=max(segment.bottom for segment in row),
        bold=all(segment.bold for segment in row),
    )


def _aligned(rows: list[Row], start: int) -> tuple[int, Table | None]:
    """A table without lines that begins at row `start`: how many rows it takes, and the table.

    Its rows hold two cells or more, which stand in columns that no cell crosses. A row with one cell, close below
    and inside a column, is the second line of that cell.
    """
    em = median(segment.size for segment in rows[start])
    bands: list[tuple[float, float]] = []
    taken: list[Row] = []
    for row in rows[start:]:
        if any(segment.table for segment in row):
            break
        if taken and row[0].top - max(segment.bottom for segment in taken[-1]) > 2.5 * em:
            break
        merged = merged_intervals([*bands, *((segment.x0, segment.x1) for segment in row)])
        columns_hit = {_band_of(merged, segment) for segment in row}
        single = len(row) == 1 and len(merged) == len(bands) and taken and _continues_cell(taken[-1], row[0])
        if len(merged) < max(2, len(bands)) or (len(columns_hit) < 2 and not single):
            break
        if bands and len(merged) > len(bands) + 1:
            break
        bands = merged
        taken.append(row)
    full = [row for row in taken if len(row) > 1]
    if len(full) < 3 or all(_LABEL.match(row[0].text) for row in full):
        return 0, None
    lines: list[list[str]] = []
    for row in taken:
        cells = [""] * len(bands)
        for segment in row:
            column = _band_of(bands, segment)
            cells[column] = join(cells[column], segment.text)
        if len(row) == 1 and lines:
            lines[-1] = [join(one, two) for one, two in zip(lines[-1], cells, strict=True)]
        else:
            lines.append(cells)
    top, bottom = min(seg.top for seg in taken[0]), max(seg.bottom for seg in taken[-1])
    return len(taken), Table(tuple(tuple(line) for line in lines), names_columns(lines), top, bottom)


def _continues_cell(row: Row, below: Segment) -> bool:
    """Whether `below` is the next line of a cell of `row` other than its first."""
    return any(
        abs(cell.x0 - below.x0) < 0.5 * cell.size and below.top - cell.bottom < 0.6 * cell.size
        for cell in (row if len(row) == 1 else row[1:])
    )


def merged_intervals(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that overlap made one, in order."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(intervals):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _band_of(bands: list[tuple[float, float]], segment: Segment) -> int:
    return next(index for index, (start, end) in enumerate(bands) if start <= segment.x0 and segment.x1 <= end)


def names_columns(rows: Sequence[Sequence[str]]) -> int:
    """1 when the first row can be a header: no figures and no labelled values in it; else 0."""
    return int(
        len(rows) > 1 and not any(_NUMBER.match(cell) or cell.rstrip().endswith(("：", ":")) for cell in rows[0])
    )
