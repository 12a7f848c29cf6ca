"""Glyphs to lines, lines to columns, columns to paragraphs and tables: the reading order of a page. Pure geometry.

Used for the text of PDFs and for what text recognition finds in pictures. Coordinates are points (or pixels) with y
downwards; every threshold is relative to the size of the type.

    Glyph -> Segment   a run of glyphs without a wide gap
          -> Row       the segments that stand side by side
          -> Paragraph joined lines of one column, or Table, rows whose segments stand in columns
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import NamedTuple

__all__ = ["Glyph", "Paragraph", "Segment", "Style", "Table", "arrange", "join", "join_all", "segments"]

# Written out, for importing the analyzer costs a reading worker 0.3 s that it has no other use for.
CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f"

_SPACE = 0.2  # em: a wider gap between Latin glyphs is a space
_CJK_SPACE = 0.8  # em: the same between Chinese characters, which carry their own white
_APART = 1.5  # em: a wider gap ends a segment
_HAN = CJK.replace(r"\uac00-\ud7af", "")  # Korean parts its words with spaces
_NO_SPACE = re.compile(f"[{_HAN}\u3000-\u303f\uff00-\uff65\u2014\u2018-\u201d\u2026\u00b7]")
_LETTER_GAP = re.compile(f"(?<=[{_HAN}，、]) (?=[{_HAN}])")
_LEADERS = re.compile(r"(?:[.．·…‥]\s?){5,}")  # the dots of a table of contents
_MARKER = re.compile(
    r"""[•●○■□◆◇▪▲△★☆※√✓–—*·\-]$|[•●■◆▪※*]\s?\S|[□√]\s?\S
    |[（(]?(?:\d{1,2}|[一二三四五六七八九十]{1,3}|[a-zA-Z]|[ivx]{1,4})[）)、.．](?![\d.．])
    |第[一二三四五六七八九十百零〇\d]{1,4}[章节条款编部分]|\[\d{1,3}\]|[①-⑳]|\d{1,2}(?:\.\d{1,2}){1,3}[\s、]""",
    re.VERBOSE,
)
_LABEL = re.compile(r"[•●○■□◆◇▪▲△★☆※√✓–—*·\-①-⑳]|[（(\[]?[\w.]{1,4}[）)\].、．]?$")
_NUMBER = re.compile(r"[-+(（]?[¥$€]?\d[\d,.]*[%）)]?$")


class Style(NamedTuple):
    size: float  # of the type, in the unit of the coordinates
    bold: bool


class Glyph(NamedTuple):
    text: str
    x0: float
    top: float
    x1: float
    bottom: float
    style: Style
    order: int  # in the content stream
    space: int  # before it in the stream: 0 none, 1 one that PDFium infers, 2 one that the file has


@dataclass(frozen=True, slots=True)
class Segment:
    text: str
    x0: float
    top: float
    x1: float
    bottom: float
    size: float
    bold: bool = False
    order: int = 0
    table: Table | None = None  # what stands in this place when it is not text

    @property
    def middle(self) -> float:
        return (self.top + self.bottom) / 2


Row = list[Segment]  # side by side, from left to right


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str
    x0: float
    top: float
    x1: float
    bottom: float
    size: float
    bold: bool
    lines: int = 1


@dataclass(frozen=True, slots=True)
class Table:
    rows: tuple[tuple[str, ...], ...]
    header_rows: int
    top: float
    bottom: float
    edges: tuple[float, ...] = ()  # x of the column borders where lines draw them


# --- text ------------------------------------------------------------------------------------------------------------


def join(left: str, right: str) -> str:
    """Two lines of one paragraph: Chinese without a space, Latin with one, words divided at the line's end healed."""
    if not left or not right:
        return left or right
    if left.endswith("\xad"):
        return left[:-1] + right
    if left[-1] in "-‐" and right[0].islower() and len(left) > 1 and left[-2].isalpha() and left[-2].isascii():
        word = left[:-1].rsplit(None, 1)[-1]
        return left + right if "-" in word else left[:-1] + right
    return left + right if _NO_SPACE.match(left[-1]) or _NO_SPACE.match(right[0]) else f"{left} {right}"


def join_all(lines: Iterable[str]) -> str:
    text = ""
    for line in lines:
        text = join(text, line)
    return text


# --- glyphs to segments ----------------------------------------------------------------------------------------------


def segments(glyphs: Sequence[Glyph]) -> list[Segment]:
    """Runs of glyphs that follow each other on a line, in stream order; what is printed twice is taken once."""
    glyphs = _upright(glyphs)
    runs: list[list[Glyph]] = []
    for glyph in glyphs:
        if runs:
            last = runs[-1][-1]
            if glyph.text == last.text and _same_place(glyph, last):
                continue
            if _follows(last, glyph):
                runs[-1].append(glyph)
                continue
        runs.append([glyph])
    return _without_doubles([_segment(run) for run in runs])


