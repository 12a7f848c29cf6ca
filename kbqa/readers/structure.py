"""Paragraphs and tables of pages to the blocks of a document: headings and their levels, running heads, the title.

What is a heading is judged against the document itself: by larger or bolder type than its body, by the numbering
that Chinese documents use, and by the outline where the file has one.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kbqa.readers.content import heading_block, table_block, text_block
from kbqa.readers.glyphs import CJK, Row, Segment, Table
from kbqa.readers.paragraphs import Paragraph, goes_on, joined
from kbqa.types import Block

__all__ = ["OutlineEntry", "Page", "blocks_of", "running_heads", "sensible_title"]

_LARGER = 1.12  # times the body's size: type of a heading
_LARGER_SCANNED = 1.2  # the same where the size of the type is an estimate
_EDGE = 0.13  # of the page's height: where running heads and page numbers stand
_SAME_HEIGHT = 8.0  # points by which a running head may wander
_DEEPEST = 6

_END = re.compile(r"[。；;，,、.!！?？…]$")
_NUMBERINGS = (  # outermost first; the place in this list is the rank
    re.compile(r"第\s?[一二三四五六七八九十百\d]+\s?[编篇部]"),
    re.compile(r"第\s?[一二三四五六七八九十百零〇\d]+\s?章|(?:Chapter|Part|Appendix)\s+[\dA-Z]|附\s?[录件表]"),
    re.compile(r"第\s?[一二三四五六七八九十百零〇\d]+\s?节"),
    re.compile(r"[一二三四五六七八九十]{1,3}\s?[、.．]"),
    re.compile(r"[（(][一二三四五六七八九十]{1,3}[）)]"),
    re.compile(r"\d{1,2}(?:[、．]|\.?(?=\s|[^\W\d_]))(?!\d)"),
    re.compile(r"\d{1,2}[.．]\d{1,2}(?![.．\d%])"),
    re.compile(r"\d{1,2}(?:[.．]\d{1,2}){2}(?![.．\d])"),
    re.compile(r"\d{1,2}(?:[.．]\d{1,2}){3}(?![.．\d])"),
)
_CERTAIN = {0, 1, 2, 3, 4, 6, 7, 8}  # ranks that make a heading of a short line in the body's own type
_DATE = re.compile(
    r"[\d零〇一二三四五六七八九]{2,4}\s*年\s*[\d一二三四五六七八九十]{1,2}\s*月(?:\s*[\d一二三四五六七八九十]{1,3}\s*日)?"
)
_PAGE_AT_END = re.compile(r"[\s…]\d{1,4}$")  # of a line in a table of contents or a running head
_SQUEEZE = re.compile(r"\s+")
_FILE_NAME = re.compile(
    r"^[\w.\-\\/: ]*\.(?:docx?|pptx?|xlsx?|pdf|txt|html?|indd|wps|tex|dvi)$|^[A-Za-z0-9_.\-]*[\d_.][A-Za-z0-9_.\-]*$"
)
_UNTITLED = re.compile(
    r"^(?:untitled|目\s*录|contents|无标题|未命名|文档|document|slide|powerpoint 演示文稿|幻灯片)\s?\d*$", re.IGNORECASE
)
_PROGRAM = re.compile(r"^Microsoft (?:Word|PowerPoint|Excel) - ", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Page:
    number: int  # from 1
    items: Sequence[Paragraph | Table]
    scanned: bool = False  # sizes are estimates, then


@dataclass(frozen=True, slots=True)
class OutlineEntry:
    title: str
    level: int  # from 1
    page: int | None  # from 1


Type = tuple[float, int, bool]  # of a heading: -size, rank of the numbering, not bold; smaller is further out


def blocks_of(pages: Sequence[Page], outline: Sequence[OutlineEntry] = ()) -> list[Block]:
    """All items as blocks, in order. A table that goes on from the page before gets that one's header again."""
    body = _body_size(pages)
    pages = _rejoined(pages, body)
    bold_body = _mostly_bold(pages)
    named = _outlined(pages, outline)
    types: dict[tuple[int, int], Type] = {}
    for page in pages:
        for index, item in enumerate(page.items):
            if isinstance(item, Paragraph):
                kind = _heading_type(item, body, bold_body, page.scanned)
                if kind or (page.number, index) in named:
                    types[page.number, index] = kind or (-body, len(_NUMBERINGS), True)
    levels = _levels(types, named)
    blocks: list[Block] = []
    carried: Table | None = None
    for page in pages:
        for index, item in enumerate(page.items):
            if isinstance(item, Table):
                table = _continued(item, carried) if index == 0 else item
                blocks.append(table_block(table.rows, table.header_rows, page.number))
                carried = table
            elif level := levels.get((page.number, index)):
                blocks.append(heading_block(item.text, level, page.number))
                carried = None
            else:
                blocks.append(text_block(item.text, page.number))
                carried = None
    return blocks


