"""Lines of one column to paragraphs: which line continues the one above it, and which begins anew."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from kbqa.readers.glyphs import CJK, Segment, is_chinese, join, join_all

__all__ = ["Paragraph", "goes_on", "joined", "paragraphs"]

_LEADERS = re.compile(r"(?:[.．·…‥]\s?){5,}")  # the dots of a table of contents
_ENDED = re.compile(r"[。．！？；：.!?;:…][”’」』）)\]]*$")
_MARKER = re.compile(
    r"""[•●○■□◆◇▪▲△★☆※√✓–—*·\-]$|[•●■◆▪※*]\s?\S|[□√]\s?\S
    |[（(]?(?:\d{1,2}|[一二三四五六七八九十]{1,3}|[a-zA-Z]|[ivx]{1,4})[）)、.．](?![\d.．])
    |第[一二三四五六七八九十百零〇\d]{1,4}[章节条款编部分步]|\[\d{1,3}\]|[①-⑳]|\d{1,2}(?:\.\d{1,2}){1,3}[\s、]""",
    re.VERBOSE,
)


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
    begin: float = 0.0  # x of the first line
    end: float = 0.0  # x at which the last line ends


def paragraphs(lines: list[Segment], left: float, right: float) -> Iterator[Paragraph]:
    """Lines of one column, top down, joined to paragraphs. `left` and `right` are the borders of the column."""
    if not lines:
        return
    size = median(line.size for line in lines)
    pitch = _pitch(lines, size)
    for block in _blocks(lines, pitch, size):
        farthest = -_margin([-line.x1 for line in block], size)
        margins = _Margins(
            left=_margin([line.x0 for line in block], size),
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


def _pitch(lines: list[Segment], size: float) -> float:
    """How far apart the lines of one paragraph usually stand: those after a full line tell, else the closest ones.

    The upper quartile of them, because footnotes are set closer than the text.
    """
    right, left = -_margin([-line.x1 for line in lines], size), _margin([line.x0 for line in lines], size)
    pairs = [(above, below) for above, below in pairwise(lines) if _alike(above, below) and below.top > above.top]
    pitches = sorted(below.top - above.top for above, below in pairs)
    full = sorted(
        below.top - above.top
        for above, below in pairs
        if above.x1 > right - 1.5 * size and below.x0 < left + size and below.top - above.top < 3 * size
    )
    if full:
        return full[len(full) * 3 // 4]
    return pitches[len(pitches) // 8] if pitches else 0.0


def _margin(edges: list[float], em: float) -> float:
    """Where the lines begin: the outermost of `edges`, or what most agree on if only a few stand further out.

    Numbers and notes beside the text would otherwise make every line of it look indented or short.
    """
    edges = sorted(edges)
    for start, edge in enumerate(edges[: len(edges) // 4 + 1]):
        if sum(other - edge < em for other in edges[start:]) > 0.4 * len(edges):
            return edge
    return edges[0]


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
    if is_chinese(line.text[0]):
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
        begin=lines[0].x0,
        end=lines[-1].x1,
    )


def goes_on(above: Paragraph, below: Paragraph, left: float, right: float) -> bool:
    """Whether `below`, at the head of the next column or page, is the rest of `above`, which was cut off there.

    `left` and `right` are the borders of the text in the column of `above`. The columns may stand anywhere.
    """
    em = above.size
    if abs(above.size - below.size) > 0.08 * em or above.bold != below.bold:
        return False
    if _ENDED.search(above.text) or _MARKER.match(below.text) or (above.lines == 1 and above.begin > left + 4 * em):
        return False
    full = right - above.end < (2.5 if is_chinese(below.text[0]) else 5) * em
    indented = below.lines > 1 and below.begin - below.x0 > 0.9 * em
    return full and not indented and right - left > 12 * em


def joined(above: Paragraph, below: Paragraph) -> Paragraph:
    """Both as one paragraph, in the place of the upper one."""
    return replace(above, text=join(above.text, below.text), lines=above.lines + below.lines, end=below.end)