def _upright(glyphs: Sequence[Glyph]) -> Sequence[Glyph]:
    """Vertical writing (down, then to the left) turned so that it can be read as lines; other text as it is."""
    if len(glyphs) < 8:
        return glyphs
    down = 0
    for last, glyph in pairwise(glyphs):
        height = last.bottom - last.top
        if abs(glyph.x0 - last.x0) < 0.3 * height and 0.5 * height < glyph.top - last.top < 2 * height:
            down += 1
    if down < 0.6 * len(glyphs):
        return glyphs
    return [glyph._replace(x0=glyph.top, top=-glyph.x1, x1=glyph.bottom, bottom=-glyph.x0) for glyph in glyphs]


def _same_place(one: Glyph, other: Glyph) -> bool:
    near = 0.1 * (other.bottom - other.top)  # two l of a condensed font stand 0.2 em apart
    return abs(one.x0 - other.x0) < near and abs(one.top - other.top) < near


def _follows(last: Glyph, glyph: Glyph) -> bool:
    """Whether `glyph` continues the line of `last`, as a superscript too."""
    overlap = min(last.bottom, glyph.bottom) - max(last.top, glyph.top)
    height = min(last.bottom - last.top, glyph.bottom - glyph.top)
    em = max(last.style.size, glyph.style.size) or height
    return overlap > 0.4 * height and -0.5 * em < glyph.x0 - last.x1 < _APART * em


def _is_space(gap: float, marked: int, left: str, right: str) -> bool:
    """Whether white of `gap` em between two glyphs is a space. `marked` as in Glyph.space."""
    chinese = bool(_NO_SPACE.match(left)) + bool(_NO_SPACE.match(right))
    if chinese == 0:
        return gap > _SPACE or (marked > 0 and gap > 0.12)
    return gap > _CJK_SPACE or (marked == 2 and gap > 0.12) or (marked == 1 and chinese == 2 and gap > 0.4)


def _is_letterspaced(text: str) -> bool:
    """Chinese set wide, as titles and justified names are: nearly every character has a space after it."""
    spaces = text.count(" ")
    return spaces > 0 and spaces >= 0.6 * (len(text) - spaces - 1)


def _is_raised(glyph: Glyph, last: Glyph) -> bool:
    return glyph.style.size < 0.8 * last.style.size and glyph.bottom < last.bottom - 0.1 * last.style.size