def _rejoined(pages: Sequence[Page], body: float) -> list[Page]:
    """`pages` with the paragraphs whole that the end of a column or of a page cuts off, where they begin.

    Footnotes, and running heads that were not told from text, stand in smaller type between the two halves.
    """
    out: list[Page] = []
    drawn: list[list[Paragraph | Table]] = []  # their items
    cut: Paragraph | None = None  # the last paragraph of the text
    place = (0, 0)  # of it: index of the page in `out` and of the item on it
    borders: tuple[float, float] | None = None  # of its column
    for page in pages:
        items: list[Paragraph | Table] = []
        drawn.append(items)
        out.append(replace(page, items=items))
        for item in page.items:
            if isinstance(item, Table):
                cut = None
            elif cut is not None and (place[0] < len(out) - 1 or item.top < cut.top):
                borders = borders or _borders(pages[place[0]].items, cut)
                if goes_on(cut, item, *borders):
                    cut = joined(cut, item)
                    drawn[place[0]][place[1]] = cut
                    continue
            if isinstance(item, Paragraph) and item.size >= 0.92 * body:
                cut, place, borders = item, (len(out) - 1, len(items)), None
            items.append(item)
    return out


def _borders(items: Iterable[Paragraph | Table], paragraph: Paragraph) -> tuple[float, float]:
    """Where the text of the column begins and ends that `paragraph` stands in."""
    column = [
        item
        for item in items
        if isinstance(item, Paragraph) and item.x0 < paragraph.x1 and paragraph.x0 < item.x1 and item.size > 0
    ]
    return min(item.x0 for item in column), max(item.x1 for item in column)


def _continued(table: Table, before: Table | None) -> Table:
    """`table` with the header of the one it continues: same column borders, right after it, no header of its own."""
    if not before or not before.header_rows or len(before.edges) != len(table.edges) or not table.edges:
        return table
    if any(abs(one - other) > 3 for one, other in zip(before.edges, table.edges, strict=True)):
        return table
    header = before.rows[: before.header_rows]
    if table.rows[: len(header)] == header:
        return replace(table, header_rows=len(header))
    return replace(table, rows=(*header, *table.rows), header_rows=len(header))


# --- headings --------------------------------------------------------------------------------------------------------


def _paragraphs(pages: Iterable[Page]) -> Iterable[Paragraph]:
    return (item for page in pages for item in page.items if isinstance(item, Paragraph))


def _body_size(pages: Sequence[Page]) -> float:
    """The size in which most characters are set."""
    weight: Counter[float] = Counter()
    for paragraph in _paragraphs(pages):
        weight[round(paragraph.size * 2) / 2] += len(paragraph.text)
    return weight.most_common(1)[0][0] if weight else 0.0


def _mostly_bold(pages: Sequence[Page]) -> bool:
    total = bold = 0
    for paragraph in _paragraphs(pages):
        total += len(paragraph.text)
        bold += len(paragraph.text) if paragraph.bold else 0
    return bold > 0.4 * total


def _width(text: str) -> float:
    """Length in Chinese characters; Latin letters are narrower."""
    return sum(1.0 if re.match(f"[{CJK}]", character) else 0.45 for character in text)


def _numbering(text: str) -> int | None:
    return next((rank for rank, pattern in enumerate(_NUMBERINGS) if pattern.match(text)), None)


