"""Glyphs to segments: the runs of characters that a line of text is made of. Pure geometry and a little typography.

Coordinates are points (or pixels) with y downwards; every threshold is relative to the size of the type.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

__all__ = [
    "CJK",
    "Glyph",
    "Row",
    "Segment",
    "Style",
    "Table",
    "is_chinese",
    "join",
    "join_all",
    "segments",
    "space_between",
    "written_askew",
]

# Written out, for importing the analyzer costs a reading worker 0.3 s that it has no other use for.
CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003134f"

_SPACE = 0.2  # em: a wider gap between Latin glyphs is a space
_CJK_SPACE = 0.8  # em: the same between Chinese characters, which carry their own white
_APART = 1.5  # em: a wider gap ends a segment
_HAN = CJK.replace(r"\uac00-\ud7af", "")  # Korean parts its words with spaces
_NO_SPACE = re.compile(f"[{_HAN}\u3000-\u303f\uff00-\uff65\u2014\u2018-\u201d\u2026\u00b7]")
_LETTER_GAP = re.compile(f"(?<=[{_HAN}，、]) (?=[{_HAN}])")


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


def is_chinese(character: str) -> bool:
    """Whether it is set without spaces: Chinese and Japanese characters and full-width punctuation."""
    return bool(_NO_SPACE.match(character))


def space_between(left: str, right: str, gap: float, marked: int = 0) -> bool:
    """Whether white of `gap` em between two glyphs is a space. `marked` as in Glyph.space."""
    chinese = is_chinese(left) + is_chinese(right)
    if marked == 2 and chinese < 2:
        return gap > -0.5
    if chinese == 0:
        return gap > _SPACE or (marked > 0 and gap > 0.12)
    return gap > _CJK_SPACE or (marked == 2 and gap > 0.12) or (marked == 1 and chinese == 2 and gap > 0.4)


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


def written_askew(glyphs: Sequence[Glyph]) -> list[str]:
    """The words of glyphs that stand on slanting lines, as they follow each other in the stream."""
    words: list[str] = []
    for last, glyph in zip([None, *glyphs], glyphs, strict=False):
        near = 2 * glyph.style.size
        if last and abs(glyph.x0 - last.x0) < near and abs(glyph.top - last.top) < near:
            words[-1] += (" " if glyph.space else "") + glyph.text
        else:
            words.append(glyph.text)
    return words


def _is_letterspaced(text: str) -> bool:
    """Chinese set wide, as titles and justified names are: nearly every character has a space after it."""
    spaces = text.count(" ")
    return spaces > 0 and spaces >= 0.6 * (len(text) - spaces - 1)


def _is_raised(glyph: Glyph, last: Glyph) -> bool:
    return glyph.style.size < 0.85 * last.style.size and glyph.bottom < last.bottom - 0.1 * last.style.size


def _segment(run: list[Glyph]) -> Segment:
    parts: list[str] = []
    last: Glyph | None = None
    for glyph in run:
        if last and parts[-1] != " ":
            gap = glyph.x0 - last.x1
            em = last.style.size or last.bottom - last.top
            if (gap > 0.1 * em or glyph.space) and space_between(last.text, glyph.text, gap / (em or 1.0), glyph.space):
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