def _segment(run: list[Glyph]) -> Segment:
    parts: list[str] = []
    last: Glyph | None = None
    for glyph in run:
        if last and parts[-1] != " ":
            gap = glyph.x0 - last.x1
            em = last.style.size or last.bottom - last.top
            if _is_space(gap / (em or 1.0), glyph.space, last.text, glyph.text):
                parts.append(" ")
            elif last.text.isdigit() and glyph.text.isdigit() and _is_raised(glyph, last):
                parts.append("^")  # 10 to the 6th is not 106, and a footnote's mark no part of the figure
        parts.append(glyph.text)
        last = glyph
    sizes = sorted(glyph.style.size for glyph in run)
    text = "".join(parts)
    return Segment(
        text=_LETTER_GAP.sub("", text) if _is_letterspaced(text) else text,
        x0=min(glyph.x0 for glyph in run),
        top=min(glyph.top for glyph in run),
        x1=max(glyph.x1 for glyph in run),
        bottom=max(glyph.bottom for glyph in run),
        size=sizes[len(sizes) // 2],
        bold=all(glyph.style.bold for glyph in run),
        order=run[0].order,
    )


def _without_doubles(runs: list[Segment]) -> list[Segment]:
    """Without those printed again at the same place, as shadows and cheap boldness are."""
    kept: list[Segment] = []
    seen: dict[str, list[Segment]] = {}
    for run in runs:
        near = 0.25 * (run.bottom - run.top)
        twins = seen.setdefault(run.text, [])
        if any(abs(twin.x0 - run.x0) < near and abs(twin.top - run.top) < near for twin in twins):
            continue
        twins.append(run)
        kept.append(run)
    return kept


# --- segments to rows and columns ------------------------------------------------------------------------------------


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
        cjk = _NO_SPACE.match(segment.text[0]) or _NO_SPACE.match(last.text[-1])
        space = " " if gap > (_CJK_SPACE if cjk else _SPACE) * em else ""
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
    best: tuple[int, int, int, float] | None = None
    tried: set[tuple[int, int]] = set()
    for index, row in enumerate(rows):
        for left, right in pairwise(row):
            key = (index, round(left.x1))
            if key in tried:
                continue
            first, last, start, end = _gutter(rows, index, left.x1, right.x0)
            middle = (start + end) / 2
            for other in range(first, last + 1):  # the same gutter is not tried again from its other rows
                for one, two in zip(rows[other], rows[other][1:], strict=False):
                    if one.x1 <= middle <= two.x0:
                        tried.add((other, round(one.x1)))
            if best and last - first <= best[1] - best[0]:
                continue
            if _are_columns(rows[first : last + 1], middle):
                best = (first, last, best[2] if best else 0, middle)
    if not best:
        return [rows]
    first, last, _, middle = best
    left_rows = [part for row in rows[first : last + 1] if (part := [seg for seg in row if seg.x1 <= middle])]
    right_rows = [part for row in rows[first : last + 1] if (part := [seg for seg in row if seg.x0 >= middle])]
    return [*columns(rows[:first]), *columns(left_rows), *columns(right_rows), *columns(rows[last + 1 :])]


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
    both = sum(bool(one and two) for one, two in zip(left, right, strict=True))
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
            yield from _paragraphs(text, left, right)
            text = []
            yield from (segment.table for segment in rows[at] if segment.table)
            at += 1
            continue
        taken, table = _aligned(rows, at) if len(rows[at]) > 1 else (0, None)
        if table:
            yield from _paragraphs(text, left, right)
            text = []
            yield table
            at += taken
        else:
            text += [_one_line(rows[at])] if len({segment.bold for segment in rows[at]}) == 1 else rows[at]
            at += 1
    yield from _paragraphs(text, left, right)


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
        merged = _bands([*bands, *((segment.x0, segment.x1) for segment in row)])
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


def _bands(intervals: list[tuple[float, float]]) -> list[tuple[float, float]]:
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


def _paragraphs(lines: list[Segment], left: float, right: float) -> Iterator[Paragraph]:
    """Lines of one column, top down, joined to paragraphs. `left` and `right` are the borders of the column."""
    if not lines:
        return
    # The lines of one paragraph stand closest, so the usual pitch is among the small ones.
    pitches = sorted(b.top - a.top for a, b in pairwise(lines) if _alike(a, b) and b.top > a.top)
    pitch = pitches[len(pitches) // 8] if pitches else 0.0
    size = median(line.size for line in lines)
    for block in _blocks(lines, pitch, size):
        farthest = max(line.x1 for line in block)
        margins = _Margins(
            left=min(line.x0 for line in block),
            right=farthest if farthest > right - 0.4 * (right - left) else right,
            size=size,
        )
        group = block[:1]
        for above, below in pairwise(block):
            if _begins(above, below, group, margins):
                yield _paragraph(group)
                group = []
            group.append(below)
        yield _paragraph(group)


def _blocks(lines: list[Segment], pitch: float, size: float) -> Iterator[list[Segment]]:
    """Lines cut where white or other type parts paragraphs for certain."""
    block = lines[:1]
    for above, below in pairwise(lines):
        em = below.size or 1.0
        usual = max(1.25 * pitch * max(1.0, em / (size or 1.0)), 1.1 * em)
        white = below.top - above.top > usual and below.top - above.bottom > 0.3 * em
        bolder = above.bold != below.bold and above.size < 1.1 * size
        if white or bolder or not _alike(above, below):
            yield block
            block = []
        block.append(below)
    yield block


class _Margins(NamedTuple):
    left: float
    right: float
    size: float  # in which most lines are set


def _alike(one: Segment, other: Segment) -> bool:
    return abs(one.size - other.size) <= 0.08 * max(one.size, other.size)


def _begins(above: Segment, below: Segment, group: list[Segment], margins: _Margins) -> bool:
    """Whether the line `below` begins a paragraph of its own."""
    em = below.size or 1.0
    if _MARKER.match(below.text):
        return True
    if abs((above.x0 + above.x1) - (below.x0 + below.x1)) < em and above.x0 != below.x0:  # centred
        if above.size > 1.1 * margins.size:
            return False  # a title
        if min(above.x0, below.x0) > margins.left + 2 * em:
            return False
    body_left = min(line.x0 for line in group[1:]) if len(group) > 1 else margins.left
    hanging = bool(_MARKER.match(group[0].text)) and below.x0 > group[0].x0
    if not hanging and below.x0 - body_left > 0.9 * em and below.x0 >= above.x0 - 0.1:
        return True
    return margins.right - above.x1 > _first_word(below) + 0.5 * em


def _first_word(line: Segment) -> float:
    """The width that the line above would have needed to take the first word of `line` in."""
    if _NO_SPACE.match(line.text[0]):
        return 2 * line.size  # punctuation that may not begin a line can take a character down with it
    word = re.split(rf"[\s{CJK}]", line.text, maxsplit=1)[0]
    return (line.x1 - line.x0) * len(word) / len(line.text)


def _paragraph(lines: list[Segment]) -> Paragraph:
    longest = max(lines, key=lambda line: len(line.text))
    return Paragraph(
        text=_LEADERS.sub(" … ", join_all(line.text for line in lines)).strip(),
        x0=min(line.x0 for line in lines),
        top=lines[0].top,
        x1=max(line.x1 for line in lines),
        bottom=lines[-1].bottom,
        size=longest.size,
        bold=all(line.bold for line in lines),
        lines=len(lines),
    )