def _heading_type(paragraph: Paragraph, body: float, bold_body: bool, scanned: bool) -> Type | None:
    """The type of a heading, or None for text."""
    text = paragraph.text
    width = _width(text)
    if width > 60 or paragraph.lines > 3 or _END.search(text) or _DATE.fullmatch(text):
        return None
    if not re.search(r"[^\W\d_]", text):
        return None
    rank = _numbering(text)
    if (rank is not None and _PAGE_AT_END.search(text)) or (scanned and width > 30):
        return None
    size = round(paragraph.size * 2) / 2
    larger = size >= (_LARGER_SCANNED if scanned else _LARGER) * body
    if not larger and size < 0.95 * body and rank is None:
        return None
    bold = paragraph.bold and not bold_body
    short = paragraph.lines == 1 and width <= 30
    numbered = rank in _CERTAIN and short and not text.endswith(("：", ":")) and "。" not in text
    if larger or numbered or (bold and paragraph.lines <= 2 and width <= 40 and not text.endswith(("：", ":"))):
        unnumbered = -1 if larger else len(_NUMBERINGS)
        shown = size if larger else min(size, body)
        return (-shown, unnumbered if rank is None else rank, not paragraph.bold)
    return None


def _levels(types: Mapping[tuple[int, int], Type], named: Mapping[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """A level for each heading: the outline's where it names it, else by the order of the types in use."""
    known: dict[Type, int] = {}
    for place, level in named.items():
        known[types[place]] = min(level, known.get(types[place], _DEEPEST))
    order = sorted(set(types.values()))
    level_of: dict[Type, int] = {}
    above = 0
    for kind in order:
        above = known.get(kind, above + 1 if kind not in known else above)
        level_of[kind] = min(above, _DEEPEST)
    return {place: named.get(place, level_of[kind]) for place, kind in types.items()}


def _outlined(pages: Sequence[Page], outline: Sequence[OutlineEntry]) -> dict[tuple[int, int], int]:
    """(page, index of the item) -> level of the paragraphs that the outline names on their page."""
    wanted: defaultdict[int | None, list[OutlineEntry]] = defaultdict(list)
    for entry in outline:
        wanted[entry.page].append(entry)
    found: dict[tuple[int, int], int] = {}
    for page in pages:
        titles = {_squeezed(entry.title): min(entry.level, _DEEPEST) for entry in reversed(wanted.get(page.number, []))}
        for index, item in enumerate(page.items):
            if isinstance(item, Paragraph) and (text := _squeezed(item.text)) in titles:
                found[page.number, index] = titles.pop(text)
    return found


def _squeezed(text: str) -> str:
    return _SQUEEZE.sub("", unicodedata.normalize("NFKC", text)).lower()


# --- running heads ---------------------------------------------------------------------------------------------------


def running_heads(pages: Sequence[Sequence[Row]], heights: Sequence[float]) -> list[set[int]]:
    """For each page the indexes of its rows that repeat, at the same height, on most pages; figures may differ.

    `pages` holds the rows of each page top down, `heights` the pages' heights. Rows are looked for near the upper
    and lower edge only; of a document with one page nothing repeats.
    """
    found: list[set[int]] = [set() for _ in pages]
    if len(pages) < 2:
        return found
    seen: defaultdict[str, list[tuple[float, int, int]]] = defaultdict(list)
    for number, (rows, height) in enumerate(zip(pages, heights, strict=True)):
        for index in {*range(min(3, len(rows))), *range(max(0, len(rows) - 3), len(rows))}:
            row = rows[index]
            top = row[0].top
            figure = is_page_number(row) and index in (0, len(rows) - 1)
            edge = row[0].bottom < _EDGE * height or top > (1 - _EDGE) * height
            if (edge or figure) and not any(segment.table for segment in row):
                text = "" if figure else re.sub(r"\d+", "0", _squeezed("".join(segment.text for segment in row)))
                seen[text].append((0.0 if figure and edge else top, number, index))
    needed = max(2, 0.4 * len(pages))
    for places in seen.values():
        for top, number, index in places:
            if len({other for near, other, _ in places if abs(near - top) < _SAME_HEIGHT}) >= needed:
                found[number].add(index)
    return found


def is_page_number(row: Iterable[Segment]) -> bool:
    text = _squeezed("".join(segment.text for segment in row))
    return bool(re.fullmatch(r"[-–—·|第页page共of/总\d()]*\d[-–—·|第页page共of/总\d()]*|[ivxl]{1,6}", text))


# --- the title -------------------------------------------------------------------------------------------------------


def sensible_title(title: str) -> str:
    """The title in a file's metadata, "" if a program put a file name or nothing there."""
    title = _PROGRAM.sub("", " ".join(title.split()))
    if len(title) < 2 or len(title) > 200 or _FILE_NAME.match(title) or _UNTITLED.match(title) or "\ufffd" in title:
        return ""
    return title if re.search(r"[^\W\d_]{2}", title) else ""
